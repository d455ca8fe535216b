"""Ready sequences of tasks.

A benchmark is a module with:
  - `TASKS`: its tasks in order, each a `BenchmarkTask`;
  - `defaults()`: recipe keys it brings (its dataset folder, say), which the recipe may override;
  - `faults(arguments)`: what is missing before a run can start, one sentence each;
  - `prepare(folder, arguments)`: writes `folder`, the dataset folder of a run, with the datasets
    `<benchmark>_<task>_train` and `<benchmark>_<task>_test`, in lower case, and returns the keys that point to it.
"""

import random
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NamedTuple


#: Name -> module.
BENCHMARKS = {
    "coin": "sefe_plugin.benchmarks.coin",
    "minicoin": "sefe_plugin.benchmarks.minicoin",
    "minicoin16": "sefe_plugin.benchmarks.minicoin.domains",
}

#: The order in which a benchmark lists its tasks, CoIN's.
OWN_ORDER = "coin"


class BenchmarkTask(NamedTuple):
    """A task of a benchmark.

    Attributes:
        name: its name.
        scorer: name of the scorer of its answers.
        official: name of the official rule that its answers are scored by as well, a key of
            `sefe_plugin.evaluation.official.OFFICIAL`, or None.
    """

    name: str
    scorer: str
    official: str | None = None


def named_orders(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns the named orders of a benchmark's tasks: `coin`, its own; `reversed`; `shuffled`, drawn once for all.

    Args:
        names: the tasks' names in the benchmark's own order.
    """
    shuffled = random.Random("task order").sample(list(names), len(names))
    return {OWN_ORDER: tuple(names), "reversed": tuple(reversed(names)), "shuffled": tuple(shuffled)}


def load_benchmark(name: str) -> ModuleType:
    """Imports the benchmark called `name`, a key of `BENCHMARKS`."""
    return import_module(BENCHMARKS[name])
