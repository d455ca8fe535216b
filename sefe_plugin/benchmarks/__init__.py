"""Ready sequences of tasks, by the names that `benchmark` takes."""

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from sefe_plugin.benchmarks.base import Benchmark


#: Name -> module and class.
_OWN = {
    "coin": "sefe_plugin.benchmarks.coin:CoIN",
    "minicoin": "sefe_plugin.benchmarks.minicoin:MiniCoIN",
    "minicoin16": "sefe_plugin.benchmarks.minicoin.domains:MiniCoIN16",
    "ucit": "sefe_plugin.benchmarks.ucit:UCIT",
    "dcl": "sefe_plugin.benchmarks.dcl:DCL",
    "trigap": "sefe_plugin.benchmarks.trigap:TriGap",
    "styles": "sefe_plugin.benchmarks.styles:Styles",
}

#: Benchmark, or what several have in common -> module of its commands, which imports nothing heavy.
_COMMANDS = {
    "published": "sefe_plugin.benchmarks.published.commands",
    "coin": "sefe_plugin.benchmarks.coin.commands",
    "minicoin": "sefe_plugin.benchmarks.minicoin.commands",
    "smol": "sefe_plugin.benchmarks.smol.commands",
}

#: The order in which a benchmark lists its tasks, CoIN's.
OWN_ORDER = "coin"


def benchmark_names() -> tuple[str, ...]:
    """Return the names of all benchmarks."""
    return tuple(_OWN)


def load_benchmark(name: str) -> Benchmark:
    """Return the benchmark called `name`, one of `benchmark_names`."""
    module, _, cls = _OWN[name].partition(":")
    return getattr(import_module(module), cls)()


def add_commands(commands: argparse._SubParsersAction) -> dict[str, argparse._SubParsersAction | None]:
    """Add the commands of all benchmarks to those of `sefe`.

    Returns:
        Benchmark -> the subcommands of its own command, where others may be added.
    """
    return {name: import_module(module).add_commands(commands) for name, module in _COMMANDS.items()}


def official_rule(name: str) -> Callable[[Sequence[Mapping]], float]:
    """Return an official rule by its whole name, such as "coin:GQA" (`Benchmark.official_accuracy`)."""
    benchmark, _, rule = name.partition(":")
    return load_benchmark(benchmark).official_accuracy(rule)


def named_orders(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the named orders of a benchmark's tasks: `coin`, its own; `reversed`; `shuffled`, drawn once for all.

    Args:
        names: The tasks' names in the benchmark's own order.
    """
    shuffled = random.Random("task order").sample(list(names), len(names))
    return {OWN_ORDER: tuple(names), "reversed": tuple(reversed(names)), "shuffled": tuple(shuffled)}
