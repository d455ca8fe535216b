"""The interface of a host: what a training framework must offer for sequences to run on it."""

from typing import Protocol

from sefe_plugin.recipe.keys import HostKeys
from sefe_plugin.run.job import Host as TaskHost


class Host(TaskHost, Protocol):
    """A training framework: its keys, a command line for each step of a task and for a sequence, and their start.

    In the process of a task a host also has to set up what the method trains (`Method.adapt`), drive it through the
    training (`MethodCallback`), rewrite the data (ASD), answer the test sets, and record the steps
    (`sefe_plugin.run.steps`).
    """

    def keys(self) -> HostKeys:
        """Return its recipe keys, and which of them are fixed, refused, or free to change in a run."""

    def sequence_command(self) -> list[str]:
        """Return the command line that runs a sequence, to which its recipe and `key=value` overrides are added."""
