"""What a reader takes replies for, in the forms that models write."""

# ruff: noqa: RUF001 - full-width signs are what is read here

import pytest

from sefe_plugin.answers.any_box import as_shares, box_in
from sefe_plugin.answers.distance import common_length, edit_distance, similarity
from sefe_plugin.answers.numbers import Quantity, quantities_in, read_quantity
from sefe_plugin.answers.options import Options
from sefe_plugin.answers.reading import holds_words, said_option, said_quantity, said_yes_no, says_phrase, unwrapped


OPTIONS = Options("Which?", ("A", "B", "C"), ("a cat", "a dog", "two dogs"))


@pytest.mark.parametrize(
    "reply",
    [
        *("B", "b", "B.", "(B)", "B)", "[B]", "B:", " B\n", "B. a dog", "(B) a dog", "b) a dog", "（Ｂ）", "Ｂ"),
        *(
            "**B**",
            "**Answer: B**",
            "Answer: B",
            "answer: b",
            "The answer is B.",
            "The answer is (B) because it barks.",
        ),
        *("The correct answer is **(B)**.", "So the final answer is \\boxed{B}.", "$\\boxed{\\text{B}}$", "Option B"),
        *("I think it is (B).", "a dog", "A dog.", "The answer is a dog.", '"B"', "B because it barks", "B, I think"),
        *(
            "B because it is not a cat",
            "It is option B, since A is wrong",
            "(B) because A cannot bark",
            "B. not A cat",
        ),
        *("It must be option B, as it barks.", "Answer:\nB", "### Answer\nB", "Not a cat, so the answer is B"),
    ],
)
def test_an_option_is_read_in_every_form(reply):
    assert said_option(reply, OPTIONS) == "B"


@pytest.mark.parametrize(
    "reply",
    [
        *(
            "",
            "A or B",
            "A, B",
            "(A) or (B)",
            "D",
            "It barks.",
            "A cat or a dog",
            "I do not know.",
            "A/B",
            "Bdog",
            "1.5",
        ),
        *("It is not option A", "It isn't (A).", "The answer is not option A", "B is wrong; it's A", "option A or B"),
        *("A. No, it is B.", "Option A is incorrect"),
    ],
)
def test_no_option_is_read_where_a_reply_names_none_or_several(reply):
    assert said_option(reply, OPTIONS) is None


def test_options_by_number_and_without_their_texts():
    numbered = Options("Is it?", ("0", "1"), ("no", "yes"))
    assert [said_option(reply, numbered) for reply in ("0", "(1)", "1. yes", "yes", "The answer is 0.")] == [*"01110"]
    assert [said_option(reply) for reply in ("b", "Answer: C", "a dog", "I see")] == ["B", "C", None, None]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        *[(text, "yes") for text in ("Yes", "yes.", "**Yes**", "Yes, it is.", "The answer is yes.", "Yeah", "YES!")],
        *[(text, "no") for text in ("No", "No, there is none.", "I would say no.", "Answer: no", "nope")],
        *[(text, None) for text in ("", "Maybe", "It is yes or no.", "notable", "Eyes", "It is red.")],
        *[(text, None) for text in ("Not yes", "There is no doubt that it rose.", "No doubt it rose", "Yes and no")],
        *[(text, None) for text in ("It isn't a no.", "It is No. 5", "Some say yes, some say no.", "red, no?")],
        *[(text, "no") for text in ('I say "no".', "It is not a yes, it is a no", "I say no because it fell")],
    ],
)
def test_yes_and_no_are_read_in_sentences(reply, said):
    assert said_yes_no(reply) == said


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        *[(text, Quantity(3)) for text in ("3", "three", "Three.", " 3 ", "3.0", "+3", "３", "**3**", "6/2")],
        *[("1,200", Quantity(1200)), ("1,200.5", Quantity(1200.5)), ("3,5", Quantity(3.5)), ("-2", Quantity(-2))],
        *[("\u22122", Quantity(-2)), (".5", Quantity(0.5)), ("1e3", Quantity(1000)), ("0", Quantity(0))],
        *[("twenty-one", Quantity(21)), ("one hundred and five", Quantity(105)), ("a thousand", Quantity(1000))],
        *[("two thousand three hundred", Quantity(2300)), ("1.5 million", Quantity(1.5e6)), ("zero", Quantity(0))],
        *[("$1,200", Quantity(1200, "dollar")), ("5%", Quantity(5, "percent")), ("5 percent", Quantity(5, "percent"))],
        *[("3 dogs", Quantity(3, "dog")), ("2 kg", Quantity(2, "kg")), ("2 kilograms", Quantity(2, "kg"))],
        *[("20 °C", Quantity(20, "celsius")), ("5 km/h", Quantity(5, "km/h")), ("7 square meters", Quantity(7, "m2"))],
        *[
            (text, None)
            for text in ("", "many", "There are 3", "3 or 4", "1/0", "9" * 400, "3 dogs and 2 cats", "12:30")
        ],
    ],
)
def test_quantities(text, quantity):
    assert read_quantity(text) == quantity


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        *[("There are three dogs.", 3), ("3 + 4 = 7", 7), ("The answer is 12.", 12), ("**12**", 12), ("12 dogs", 12)],
        *[("3 of the 3 dogs", 3), ("It costs $1,200 a year", 1200), ("Between 3 and 4", None), ("none here", None)],
        *[("It is not 5.", None), ("It isn't 5", None), ("2 + 3 = 5, not", None), ("5 dogs because none fell", 5)],
    ],
)
def test_numbers_are_read_in_sentences(reply, value):
    found = said_quantity(reply)
    assert (found and found.value) == value


