"""ASD by rule on the questions of UCIT and MLLM-DCL, as they are published."""

import pytest

from sefe_plugin.answers.styles import MULTIPLE_CHOICE, SHORT_ANSWER
from sefe_plugin.asd import Sample, diversify
from sefe_plugin.asd.rules import native_style


LETTER = "Answer with the option's letter from the given choices directly."
WORD = "Answer the question using a single word or phrase."
#: Task -> questions with their answers, native style, and what an answer's option says.
TASKS = {
    "ArxivQA": (f"Which curve?\nA) red\nB) blue\nRationale:It ends above.\n{LETTER}", "AB", ("red", "blue")),
    "ArxivQA periods": (f"Which curve?\nA. red\nB. blue\nRationale:It ends above.\n{LETTER}", "AB", ("red", "blue")),
    "ArxivQA brackets": (f"Which curve?\n(A) red\n(B) blue\n{LETTER}", "AB", ("red", "blue")),
    "IconQA": (f"Is it round?\n0. no\n1. yes it is\n{LETTER}", "01", ("no", "yes it is")),
    "Sci": (f"Which is it?\nA.Eagle\nB.Owl\n{LETTER}", "AB", ("Eagle", "Owl")),
    "Fin": ("What is the trend? A. up B. down", "AB", ("up", "down")),
}


@pytest.mark.parametrize("task", TASKS)
def test_options_however_they_are_written(task):
    question, marks, texts = TASKS[task]
    samples = [Sample(f"<image>\n{question}", marks[i % 2]) for i in range(16)]
    assert native_style(samples) == MULTIPLE_CHOICE
    rewritten, origins = diversify(samples, 0.5, seed=1)
    assert len(origins) == 8
    short = [origin.index for origin in origins if origin.style == SHORT_ANSWER]
    assert short
    for index in short:
        assert rewritten[index].answer == texts[index % 2]
        assert rewritten[index].question.endswith(f"?\n{WORD}") or "Rationale" in rewritten[index].question
        assert not any(text in rewritten[index].question for text in texts)


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        (f"Is there a vineyard? \n{WORD}", ("yes", "no", "4", "110 m2")),
        ("is the liver seen?", ("yes", "no", "liver", "spleen")),
        (f"What is the object in the image?\n{WORD}", ("goldfish", "zebra", "teapot", "hammer")),
        (f"How many cubes are left?\n{WORD}", ("1", "2", "3", "4")),
    ],
    ids=["RS", "Med", "ImageNet-R", "CLEVR-Math"],
)
def test_short_answers(question, answers):
    samples = [Sample(f"<image>\n{question}", answers[i % 4]) for i in range(40)]
    assert native_style(samples) == SHORT_ANSWER
    assert len(diversify(samples, 0.2, seed=1)[1]) == 8


def test_captions_are_told_from_short_answers_and_refused():
    question = "<image>\nWhat is happening in the image?\nGenerate a brief caption for the image."
    samples = [Sample(question, f"a man with {i} dogs runs on the wet grass") for i in range(10)]
    with pytest.raises(ValueError, match="cannot be shortened by rule; let a model write"):
        diversify(samples, 0.2, seed=1)
