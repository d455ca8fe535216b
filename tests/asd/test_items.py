import pytest

from sefe_plugin.asd.items import Sample, UnsuitableSampleError, parse_item
from sefe_plugin.asd.styles import MULTIPLE_CHOICE, SHORT_ANSWER


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