def test_all_numbers_of_a_text():
    assert [one.value for one in quantities_in("In 2019 there were 1,200 dogs, 5% more.")] == [2019, 1200, 5]


@pytest.mark.parametrize(
    "text",
    [
        *("[10, 20, 30, 40]", "(10, 20, 30, 40)", "10, 20, 30, 40", "10 20 30 40", "<box>(10,20),(30,40)</box>"),
        *("<box>10 20 30 40</box>", "The dog is at [10, 20, 30, 40].", "x1: 10, y1: 20, x2: 30, y2: 40"),
        *('{"bbox_2d": [10, 20, 30, 40], "label": "dog"}', '[{"bbox": [10, 20, 30, 40]}]', "[[10, 20, 30, 40]]"),
        *('```json\n{"x1": 10, "y1": 20, "x2": 30, "y2": 40}\n```', '{"xmin":10,"ymin":20,"xmax":30,"ymax":40}'),
        *("[10, 20, 30, 40] or, once more, [10.0, 20.0, 30.0, 40.0]", "dog: [10,20,30,40]", "[10;20;30;40]"),
    ],
)
def test_boxes_are_read_in_every_form(text):
    assert box_in(text) == (10, 20, 30, 40)


@pytest.mark.parametrize(
    "text", ["", "10, 20, 30", "[1, 2, 3, 4] and [5, 6, 7, 8]", "a dog", "[" * 5000, '{"a": "b"}', "[1e999, 0, 0, 1]"]
)
def test_no_box_is_read_where_there_is_none_or_there_are_several(text):
    assert box_in(text) is None


def test_boxes_of_every_unit_are_shares():
    share = (0.1, 0.2, 0.5, 1.0)
    boxes = {"share": share, "percent": (10, 20, 50, 100), "thousandth": (100, 200, 500, 1000)}
    for unit, box in boxes.items():
        assert as_shares(box, unit) == pytest.approx(share)
    assert as_shares((20, 20, 100, 100), "pixel", (200, 100)) == pytest.approx(share)


@pytest.mark.parametrize(
    ("reply", "golds", "said"),
    [
        *[
            (text, ["red"], True)
            for text in ("red", "Red.", "**red**", "It is red.", "The answer is: Red", "a red car")
        ],
        *[(text, ["red"], False) for text in ("", "reddish", "It is not red.", "red or blue", "blue", "isn't red")],
        *[("two", ["2"], True), ("2 dogs", ["two dogs"], True), ("stop", ["go", "Stop"], True)],
        *[("No, it is not.", ["no"], True), ("piano bar", ["no"], False), ("Yes.", ["no"], False)],
    ],
)
def test_phrases_are_read_in_sentences(reply, golds, said):
    assert says_phrase(reply, golds) is said


def test_words_are_whole():
    assert holds_words("(in $1,200)", "$1,200")
    assert not holds_words("110 m2", "10")
    assert not holds_words("anything", "")


def test_wrappings_go():
    assert unwrapped("`red`") == "red"
    assert unwrapped("the answer") == "the answer"
    assert unwrapped("Answer:") == "Answer:"


def test_distances():
    assert (edit_distance("", ""), edit_distance("abc", "abc"), edit_distance("abc", "")) == (0, 0, 3)
    assert (similarity("", ""), similarity("a", "b")) == (1, 0)
    assert (common_length("abcd", "xbxd"), common_length("", "a")) == (2, 0)
