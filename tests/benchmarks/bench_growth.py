"""What grows with the number of tasks: time, memory and disk of a sequence of many small tasks.

    python tests/benchmarks/bench_growth.py --tasks 64 --json FILE --plot FILE
    python tests/benchmarks/bench_growth.py --tasks 64 --json FILE --plot FILE carry=stack cl_method=olora ...

The tasks are mini-CoIN's eight in turn: a training of a few steps on the tiny LLaVA, and two questions of each test
set so far. So nothing is learned, but everything is done that a sequence does. It runs on one thread. The table takes
medians over the tasks from one row to the next, because single times are noisy; the plot shows every task.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench_sequence import sequence_keys, timed

from sefe_plugin.evaluation.ledger import CHECKS, SCORING, TRAINING
from sefe_plugin.evaluation.report_text import markdown_table
from sefe_plugin.files import ADAPTER_WEIGHTS_FILE, bytes_of, read_json
from sefe_plugin.methods import methods
from sefe_plugin.run.costs import read_cost
from sefe_plugin.versions import installed_versions


#: Of the recipe: little work, and no file of the training that a task does not need.
FEW = {"max_steps": 4, "max_test_samples": 2, "max_new_tokens": 12, "plot_loss": False, "save_strategy": "no"}

#: A figure of a task -> its head in the table, and what it is divided by there.
FIGURES = {
    "step": ("step, ms", 1e-3),
    "besides": ("besides training and scoring, s", 1.0),
    "method": ("method, s", 1.0),
    "scoring": ("scoring, s", 1.0),
    "memory": ("peak memory, GB", 1e9),
    "task_bytes": ("a task on disk, MB", 1e6),
    "left_bytes": ("for later tasks, MB", 1e6),
}


def many_tasks(keys: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """Return so many tasks, with the data of the recipe's tasks in turn."""
    tasks = keys["tasks"]
    return [{**tasks[i % len(tasks)], "name": f"{tasks[i % len(tasks)]['name']}_{i + 1}"} for i in range(number)]


def figures_of_task(run: Path, number: int, found: Mapping[str, Any], method_file: str | None) -> dict[str, float]:
    """Return the figures of a task.

    Args:
        run: The run folder.
        number: Which task, from 1.
        found: Its part of the run's ledger.
        method_file: What its method leaves for later tasks, if anything.
    """
    place = run / f"{number}_{found['task']}"
    seconds = {phase["phase"]: phase["seconds"] for phase in found["phases"]}
    cost = read_cost(place)
    left = [place / name for name in (ADAPTER_WEIGHTS_FILE, method_file) if name]
    return {
        "step": cost.step_seconds,
        "besides": found["seconds"] - sum(seconds.get(name, 0.0) for name in (CHECKS, TRAINING, SCORING)),
        "method": seconds["method"],
        "scoring": seconds[SCORING],
        "memory": cost.peak_memory,
        "task_bytes": bytes_of(place),
        "left_bytes": bytes_of(*left),
    }


def measure(recipe: Path, number: int, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run the sequence; return the figures, each a list with a value for every task."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    few = [f"{key}={json.dumps(value)}" for key, value in FEW.items()]
    keys = sequence_keys(recipe, 8, [*few, *overrides], folder)
    keys["tasks"] = many_tasks(keys, number)
    seconds = timed(keys, folder / "sequence.yaml", environment)
    run = folder / "run"
    report = read_json(run / "report.json")
    method_file = methods()[keys["cl_method"]].file
    rows = [
        figures_of_task(run, place, found, method_file) for place, found in enumerate(report["ledger"]["tasks"], 1)
    ]
    own = bytes_of(run) - sum(row["task_bytes"] for row in rows)
    return {
        "recipe": recipe.name,
        "overrides": list(overrides),
        "tasks": number,
        "seconds": round(seconds, 1),
        "in_tasks": round(report["ledger"]["seconds"], 1),
        "run_bytes": own,
        **{name: [round(row[name], 6) for row in rows] for name in rows[0]},
        "versions": installed_versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


def windows(number: int) -> list[tuple[int, int]]:
    """Return the first and the last task of each row of the table.

    Example:
        >>> windows(16)
        [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16)]
    """
    ends = [min(2**power, number) for power in range(math.ceil(math.log2(number)) + 1)]
    return [(1, 1), *((first + 1, last) for first, last in pairwise(ends))]


def as_text(figures: Mapping[str, Any]) -> str:
    """Write the figures as a Markdown table, medians over the tasks of a row."""
    rows = []
    for first, last in windows(figures["tasks"]):
        medians = (statistics.median(figures[name][first - 1 : last]) / unit for name, (_, unit) in FIGURES.items())
        rows.append([str(first) if first == last else f"{first}-{last}", *(f"{value:.2f}" for value in medians)])
    return markdown_table(["task", *(head for head, _ in FIGURES.values())], rows)


def draw(figures: Mapping[str, Any], file: Path) -> None:
    """Draw how the figures grow, task by task."""
    from matplotlib.figure import Figure

    parts = [
        ("step", ["step"], "ms", 1e-3),
        ("beside the steps", ["besides", "method", "scoring"], "s", 1.0),
        ("peak memory", ["memory"], "GB", 1e9),
        ("a task on disk", ["task_bytes", "left_bytes"], "MB", 1e6),
    ]
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    for axes, (title, names, unit, divisor) in zip(figure.subplots(2, 2).flat, parts, strict=True):
        for name in names:
            values = [value / divisor for value in figures[name]]
            axes.plot(range(1, len(values) + 1), values, marker=".", label=FIGURES[name][0].rpartition(",")[0])
        axes.set(title=title, xlabel="task", ylabel=unit, ylim=(0, 1.1 * axes.get_ylim()[1]))
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(names) > 1:
            axes.legend()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/minicoin_reglora.yaml"))
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.recipe, options.tasks, options.overrides, Path(folder))
    options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    draw(figures, options.plot)
    sys.stdout.write(as_text(figures) + "\n")


if __name__ == "__main__":
    main()
