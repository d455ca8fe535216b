import pytest

from sefe_plugin.asd.styles import FORMAT_LINES, SHORT_ANSWER, STYLES
from sefe_plugin.asd.texts import answer_kind, option_letter, split_options, split_question


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("head", ["", "<image>\n", "<image>", "<image>\n<image>\n", "<video>\n"])
@pytest.mark.parametrize("joint", ["\n", " ", "\r\n"])
def test_head_question_and_line_are_told_apart(head, style, joint):
    line = FORMAT_LINES[style]
    assert split_question(f"{head}What is it?{joint}{line}") == (head, "What is it?", style)
    assert split_question(f"{head}What is it?{joint}{line}\n{line}\n") == (head, "What is it?", style)


def test_a_question_without_a_line_has_no_style():
    assert split_question("Is it red?\nAnswer me.") == ("", "Is it red?\nAnswer me.", None)


def test_a_placeholder_at_the_end_moves_to_the_front():
    text = f"What is it?\n{FORMAT_LINES[SHORT_ANSWER]}\n<image>"
    assert split_question(text) == ("<image>\n", "What is it?", SHORT_ANSWER)


def test_a_placeholder_within_the_question_stays():
    assert split_question("Compare <image> with this.")[:2] == ("", "Compare <image> with this.")


def test_options_are_the_last_block_of_lettered_lines():
    stem = "Who is right?\nContext: A. Smith says yes.\nB. Jones says no.\nA. Smith\nB. Jones\nC. nobody"
    question, options = split_options(stem)
    assert options == ("Smith", "Jones", "nobody")
    assert question == "Who is right?\nContext: A. Smith says yes.\nB. Jones says no."
    assert split_options("Q\n(A) one\n(B) two\nContext: N/A") == ("Q\nContext: N/A", ("one", "two"))


def test_one_lettered_line_is_no_choice():
    assert split_options("Who is\nA. Smith") == ("Who is\nA. Smith", ())


@pytest.mark.parametrize("answer", ["B", "B.", "(B)", "B. two", "B: two", " B\n"])
def test_letters_are_read(answer):
    assert option_letter(answer) == "B"


@pytest.mark.parametrize("answer", ["", "b", "Bob", "B two", "AB", "the answer is B"])
def test_other_answers_have_no_letter(answer):
    assert option_letter(answer) is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        *[(answer, "yes_no") for answer in ("yes", "No.", " YES ")],
        *[(answer, "number") for answer in ("3", "12:30", "$5.99", "50%", "1,000", "-2")],
        *[(answer, "words") for answer in ("two dogs", "2 dogs", "")],
        ("[0.1, 0.2, 0.3, 0.4]", "box"),
    ],
)
def test_kinds(answer, kind):
    assert answer_kind(answer) == kind
