import pytest

from sefe_plugin.asd.items import (
    Sample,
    UnsuitableSampleError,
    answer_kind,
    option_letter,
    parse_item,
    split_options,
    split_question,
)
from sefe_plugin.asd.styles import FORMAT_LINES, MULTIPLE_CHOICE, SHORT_ANSWER, STYLES


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


def test_the_right_options_text_is_the_gold():
    item = parse_item(Sample("<image>\nWhich?\nA. one\nB. two", "B"), MULTIPLE_CHOICE)
    assert (item.head, item.stem, item.gold, item.options) == ("<image>\n", "Which?", "two", ("one", "two"))


@pytest.mark.parametrize(
    ("native", "question", "answer"),
    [
        (MULTIPLE_CHOICE, "Which?\nA. one\nB. two", "C"),
        (MULTIPLE_CHOICE, "Which?\nA. one\nB. two", "one"),
        (MULTIPLE_CHOICE, "Which?", "A"),
        (SHORT_ANSWER, "Which?", " "),
        (SHORT_ANSWER, "<image>\n", "cat"),
        ("box", "Please provide the bounding box of the cat.", "[0.1, 0.2, 0.3, 0.4]"),
        ("box", "The box described by the sentence 'cat' in the format [x1, y1, x2, y2].", "0.1, 0.2"),
    ],
)
def test_samples_without_their_parts_are_unsuitable(native, question, answer):
    with pytest.raises(UnsuitableSampleError):
        parse_item(Sample(question, answer), native)


@pytest.mark.parametrize(
    ("wording", "sentence"),
    [
        ("region described by the sentence 'the dog's bowl' in the format [x1, y1, x2, y2].", "the dog's bowl"),
        ("bounding box coordinate of the region this sentence describes: left zebra", "left zebra"),
        ("bounding box coordinate of the region described by the sentence: left zebra.", "left zebra"),
    ],
)
def test_wordings_of_grounding(wording, sentence):
    assert parse_item(Sample(f"<image>\nPlease: {wording}", "[0.1, 0.2, 0.3, 0.4]"), "box").stem == sentence


def test_the_question_is_told_from_context_and_hints():
    def question(text):
        return parse_item(Sample(text, "x"), SHORT_ANSWER).question

    assert question("What is\nit?\nContext: long\nand longer") == "What is it?"
    assert question("Context: long\nand longer\nWhat is it?") == "What is it?"
    assert question("What?\nReference OCR token: a, b") == "What?"
