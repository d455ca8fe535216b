"""The interface of a continual-learning method, and a way to name one phase of its training.

A method is one class. It says which recipe keys it has, what the host is asked to train, how a task can be carried
on, and what happens in a training; every hook has a default that does nothing. `sefe_plugin.methods` lists the
methods, `MethodCallback` drives whichever a recipe names. Importing this module and the modules of methods costs
nothing: they import PyTorch within their hooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from sefe_plugin.files import is_file
from sefe_plugin.options import own_options
from sefe_plugin.patching import Patch


if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig
    from torch import nn

    from sefe_plugin.methods.gradients import Gradients
    from sefe_plugin.methods.task_data import TaskData


#: What a host may be asked to train: an adapter, or the model itself.
PARAMETRISATIONS = ("lora", "full")


#: What `MethodCallback` changes in transformers.
METHOD_LOG = Patch(
    "method_log",
    "transformers.trainer_callback",
    ("CallbackHandler.on_log",),
    "the values that a method notes beside the loss in every log",
    lasts="while a method trains",
)


class Phase(NamedTuple):
    """One training of a task, of several.

    Attributes:
        name: Its folder's name below the task's; "" for the last, whose result is the task's.
        keys: Recipe keys and the values that they have in this phase.
    """

    name: str = ""
    keys: Mapping[str, Any] = {}


class Sizes(Protocol):
    """A model with the adapter of one task, in numbers.

    Attributes:
        matrices: (out_features, in_features) of every adapted matrix.
        trainable_parameters: Number of what is trained.
        layers: Number of layers of the language model.
        hidden_size: Entries of its embeddings.
    """

    matrices: Sequence[tuple[int, int]]
    trainable_parameters: int
    layers: int
    hidden_size: int


@dataclass
class NoOptions:
    """The options of a method that has none."""


def words_of(value: Sequence[str] | str | None) -> list[str]:
    """Return the words of an option that takes them as a list or separated by commas."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else list(value or ())


def named_files(value: Sequence[str] | str | None) -> list[Path]:
    """Return the files that an option names, as a list or separated by commas."""
    return [Path(file) for file in words_of(value)]


def absent_files(key: str, files: Sequence[Path]) -> list[str]:
    """List which files of an option do not exist, one sentence each."""
    return [
        f"`{key}`: the file {file} does not exist. Train the earlier task first."
        for file in files
        if not is_file(file)
    ]


class Method:
    """A continual-learning method; subclass it and override what it needs.

    Args:
        arguments: Recipe keys and values; those of its options are taken, absent ones have their defaults.

    Attributes:
        Options: Dataclass whose fields are the method's recipe keys (`sefe_plugin.options.option`). Their names begin
            with the method's own.
        parametrisation: What the host is asked to train, of `PARAMETRISATIONS`.
        carries: The ways of `sefe_plugin.carry` by which a task may be carried on; the first is the default.
        file: Name of the file in a task's folder that holds what later tasks need of it; None without one.
        earlier: The option that lists these files of the earlier tasks, the oldest first; a sequence fills it in.
        whole_sequence: Keys of the host in which the tasks of a sequence cannot differ.
        same_matrices: Whether the adapters of all tasks must change the same matrices.
        datasets: Options that name datasets which it looks at beside those that it trains on.
        peft_type: The type of adapter that a task leaves, as PEFT names it.
        patches: What it changes in other packages, and cannot work without.
    """

    Options: ClassVar[type] = NoOptions
    parametrisation: ClassVar[str] = "lora"
    carries: ClassVar[tuple[str, ...]] = ("merge", "stack", "none")
    file: ClassVar[str | None] = None
    earlier: ClassVar[str | None] = None
    whole_sequence: ClassVar[tuple[str, ...]] = ()
    same_matrices: ClassVar[bool] = False
    datasets: ClassVar[tuple[str, ...]] = ()
    peft_type: ClassVar[str] = "LORA"
    patches: ClassVar[tuple[Patch, ...]] = ()

    def __init__(self, arguments: Mapping[str, Any] | None = None):
        named = arguments or {}
        self.options = self.Options(**{key: named[key] for key in own_options(self.Options) if key in named})

    @classmethod
    def errors(cls, arguments: Mapping[str, Any]) -> list[str]:
        """List which other keys the method cannot work with, one sentence each; its options are checked already."""
        return []

    @classmethod
    def phases(cls, arguments: Mapping[str, Any]) -> list[Phase]:
        """Return the trainings of one task in their order; all but the last only leave their folder."""
        return [Phase()]

    @classmethod
    def start(cls, arguments: Mapping[str, Any], earlier_tasks: int) -> dict[str, Any]:
        """Return the keys that a task of a sequence has by its place in it, beside the list of files in `earlier`.

        Args:
            arguments: Recipe keys and values of the task, and those of the whole sequence.
            earlier_tasks: How many tasks were trained before it.
        """
        return {}

    @classmethod
    def added_tokens(cls, arguments: Mapping[str, Any]) -> int:
        """Return how many places of the model's context the method takes of every input."""
        return 0

    @classmethod
    def memory(cls, sizes: Sizes, arguments: Mapping[str, Any], earlier_tasks: int) -> dict[str, float]:
        """Return the bytes that the method itself holds on a GPU while a task is trained, by part."""
        return {}

    @classmethod
    def disk(cls, sizes: Sizes, arguments: Mapping[str, Any]) -> dict[str, float]:
        """Return the bytes that the method leaves on disk for every task, by part, beside adapter and model."""
        return {}

    @classmethod
    def check_file(cls, folder: Path, arguments: Mapping[str, Any]) -> str:
        """Check the `file` that a complete task has left, and say what was checked.

        Args:
            folder: The task's folder.
            arguments: The task's keys, the files of earlier tasks among them.

        Raises:
            ValueError: If it is missing, damaged, not of this task, or does not fit the recipe; names the file.
        """
        if not (folder / cls.file).is_file():
            raise ValueError(f"{folder / cls.file} is missing")
        return "there"

    def adapt(self, config: LoraConfig) -> PeftConfig:
        """Return the configuration of the adapter to train in place of the plain LoRA that the host makes."""
        return config

    def building(self, base: nn.Module) -> AbstractContextManager:
        """Return a context in which the adapter is built or loaded, for what must be different meanwhile.

        Args:
            base: The model that is adapted.
        """
        return nullcontext()

    def begin(self, model: nn.Module, earlier: Sequence[Path], gradients: Gradients, data: TaskData) -> None:
        """Ready a training: load what earlier tasks left, and say which gradients are to be transformed.

        Args:
            model: What is trained, as the Trainer has it.
            earlier: The files of earlier tasks, the oldest first.
            gradients: For `Gradients.transform`.
            data: What the task is trained on.
        """

    def on_step_begin(self, gradients: Gradients) -> None:
        """Add to the gradients of the optimizer step that begins (`Gradients.add`)."""

    def on_step_end(self, model: nn.Module) -> None:
        """Look at the weights after the optimizer step, and mend them where the method promises something of them."""

    def finish(self, model: nn.Module, file: Path | None, *, write: bool, seed: int, data: TaskData) -> None:
        """Leave what later tasks need.

        Args:
            model: As trained, before any merge.
            file: Where to; None if the method leaves nothing.
            write: Whether this process writes; under ZeRO-3 the others take part nevertheless.
            seed: The training's.
            data: What the task was trained on.
        """
