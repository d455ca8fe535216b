"""Options in questions, whatever their marks, and the option that an answer chooses."""

import pytest

from sefe_plugin.answers.options import chosen_option, may_be_mark, mentions_options, named_option, read_options


def split(stem, numbers=False):
    options = read_options(stem, numbers)
    return options.stem, options.texts


def test_options_are_the_last_block_of_lettered_lines():
    stem = "Who is right?\nContext: A. Smith says yes.\nB. Jones says no.\nA. Smith\nB. Jones\nC. nobody"
    question, options = split(stem)
    assert options == ("Smith", "Jones", "nobody")
    assert question == "Who is right?\nContext: A. Smith says yes.\nB. Jones says no."
    assert split("Q\n(A) one\n(B) two\nContext: N/A") == ("Q\nContext: N/A", ("one", "two"))


def test_only_line_feeds_end_an_option():
    for sign in "\u2028\x85\x0b\r":
        assert split(f"Q\nA. one{sign}more\nB. two") == ("Q", (f"one{sign}more", "two"))
    assert split("Q\r\nA. one\r\nB. two\r\nThen?") == ("Q\nThen?", ("one", "two"))


@pytest.mark.parametrize(
    "options",
    [
        "A. one\nmore of it\nB. two\nC. three",
        "A. one\nB. two\nmore of it\nC. three",
        "A. one\n\nB. two",
        "A. Smith says yes.\nB. Jones says no.\nWho?\nA. Smith\nor so\nB. Jones",
    ],
)
def test_options_with_lines_between_them_cannot_be_told(options):
    stem = f"Which?\n{options}"
    assert split(stem) == (stem, ())


def test_one_lettered_line_is_no_choice():
    assert split("Who is\nA. Smith") == ("Who is\nA. Smith", ())


STATES = ("Maine", "Ohio", "Utah")


@pytest.mark.parametrize(
    "options",
    [
        "(A) Maine (B) Ohio (C) Utah",
        "A. Maine B. Ohio C. Utah",
        "A.Maine;B.Ohio;C.Utah",
        "A) Maine, B) Ohio, C) Utah",
        "A、Maine\nB、Ohio\nC、Utah",
        "A\uff0eMaine　B\uff0eOhio　C\uff0eUtah",
        "\uff21\uff0eMaine\n\uff22\uff0eOhio\n\uff23\uff0eUtah",
        "A\uff1aMaine\nB\uff1aOhio\nC\uff1aUtah",
        "\uff08A\uff09Maine\uff08B\uff09Ohio\uff08C\uff09Utah",
        "[A] Maine [B] Ohio [C] Utah",
        "a) Maine\nb) Ohio\nc) Utah",
        "(a) Maine (b) Ohio (c) Utah",
        "A. Maine B. Ohio\nC. Utah",
        "A. Maine\nB. Ohio C. Utah",
        "Options: (A) Maine (B) Ohio (C) Utah",
        "Choices: A. Maine\nB. Ohio\nC. Utah",
        "选项\uff1aA、Maine B、Ohio C、Utah",
    ],
)
@pytest.mark.parametrize("joint", ["\n", " "])
def test_options_are_read_however_they_are_marked(options, joint):
    assert split(f"Which is it?{joint}{options}") == ("Which is it?", STATES)


def test_an_abbreviation_in_the_last_option_is_no_option():
    assert split("Which?\nA. Ohio\nB. Utah\nC. Washington, D.C.") == ("Which?", ("Ohio", "Utah", "Washington, D.C."))
    assert split("Which?\nA. Ohio\nB. vitamin C.") == ("Which?", ("Ohio", "vitamin C."))


def test_a_heading_of_the_list_goes_with_it():
    assert split("Which?\nOptions:\nA. one\nB. two") == ("Which?", ("one", "two"))
    assert split("Which?\nOptions:\nA. one\nB. two\nThink.") == ("Which?\nThink.", ("one", "two"))


