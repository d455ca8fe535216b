"""The interface of a host: what a training framework must offer for sequences to run on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sefe_plugin.recipe.keys import HostKeys
from sefe_plugin.run.job import Host as TaskHost


class Host(TaskHost, Protocol):
    """A training framework.

    Beside what a task needs of it (`sefe_plugin.run.job.Host`: training, scoring and merging, each as a command line),
    it tells its keys, reads recipes, and plans.
    """

    def keys(self) -> HostKeys:
        """Return its recipe keys, and which of them are fixed, refused, or free to change in a run."""

    def read_recipe(self, file: Path, overrides: list[str]) -> dict[str, Any]:
        """Read a recipe as the host does, command-line overrides last."""

    def sequence_command(self, recipe: Path, overrides: Mapping[str, Any]) -> list[str]:
        """Return the command line that runs a sequence recipe."""
