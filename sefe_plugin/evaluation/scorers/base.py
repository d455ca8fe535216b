"""The interface of a scorer: what a whole test set's answers are worth."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sefe_plugin.evaluation.scorers.golds import as_text


#: The largest accuracy, in percent: a mean of caption metrics, of which CIDEr may be 1000.
MOST_ACCURACY = 250.0


@dataclass(frozen=True)
class Score:
    """What one answer is worth.

    Attributes:
        correct: In [0, 1].
        formatted: Whether the answer has its task's format.
    """

    correct: float
    formatted: bool


@dataclass(frozen=True)
class SetScore:
    """What the answers to a test set are worth.

    Attributes:
        accuracy: In percent; scores of a whole corpus may exceed 100. None where nothing is scored.
        format: Share of answers in their task's format, in percent; None where format cannot be told from content.
        count: Number of answers.
        stderr: Standard error of the accuracy, in points of percent: how far another draw of as many test records
            moves it. None where the scorer does not tell it.
        lenient: Accuracy in percent as a reader would count it, whatever the format of the answers: at least the
            accuracy. None where the scorer makes no such difference.
        parts: What the accuracy is the mean of, by name, in percent; None where it is one number alone.
    """

    accuracy: float | None
    format: float | None
    count: int
    stderr: float | None = None
    lenient: float | None = None
    parts: Mapping[str, float] | None = None


@dataclass
class NoOptions:
    """The options of a scorer that has none."""


def standard_error(scores: Sequence[float]) -> float:
    """Return the standard error of a mean: the standard deviation of its parts over the root of their number.

    Where every part is 0 or 1 this is the binomial sqrt(p (1 - p) / n).

    Example:
        >>> standard_error([1.0, 1.0, 0.0, 1.0]), (0.75 * 0.25 / 4) ** 0.5
        (0.21650635094610965, 0.21650635094610965)
    """
    mean = math.fsum(scores) / len(scores)
    return math.sqrt(math.fsum((score - mean) ** 2 for score in scores)) / len(scores)


class Scorer(ABC):
    """Scores test sets.

    Attributes:
        gold: The field of a test record that holds the gold answer; filled in from the response where it is absent.
        alternatives: Other fields that can stand in its place.
        tells_format: Whether format can be told from content.
        style: The answer style that it reads, one of `STYLES` or "box"; None where it takes answers of several.
        needs_gold: Whether a record without a gold answer is at fault.
        options: What a recipe may set, a dataclass whose fields `sefe_plugin.options.option` made.
        asks: Whether scoring asks a server, so that nothing is scored for trial.
    """

    gold: str = "answer"
    alternatives: tuple[str, ...] = ()
    tells_format: bool = True
    style: str | None = None
    needs_gold: bool = True
    options: Any = NoOptions()
    asks: bool = False

    def with_options(self, **values: Any) -> Scorer:
        """Return the same scorer with other options."""
        scorer = copy.copy(self)
        scorer.options = replace(self.options, **values)
        return scorer

    def option_faults(self) -> list[str]:
        """List what is wrong with its options beyond each one's own rule, one sentence each."""
        return []

    def setup_faults(self) -> list[str]:
        """List what it needs on this machine and does not find, one sentence each; asked before a run starts."""
        return []

    def settled_options(self) -> dict[str, Any]:
        """Return the options that a run records otherwise than written, so that no working folder counts."""
        return {}

    @abstractmethod
    def check(self, record: Mapping) -> None:
        """Check that a record can be scored: repeating its gold answer must be right, and silence wrong.

        Raises:
            ValueError: With what the record lacks.
        """

    def best_answer(self, record: Mapping) -> str:
        """Return the answer to a record that is worth most: the gold answer, or the best of several.

        Raises:
            ValueError: With what the record lacks.
        """
        field = next((name for name in self.alternatives if name in record), self.gold)
        self.score([""], [record])  # reads the record
        golds = [*map(as_text, record[field] if isinstance(record[field], list) else [record[field]])]
        return max(golds, key=lambda gold: self.score([gold], [record]).accuracy)

    def judge(self, predictions: Sequence[str], records: Sequence[Mapping]) -> list[Score] | None:
        """Say what each answer is worth; None where only a whole test set can be scored.

        Args:
            predictions: The answers, in the order of the records.
            records: Test records.

        Raises:
            ValueError: For a bad record; names its number, from 0.
        """
        return None

    @abstractmethod
    def score(self, predictions: Sequence[str], records: Sequence[Mapping]) -> SetScore:
        """Score the answers to a whole test set.

        Args:
            predictions: The answers, in the order of the records.
            records: At least one test record.

        Raises:
            ValueError: For a bad record; names its number, from 0.
        """


