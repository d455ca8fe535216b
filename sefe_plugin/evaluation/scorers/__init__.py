"""Scorers of test sets, by the names that a task's `scorer` takes; docs/scorers.md shows each by examples."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sefe_plugin.evaluation.scorers.base import RecordScorer, Score, Scorer, SetScore
from sefe_plugin.evaluation.scorers.registry import (
    NO_SCORER,
    SCORERS,
    Spec,
    known_scorers,
    plain_spec,
    read_spec,
    scorer_of,
    scorers,
    settled_spec,
    spec_faults,
    spec_text,
)


__all__ = [
    "NO_SCORER",
    "SCORERS",
    "RecordScorer",
    "Score",
    "Scorer",
    "SetScore",
    "Spec",
    "judge_predictions",
    "known_scorers",
    "plain_spec",
    "read_spec",
    "score_predictions",
    "scorer_of",
    "scorers",
    "settled_spec",
    "spec_faults",
    "spec_text",
]


def score_predictions(scorer: Spec, predictions: Sequence[str], records: Sequence[Mapping]) -> SetScore:
    """Score the answers to a whole test set.

    Args:
        scorer: A name in `scorers()`, or a mapping of its name and its options.
        predictions: The answers, in the order of the records.
        records: Test records as in CoIN's files: "answer", or "answer_bbox" for boxes; optional "num_choices".

    Raises:
        ValueError: For an unknown scorer, no records, other numbers of predictions and records, or a bad record.

    Example:
        >>> score_predictions("yes_no", ["Yes", "yes", "Yes, a cat", "No"], [{"answer": "Yes"}] * 4)
        SetScore(accuracy=50.0, format=75.0, count=4, stderr=25.0, lenient=75.0, parts=None)
    """
    with _named(scorer, predictions, records) as own:
        return own.score(predictions, records)


def judge_predictions(scorer: Spec, predictions: Sequence[str], records: Sequence[Mapping]) -> list[Score] | None:
    """Say what each answer to a test set is worth; their mean is what `score_predictions` returns.

    Args:
        scorer: As in `score_predictions`.
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
def _named(scorer: Spec, predictions: Sequence[str], records: Sequence[Mapping]) -> Iterator[Scorer]:
    """Give the scorer of that name, after a look at what it is to score, and name it in its errors."""
    own = scorer_of(scorer)
    if len(predictions) != len(records) or not records:
        raise ValueError(
            f"each test record needs one prediction and there must be some, got {len(predictions)} predictions "
            f"for {len(records)} records"
        )
    try:
        yield own
    except ValueError as error:
        raise ValueError(f"scorer {spec_text(scorer)!r}, {error}") from error
