"""The interface of a benchmark: a ready sequence of tasks with its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from sefe_plugin.evaluation.scorers import Spec


#: Data of this seed and above is for choosing settings: its test files never share an item with those of lower seeds.
VALIDATION_SEEDS = 1000


class BenchmarkTask(NamedTuple):
    """A task of a benchmark.

    Attributes:
        name: Its name.
        scorer: The scorer of its answers, as a recipe writes it.
        official: Name of the official rule that scores its answers as well (`Benchmark.official_accuracy`), or None.
        asd_by_rule: Whether rules can write its answers in other styles; they cannot shorten captions and other texts.
    """

    name: str
    scorer: Spec
    official: str | None = None
    asd_by_rule: bool = True


class PublishedSize(NamedTuple):
    """How much data a task has where its files are not on this machine.

    Attributes:
        train: Number of training samples.
        test: Number of test records.
    """

    train: int
    test: int


class Benchmark:
    """A ready sequence of tasks; subclass it and override what it needs.

    Attributes:
        name: What a recipe's `benchmark` calls it.
        tasks: Its tasks in their own order. The datasets of a task are called ``<benchmark>_<task>_train`` and
            ``<benchmark>_<task>_test``, in lower case.
        retention_sets: The datasets beside those of its tasks that `prepare` writes where a recipe's `retention_sets`
            name them.
        drawn: Whether it draws its data by rule (`draw`) and reads no file of the user's.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[BenchmarkTask, ...]]
    retention_sets: ClassVar[tuple[str, ...]] = ()
    drawn: ClassVar[bool] = False

    def defaults(self) -> dict[str, Any]:
        """Return recipe keys that it brings, which a recipe may override."""
        return {}

    def errors(self, arguments: Mapping[str, Any]) -> list[str]:
        """List what is missing before a run can start, one sentence each."""
        return []

    def diversified(self, arguments: Mapping[str, Any]) -> str | None:
        """Say why its training samples must not be rewritten in other answer styles: they are already; else None."""
        return None

    def prepare(self, folder: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Write the dataset folder of a run.

        Args:
            folder: Where to.
            arguments: The recipe's keys.

        Returns:
            The keys that point to it.
        """
        self.draw(folder, arguments)
        return {"dataset_dir": str(folder)}

    def draw(self, folder: Path, arguments: Mapping[str, Any], for_trial: bool = False) -> None:
        """Write the dataset folder of a run, where it is `drawn`; equal arguments give equal files.

        Args:
            folder: Where to.
            arguments: The recipe's keys.
            for_trial: Whether to write only the first samples of each file: as many as show all that the keys of a
                recipe may be at odds with, such as the longest answers.
        """
        raise NotImplementedError

    def published_sizes(self) -> Mapping[str, PublishedSize]:
        """Return the sizes of its tasks by name, to plan with where the data is missing; empty if none are known."""
        return {}

    def official_accuracy(self, rule: str) -> Callable[[Sequence[Mapping]], float]:
        """Return an official rule, from test records with their "prediction" to the accuracy of the test set.

        The rule raises ValueError where a record lacks what it needs.
        """
        raise KeyError(rule)
