"""Where the time of a short mini-CoIN sequence goes, against bare training by LLaMA-Factory alone.

    python tests/benchmarks/bench_sequence.py --tasks 2 --recipe recipes/minicoin_sefe.yaml --json FILE

The sequence is the recipe with the first tasks of mini-CoIN, by one `llamafactory-cli train`. Then each of its tasks
is trained bare: the same command with the same data, base and keys of the host, but in an environment with
SEFE_PLUGIN_DISABLE=1, so without method, ASD, scores and carrying. Both start cold, one after the other, with the
threads that the environment gives them: on a machine that has other work, set OMP_NUM_THREADS=1. What else it does
meanwhile falls on the two alike at best. Further `key=value` change the recipe, and with it both ways.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.evaluation.ledger import ABOUT, TRAINING, phase_table, task_table
from sefe_plugin.evaluation.report_text import markdown_table
from sefe_plugin.hosts.llamafactory.host import read_recipe
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.tasks import tasks_of_benchmark
from sefe_plugin.versions import installed_versions


THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Variables of the environment on which a training's speed depends, on a CPU."""


def sequence_keys(recipe: Path, num_tasks: int, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Write the data of a recipe's benchmark into a folder, and return its keys with its first tasks.

    Args:
        recipe: A recipe with a benchmark that draws its data, such as mini-CoIN.
        num_tasks: How many tasks.
        overrides: Changes of it, `key=value`.
        folder: Where data and run go.
    """
    keys = read_recipe(recipe, list(overrides))
    benchmark = load_benchmark(keys.pop("benchmark"))
    if not benchmark.drawn:
        raise ValueError(f"{recipe} must be a recipe with a benchmark that draws its data, such as minicoin")
    tasks = [
        {"name": task.name, "dataset": task.dataset, "test_dataset": task.test_dataset, "scorer": task.scorer}
        for task in tasks_of_benchmark(benchmark)[:num_tasks]
    ]
    keys = {**benchmark.defaults(), **keys, **benchmark.prepare(folder / "data", keys)}
    return {**keys, "tasks": tasks, "output_dir": str(folder / "run")}


def bare_keys(task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return those keys of a task's `task.yaml` that the host knows without the plugin.

    Args:
        task: The task's keys.
        folder: Where the training leaves its results.
    """
    known = host_keys().keys
    return {key: value for key, value in task.items() if key in known} | {"output_dir": str(folder)}


def timed(keys: Mapping[str, Any], file: Path, environment: Mapping[str, str]) -> float:
    """Run a recipe by `llamafactory-cli train` to its end, and return the seconds that this took."""
    file.write_text(yaml.safe_dump(dict(keys)), encoding="utf-8")
    command = [f"{sysconfig.get_paths()['scripts']}/llamafactory-cli", "train", str(file)]
    started = time.monotonic()
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = time.monotonic() - started
    if result.returncode:
        raise RuntimeError(f"{file} failed:\n{result.stdout[-3000:]}")
    return seconds


def compared(found: Mapping[str, Any], command: float, bare: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Put a sequence beside the bare trainings of its tasks.

    Args:
        found: The ledger of the sequence.
        command: Seconds of its command, from its start to its end.
        bare: Task -> "seconds" of its bare command, and "training", those of the host's own `train_runtime`.

    Returns:
        For "sequence" and "bare" the seconds of their commands, those of the training in them, and "besides", the
        share of everything but training, in percent; and "sequence_over_bare" and "training_over_bare".
    """
    ways = {
        "sequence": (
            command,
            sum(phase["seconds"] for phase in found["phases"] if phase["phase"] == TRAINING),
        ),
        "bare": tuple(sum(one[key] for one in bare.values()) for key in ("seconds", "training")),
    }
    result: dict[str, Any] = {
        way: {
            "seconds": round(seconds, 1),
            "training": round(training, 1),
            "besides": round(100 * (1 - training / seconds), 1),
        }
        for way, (seconds, training) in ways.items()
    }
    for key, name in ((0, "sequence_over_bare"), (1, "training_over_bare")):
        result[name] = round(ways["sequence"][key] / ways["bare"][key], 2)
    return result


def measure(recipe: Path, num_tasks: int, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run the sequence, then its tasks bare; return the figures."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    keys = sequence_keys(recipe, num_tasks, overrides, folder)
    load = [round(os.getloadavg()[0], 1)]
    command = timed(keys, folder / "sequence.yaml", environment)
    run = folder / "run"
    found = json.loads((run / "report.json").read_text(encoding="utf-8"))["ledger"]
    bare = {}
    for number, task in enumerate(keys["tasks"], start=1):
        of_task = yaml.safe_load((run / f"{number}_{task['name']}" / "task.yaml").read_text(encoding="utf-8"))
        place = folder / f"bare_{number}"
        file = folder / f"bare_{number}.yaml"
        seconds = timed(bare_keys(of_task, place), file, environment | {"SEFE_PLUGIN_DISABLE": "1"})
        results = json.loads((place / "train_results.json").read_text(encoding="utf-8"))
        bare[task["name"]] = {"seconds": round(seconds, 1), "training": results["train_runtime"]}
    load.append(round(os.getloadavg()[0], 1))
    return {
        "recipe": recipe.name,
        "overrides": list(overrides),
        "ledger": found,
        "bare": bare,
        "compared": compared(found, command, bare),
        "load": load,
        "threads": {name: os.environ.get(name) for name in THREADS},
        "cores": os.cpu_count(),
        "versions": installed_versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


def as_text(figures: Mapping[str, Any]) -> str:
    """Write the figures as Markdown."""
    rows = [
        [way, *(f"{of[key]:.1f}" for key in ("seconds", "training", "besides"))]
        for way, of in figures["compared"].items()
        if isinstance(of, Mapping)
    ]
    bare = [[task, f"{one['seconds']:.1f}", f"{one['training']:.1f}"] for task, one in figures["bare"].items()]
    parts = [
        ABOUT,
        markdown_table(*task_table(figures["ledger"])),
        markdown_table(*phase_table(figures["ledger"])),
        markdown_table(["bare task", "command, s", "training, s"], bare),
        markdown_table(["way", "command, s", "training, s", "besides, %"], rows),
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--tasks", type=int, default=2, help="how many tasks of mini-CoIN")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/minicoin_sefe.yaml"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.recipe, options.tasks, options.overrides, Path(folder))
    options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(as_text(figures) + "\n")


if __name__ == "__main__":
    main()