class RecordScorer(Scorer):
    """Scores every record by itself, and averages.

    Args:
        rule: From an answer and its record to what it is worth; with `options` these are its third argument.
        wanted: What a gold answer has to be, in words.
        gold: As in `Scorer`.
        alternatives: As in `Scorer`.
        style: As in `Scorer`.
        lenient: From an answer and its record to what a reader would give for it, in [0, 1]; with `options` these are
            its third argument. None for no such count.
        options: As in `Scorer`.
        tells_format: As in `Scorer`.
    """

    def __init__(
        self,
        rule: Callable[..., Score],
        wanted: str,
        gold: str = "answer",
        alternatives: tuple[str, ...] = (),
        style: str | None = None,
        lenient: Callable[..., float] | None = None,
        options: Any = None,
        tells_format: bool = True,
    ):
        self._rule, self.wanted, self.gold = rule, wanted, gold
        self.alternatives, self.style, self.tells_format = alternatives, style, tells_format
        self._lenient = lenient
        if options is not None:
            self.options = options

    @property
    def rule(self) -> Callable[[str, Mapping], Score]:
        """The rule with these options: from an answer and its record to what it is worth."""
        return self._with_own(self._rule)

    @property
    def lenient(self) -> Callable[[str, Mapping], float] | None:
        """The lenient count with these options; None where there is none."""
        return self._lenient and self._with_own(self._lenient)

    def _with_own(self, rule: Callable) -> Callable:
        return rule if isinstance(self.options, NoOptions) else partial(rule, options=self.options)

    def check(self, record: Mapping) -> None:
        """Let the rule score silence and the best answer."""
        silence = self.rule("", record)
        best = self.best_answer(record)
        score = self.rule(best, record)
        if not score.correct or not score.formatted or silence.correct:
            raise ValueError(f"its gold answer must be {self.wanted}, or no answer would be right; got {best!r}")

    def judge(self, predictions: Sequence[str], records: Sequence[Mapping]) -> list[Score]:
        """Let the rule score each answer."""
        scores = []
        for index, (prediction, record) in enumerate(zip(predictions, records, strict=True)):
            try:
                scores.append(self.rule(prediction, record))
            except ValueError as error:
                raise ValueError(f"test record {index}: {error}") from error
        return scores

    def score(self, predictions: Sequence[str], records: Sequence[Mapping]) -> SetScore:
        """Average over all records."""
        scores = self.judge(predictions, records)
        count = len(scores)
        return SetScore(
            100 * math.fsum(score.correct for score in scores) / count,
            100 * sum(score.formatted for score in scores) / count if self.tells_format else None,
            count,
            100 * standard_error([score.correct for score in scores]),
            self._lenient_accuracy(predictions, records, scores),
        )

    def _lenient_accuracy(
        self, predictions: Sequence[str], records: Sequence[Mapping], scores: Sequence[Score]
    ) -> float | None:
        """Let a reader count what is not fully right already, in percent."""
        if self.lenient is None:
            return None
        worth = [
            score.correct if score.correct == 1 else max(score.correct, self.lenient(prediction, record))
            for prediction, record, score in zip(predictions, records, scores, strict=True)
        ]
        return 100 * math.fsum(worth) / len(worth)


class NoScorer(Scorer):
    """Scores nothing: the answers are written down, and nobody can say what they are worth.

    A gold answer is kept beside them where a record has one, so that another scorer can read it later.
    """

    needs_gold = False

    def check(self, record: Mapping) -> None:
        """Take every record."""

    def best_answer(self, record: Mapping) -> str:
        """Return the gold answer; nothing where the record has none that is a text."""
        gold = record.get(self.gold)
        return gold if isinstance(gold, str) else ""

    def score(self, predictions: Sequence[str], records: Sequence[Mapping]) -> SetScore:
        """Count the answers."""
        return SetScore(None, None, len(predictions))
