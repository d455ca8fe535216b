"""What a page shows of a run beside its report: the answers to each test set, what the tasks took, the recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sefe_plugin.evaluation.scorers import Score


#: What became of an answer since its task was just learned.
LOST_FORMAT, LOST_CONTENT, REGAINED, UNCHANGED = "f", "c", "r", "."


class Question(NamedTuple):
    """A test record as a person reads it.

    Attributes:
        text: The question.
        gold: The right answer.
        images: Paths of its images, as the record has them.
    """

    text: str
    gold: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageAnswers:
    """The answers to a test set at one stage, in the order of its questions.

    Attributes:
        answers: What is scored of each reply.
        scores: What the scorer says of each; None where it scores whole test sets only.
    """

    answers: Sequence[str]
    scores: Sequence[Score] | None


@dataclass
class SetAnswers:
    """All answers of a run to one test set.

    Attributes:
        name: Of its task, or of the retention set.
        scorer: The name of its scorer.
        retention: Whether it belongs to no task.
        learned: The stage that the others are compared with: after its task, or for a retention set before the first
            task. Its answers may not be there yet.
        media_dir: The folder that the images' paths start from.
        questions: Its questions; none where no answers are there.
        stages: Stage -> answers. A stage is a task by its number from 0, after which it is; -1 is before the first.
        notes: What is missing, and why.
    """

    name: str
    scorer: str
    retention: bool
    learned: int
    media_dir: Path = Path()
    questions: Sequence[Question] = ()
    stages: dict[int, StageAnswers] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def changes(self, stage: int) -> str:
        """Return what became of each answer at a stage, one letter for each; see `change`.

        Stages before the one in which the task was learned have none, and neither have answers without scores.
        """
        then, now = self.stages.get(self.learned), self.stages[stage]
        if then is None or stage <= self.learned or then.scores is None or now.scores is None:
            return UNCHANGED * len(now.answers)
        return "".join(map(change, then.scores, now.scores))


@dataclass(frozen=True)
class TaskCost:
    """What a complete task took.

    Attributes:
        task: Its name.
        seconds: From the start of its first process to the end of its last one, scoring included; of the process that
            completed it.
        training: Seconds of its trainings; None where they are not recorded.
        steps: Optimizer steps in that time.
        steps_before: Steps before a stop, whose time is not known.
        peak_memory: Bytes; None where it is not recorded.
        memory_of: "cuda" or "process"; see `run.costs.Cost`.
        bytes_left: What it leaves for later tasks.
    """

    task: str
    seconds: float
    training: float | None
    steps: int | None
    steps_before: int
    peak_memory: int | None
    memory_of: str | None
    bytes_left: int


@dataclass(frozen=True)
class RunDetails:
    """What a page shows of a run beside its report.

    Attributes:
        recipe: The recipe as plain data.
        costs: One entry for each complete task.
        sets: Its tasks' test sets in training order, then the retention sets.
    """

    recipe: Mapping[str, Any] = field(default_factory=dict)
    costs: Sequence[TaskCost] = ()
    sets: Sequence[SetAnswers] = ()


def change(then: Score, now: Score) -> str:
    """Say what became of an answer.

    Lost is an answer that is worth less than when its task was just learned: its format is lost where it has not its
    task's format now, and its content where it has. Regained is one that is worth more. Where answers are right or
    wrong and nothing between, these are: right then and wrong now; wrong then and right now.

    Args:
        then: The answer when the task was just learned.
        now: The answer at a later stage.

    Example:
        >>> right, wrong, no_format = Score(1.0, True), Score(0.0, True), Score(0.0, False)
        >>> [change(right, no_format), change(right, wrong), change(no_format, right), change(wrong, no_format)]
        ['f', 'c', 'r', '.']
    """
    if now.correct < then.correct:
        return LOST_CONTENT if now.formatted else LOST_FORMAT
    return REGAINED if now.correct > then.correct else UNCHANGED
