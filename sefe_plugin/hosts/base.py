"""The interface of a host: what a training framework must offer for sequences to run on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sefe_plugin.recipe.keys import HostKeys


class Host(Protocol):
    """A training framework.

    `recipe` needs its keys, and `run` a command line for each step of a task (`sefe_plugin.run.job.Host`). In the
    process of a task a host also has to set up what the method trains (`Method.adapt`), drive it through the training
    (`MethodCallback`), rewrite the data (ASD), answer the test sets, and record the steps (`sefe_plugin.run.steps`).
    """

    def keys(self) -> HostKeys:
        """Return its recipe keys, and which of them are fixed, refused, or free to change in a run."""

    def train(self, file: Path, keys: Mapping[str, Any]) -> list[str]:
        """Ready the training of a task, with the keys of `task_arguments`; return the command line that does it."""

    def score(self, file: Path, keys: Mapping[str, Any]) -> list[str]:
        """Ready the answering of a trained task's test sets; return the command line that does it."""

    def merge(self, file: Path, keys: Mapping[str, Any], adapter: Path, folder: Path) -> list[str]:
        """Ready the export of a task's base with `adapter` merged in; return the command line that does it."""

    def sequence_command(self) -> list[str]:
        """Return the command line that runs a sequence, to which its recipe and `key=value` overrides are added."""