def test_many_lines_take_no_long_time():
    stem = "Which?\n" + "A. one\n" * 100_000
    assert read_options(stem, numbers=True).texts == ()
    letters = [f"{chr(ord('A') + i)}. text {i}" for i in range(26)]
    assert len(read_options("\n".join(["Which?", *letters])).texts) == 26


def test_text_behind_a_list_stays_with_the_question():
    assert split("Which?\na) one\nb) two\nThink first.") == ("Which?\nThink first.", ("one", "two"))


def test_numbers_are_options_only_where_they_may_be():
    stem = "How many of these can fly?\n1. a hen\n2. a cow\n3. 1.5 cats"
    assert split(stem) == (stem, ())
    assert split(stem, numbers=True) == ("How many of these can fly?", ("a hen", "a cow", "1.5 cats"))


@pytest.mark.parametrize("options", ["0. no\n1. yes", "0) no\n1) yes", "0. no 1. yes"])
def test_numbers_may_start_at_zero(options):
    """IconQA's options, whose numbers are the answers."""
    read = read_options(f"Is it round?\n{options}", numbers=True)
    assert read == ("Is it round?", ("0", "1"), ("no", "yes"))
    assert [chosen_option(read, answer) for answer in ("0", "1", "1. yes", "2")] == [0, 1, 1, None]
    assert read_options("Which?\n0. no\n2. yes", numbers=True).texts == ()


@pytest.mark.parametrize(
    "stem",
    [
        "Which is larger, (A) or (B) in the picture?",
        "Which is larger? (A) or (B)",
        "Points (A), (B) and (C) are shown. Which is it?",
        "Who? A. Dr. B. Smith B. Jones",
        "Who is it? A. Lincoln",
        "Which? B. one C. two",
        "Which? (A) one B. two",
        "Which? (A) one\n\n(B) two",
        "Which? (A) one (B) two. Answer with the letter.",
        "A: Hello!\nB: Good morning!\nWho is polite?",
        "Vitamin A. and vitamin B. are here.",
        "Which? (A) (B) (C)",
    ],
)
def test_what_is_not_sure_is_not_read(stem):
    assert split(stem, numbers=True) == (stem, ())


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        *(
            (answer, 1)
            for answer in (
                "B",
                "b",
                "B.",
                "(B)",
                "\uff08\uff22\uff09",
                "B、",
                "B。",
                "B. Ohio",
                "(B) Ohio",
                "B: ohio.",
                "B、Ohio",
            )
        ),
        *(
            (answer, None)
            for answer in ("D", "Ohio", "B. Utah", "BB", "B Ohio", "B. Ohioan", "", "the answer is B", "2")
        ),
    ],
)
def test_an_answer_chooses_by_mark_and_never_against_its_own_text(answer, place):
    assert chosen_option(read_options("Which? (A) Maine (B) Ohio (C) Utah"), answer) == place


def test_an_answer_names_the_one_option_with_its_text():
    options = read_options("Which?\nA. the cat\nB. Dog.\nC. a dog\nD. 白色")
    assert [named_option(options, answer) for answer in ("Cat", "dog", "hen", "白色。")] == [0, None, None, 3]


@pytest.mark.parametrize(
    ("stem", "answer", "unclear"),
    [
        ("Which?", "B", True),
        ("Which?", "(b)", True),
        ("Which?", "x", False),
        ("Which?", "B. two", False),
        ("How many?", "3", False),
        ("How many fruits?\n1. apple\n2. car", "1", True),
        ("How many fruits?\n1. apple\n2. car", "4", False),
    ],
)
def test_marks_that_may_be_answers_are_unclear(stem, answer, unclear):
    assert may_be_mark(stem, answer) == unclear


def test_options_that_cannot_be_read_are_noticed():
    assert mentions_options("Which? A-Maine B-Ohio") and mentions_options("Which? a= one b= two")
    assert not mentions_options("Is type A older than type B?") and not mentions_options("A. Smith?")
