import random

import pytest

from sefe_plugin.answers.styles import DETAILED, FORMAT_LINES, MULTIPLE_CHOICE, SHORT_ANSWER
from sefe_plugin.asd.items import parse_item
from sefe_plugin.asd.rules import AnswerPool, other_styles, rewrite
from sefe_plugin.data.sample import Sample, UnsuitableSampleError


LINE = FORMAT_LINES[SHORT_ANSWER]


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
        ("box", "The box described by the sentence '' in the format [x1, y1, x2, y2].", "[0.1, 0.2, 0.3, 0.4]"),
        ("box", "The box described by the sentence: ", "[0.1, 0.2, 0.3, 0.4]"),
        ("box", "The box described by the sentence: the <image> cat", "[0.1, 0.2, 0.3, 0.4]"),
        (SHORT_ANSWER, "<image>\nWhich?", "<image>"),
        (MULTIPLE_CHOICE, "Which?\nA. <image>\nB. <image>", "A"),
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


@pytest.mark.parametrize(
    ("question", "quoted"),
    [
        (f"Compare <image> with <image>. Which?\n{LINE}", "Compare image 1 with image 2. Which?"),
        (f"<image>\nCompare it with <image>.\n{LINE}", "Compare it with image 2."),
        (f"What is it?\n<image>\n{LINE}", "What is it?"),
        (f"Context: none\n<image>\nWhat is it?\n{LINE}", "What is it?"),
        (f"<image>\nWhat is\n<video>\nthis?\n{LINE}", "What is this?"),
    ],
)
def test_placeholders_stay_in_the_users_text_alone(question, quoted):
    samples = [Sample(question, answer) for answer in ("cat", "dog", "hen", "cow")]
    pool = AnswerPool(samples, SHORT_ANSWER)
    for style in other_styles(SHORT_ANSWER):
        made = rewrite(samples[0], style, pool, random.Random(0))
        for placeholder in ("<image>", "<video>"):
            assert made.question.count(placeholder) == question.count(placeholder)
            assert placeholder not in made.answer
        assert made.question.endswith(f"\n{FORMAT_LINES[style]}") and LINE not in made.question
        if style == DETAILED:
            assert made.answer == f"The question is: {quoted} Looking at the image, the answer is cat."


def test_a_region_keeps_all_placeholders():
    text = "In <image> and <image>, give the box of the region described by the sentence 'x' in the format [a]."
    item = parse_item(Sample(f"<image>\n{text}", "[0.1, 0.2, 0.3, 0.4]"), "box")
    assert (item.head, item.stem) == ("<image>\n" * 3, "x")


def test_without_the_images_size_nothing_is_said_of_place_and_size():
    sample = Sample("The region described by the sentence: zebra", "[10, 20, 30, 40]")
    item = parse_item(sample, "box", shares=False)
    assert item.brief() == "The region is [10, 20, 30, 40]."
    assert item.detailed() == (
        "The sentence to find is 'zebra'. Looking at the image, the region that it describes is [10, 20, 30, 40]."
    )
