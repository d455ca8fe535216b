"""The interface of a way to carry a task on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol


if TYPE_CHECKING:
    from torch import nn


class SavedSizes(Protocol):
    """What a model and its adapter take on disk.

    Attributes:
        saved_bytes: Of the whole model.
        trainable_bytes: Of what is trained, as the host saves it.
        lora_bytes: What of it is LoRA.
    """

    saved_bytes: int
    trainable_bytes: int
    lora_bytes: int


class Carry:
    """How the next task starts from this one.

    Attributes:
        result: Path below a task's folder of the file that shows that the task can be carried on; None where nothing
            is carried.
        passing: Folder below a task's that the next task alone reads, and nobody once that is complete; None without
            one.
        alone: Whether every task is trained as if it were the only one.
        whole_sequence: Keys of the host in which the tasks of a sequence cannot differ.
        same_matrices: Whether the adapters of all tasks must change the same matrices.
    """

    result: ClassVar[str | None]
    passing: ClassVar[str | None] = None
    alone: ClassVar[bool] = False
    whole_sequence: ClassVar[tuple[str, ...]] = ()
    same_matrices: ClassVar[bool] = False

    def errors(self, arguments: Mapping[str, Any]) -> list[str]:
        """List which keys of a recipe this way cannot work with, one sentence each."""
        return []

    def model_errors(self, model: nn.Module) -> list[str]:
        """List what of a model with its adapter this way cannot carry on, one sentence each.

        Args:
            model: As it will be trained, with or without weights.
        """
        return []

    def start(self, arguments: Mapping[str, Any], earlier: Sequence[Path]) -> dict[str, Any]:
        """Return the keys by which a task starts from those before it, and readies itself to be carried on.

        Args:
            arguments: The keys of the task.
            earlier: The folders of the tasks before it, the oldest first.
        """
        raise NotImplementedError

    def finish(self, arguments: Mapping[str, Any], folder: Path, merge: Callable[[Path], None]) -> None:
        """Make `result`, unless the task's own process has made it.

        Args:
            arguments: The keys of the task, those of `start` among them.
            folder: The task's folder.
            merge: Lets the host write the task's base with its adapter merged in, not quantized, into a folder.
        """

    def disk(self, sizes: SavedSizes, tasks: int, arguments: Mapping[str, Any]) -> dict[str, float]:
        """Return the bytes that a sequence of `tasks` tasks takes, by part, beside what the tasks train."""
        return {}

    def stacked_adapters(self, earlier_tasks: int) -> int:
        """Return how many adapters of earlier tasks are held beside the new one while a task is trained."""
        return 0
