"""Scorers of test sets, by the names that a task's `scorer` takes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sefe_plugin.answers.styles import BRIEF, MULTIPLE_CHOICE, SHORT_ANSWER, YES_NO
from sefe_plugin.answers.texts import BOX
from sefe_plugin.evaluation.scorers.base import NoScorer, RecordScorer, Score, Scorer, SetScore
from sefe_plugin.evaluation.scorers.rules import (
    score_box,
    score_class_name,
    score_explanation,
    score_multiple_choice,
    score_short_answer,
    score_text_vqa,
    score_yes_no,
)


__all__ = [
    "NO_SCORER",
    "SCORERS",
    "RecordScorer",
    "Score",
    "Scorer",
    "SetScore",
    "judge_predictions",
    "score_predictions",
]

#: Name of the scorer that scores nothing: a test set is answered, and that is all.
NO_SCORER = "none"

_WORDS = "a text that is not empty"

SCORERS: dict[str, Scorer] = {
    "multiple_choice": RecordScorer(
        score_multiple_choice, "the letter of one of its `num_choices` options", style=MULTIPLE_CHOICE
    ),
    # letters of options can be scored by it too
    "short_answer": RecordScorer(score_short_answer, _WORDS),
    "text_vqa": RecordScorer(score_text_vqa, _WORDS, alternatives=("answers",), style=SHORT_ANSWER),
    "class_name": RecordScorer(score_class_name, _WORDS, style=SHORT_ANSWER),
    "box": RecordScorer(
        score_box,
        "two corners, [x1, y1, x2, y2] with x1 < x2 and y1 < y2 (no width and height)",
        gold="answer_bbox",
        style=BOX,
    ),
    "yes_no": RecordScorer(score_yes_no, "yes or no", style=YES_NO),
    "explanation": RecordScorer(score_explanation, "at least six words, its `key` among them", style=BRIEF),
    NO_SCORER: NoScorer(),
}


def score_predictions(scorer: str, predictions: Sequence[str], records: Sequence[Mapping]) -> SetScore:
    """Score the answers to a whole test set.

    Args:
        scorer: A name in `SCORERS`.
        predictions: The answers, in the order of the records.
        records: Test records as in CoIN's files: "answer", or "answer_bbox" for boxes; optional "num_choices".

    Raises:
        ValueError: For an unknown scorer, no records, other numbers of predictions and records, or a bad record.

    Example:
        >>> score_predictions("yes_no", ["Yes", "yes", "a cat", "No"], [{"answer": "Yes"}] * 4)
        SetScore(accuracy=50.0, format=75.0, count=4, stderr=25.0)
    """
    with _named(scorer, predictions, records) as own:
        return own.score(predictions, records)


def judge_predictions(scorer: str, predictions: Sequence[str], records: Sequence[Mapping]) -> list[Score] | None:
    """Say what each answer to a test set is worth; their mean is what `score_predictions` returns.

    Args:
        scorer: A name in `SCORERS`.
        predictions: The answers, in the order of the records.
        records: As in `score_predictions`.

    Returns:
        One entry for each answer; None where the scorer scores whole test sets only.

    Raises:
        ValueError: As in `score_predictions`.

    Example:
        >>> judge_predictions("yes_no", ["Yes", "a cat"], [{"answer": "Yes"}] * 2)
        [Score(correct=1.0, formatted=True), Score(correct=0.0, formatted=False)]
    """
    with _named(scorer, predictions, records) as own:
        return own.judge(predictions, records)


@contextmanager
def _named(scorer: str, predictions: Sequence[str], records: Sequence[Mapping]) -> Iterator[Scorer]:
    """Give the scorer of that name, after a look at what it is to score, and name it in its errors."""
    if scorer not in SCORERS:
        raise ValueError(f"unknown scorer {scorer!r}; known: {', '.join(SCORERS)}")
    if len(predictions) != len(records) or not records:
        raise ValueError(
            f"each test record needs one prediction and there must be some, got {len(predictions)} predictions "
            f"for {len(records)} records"
        )
    try:
        yield SCORERS[scorer]
    except ValueError as error:
        raise ValueError(f"scorer {scorer!r}, {error}") from error
