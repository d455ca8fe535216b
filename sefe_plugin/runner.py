"""The loop over the tasks of a sequence: one host process each, and a report at the end."""

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.evaluation.report import build_report, write_report
from sefe_plugin.evaluation.test_sets import test_set_faults
from sefe_plugin.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, KEY_ELEMENTS_FILE, read_json
from sefe_plugin.recipe import Recipe, RecipeError, Task, merges_apart
from sefe_plugin.run_folder import RunFolder


class TaskFailedError(RuntimeError):
    """A task's process ended without its results."""


class Host(Protocol):
    """What trains a task: each function readies what it needs and returns the command line that does it."""

    def train(self, file: Path, keys: Mapping[str, Any]) -> list[str]:
        """A task, with the keys of `task_arguments`."""

    def merge(self, file: Path, keys: Mapping[str, Any], adapter: Path, folder: Path) -> list[str]:
        """Merging `adapter` of the task with these keys into its base, not quantized; the model goes to `folder`."""

    def score(self, file: Path) -> list[str]:
        """Scoring the finished task of a recipe written by `train`, where `scoring_backend` asks for a process."""


def run_sequence(recipe: Recipe, host: Host, say: Callable[[str], None]) -> dict:
    """Trains and scores the tasks of `recipe` in order, continuing after the last complete one.

    Args:
        recipe: the checked recipe.
        host: what trains the tasks.
        say: given one line to show for every finished task.

    Returns:
        The report, also written to the run folder.

    Raises:
        RecipeError: if a benchmark's test sets cannot be scored.
        RunFolderError: if the run folder is in use or belongs to something else.
        TaskFailedError: if a task's process fails; the complete tasks stay.
    """
    folder = RunFolder(recipe.output_dir.absolute())
    names = [task.name for task in recipe.tasks]
    with folder.lock():
        complete = folder.open_run(recipe.to_dict())
        arguments = dict(recipe.arguments)
        stacks = arguments.get("carry") == "stack"
        if recipe.benchmark is not None:
            arguments |= load_benchmark(recipe.benchmark).prepare(folder.data, arguments)
            sets = (test_set_faults(task.test_dataset, arguments["dataset_dir"], task.scorer) for task in recipe.tasks)
            if faults := [fault for found in sets for fault in found]:
                raise RecipeError(recipe.source, faults)
        if complete:
            say(f"Continuing after {len(complete)} of {len(names)} tasks: {', '.join(names[: len(complete)])}.")
        for index, task in enumerate(recipe.tasks):
            if index < len(complete):
                continue
            started = time.monotonic()
            task_folder = folder.clear_unfinished(index, task.name)
            keys = task_arguments(arguments, recipe.tasks, index, folder)
            file = task_folder / "task.yaml"
            _run(task, host.train(file, keys))
            _require(task, *(task_folder / name for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)))
            if keys.get("use_reglora"):
                _require(task, task_folder / KEY_ELEMENTS_FILE)
            _require(task, _carry(task, host, keys, stacks))
            if keys.get("scoring_backend", "generate") != "generate":
                _run(task, host.score(file))
            _require(task, task_folder / "scores.json")
            seconds = time.monotonic() - started
            complete = [*complete, {"name": task.name, "folder": task_folder.name, "seconds": round(seconds, 1)}]
            folder.complete_task(recipe.to_dict(), complete)
            say(_task_line(index, names, read_json(task_folder / "scores.json"), seconds))
        report = build_report(names, *folder.matrices(names))
        title = f"{recipe.source}: {len(names)} tasks"
        if recipe.task_order is not None:
            report["task_order"] = recipe.task_order
            title += f" in the order {recipe.task_order}" if isinstance(recipe.task_order, str) else ""
        write_report(folder.path, report, title)
    return report


def task_arguments(
    arguments: Mapping[str, Any], tasks: Sequence[Task], index: int, folder: RunFolder
) -> dict[str, Any]:
    """Returns the keys of one task's own run.

    Args:
        arguments: the keys that hold for every task.
        tasks: all tasks of the sequence.
        index: which of them, from 0.
        folder: the run folder; what the task before carries on lies in it.
    """
    task = tasks[index]
    earlier = [folder.task_folder(i, t.name) for i, t in enumerate(tasks[:index])]
    keys: dict[str, Any] = {
        **arguments,
        **task.overrides,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "dataset": task.dataset,
        "output_dir": str(folder.task_folder(index, task.name)),
        "test_sets": [_test_set(t) for t in tasks[: index + 1]],
    }
    stacks = keys.pop("carry", "merge") == "stack"
    keys["merge_adapter"] = not stacks and not merges_apart(keys)
    if earlier and stacks:
        keys["stacked_adapter"] = str(earlier[-1] / "stacked")
    elif earlier:
        keys["model_name_or_path"] = str(earlier[-1] / "merged")
    if keys.get("use_reglora"):
        keys["reglora_key_elements"] = [
            str(path / KEY_ELEMENTS_FILE)
            for path, t in zip(earlier, tasks, strict=False)
            if {**arguments, **t.overrides}.get("use_reglora")
        ]
    return keys


def _test_set(task: Task) -> dict[str, str]:
    test_set = {"name": task.name, "dataset": task.test_dataset, "scorer": task.scorer}
    return test_set | ({"official": task.official} if task.official else {})


def _carry(task: Task, host: Host, keys: Mapping[str, Any], stacks: bool) -> Path:
    """Makes what the next task starts from, unless the task's own process has merged; returns its configuration."""
    folder = Path(keys["output_dir"])
    if stacks:
        # torch is imported only where it is needed, so that a recipe's faults are told at once
        from sefe_plugin.stacking import stack_adapters

        earlier = [Path(keys["stacked_adapter"])] if "stacked_adapter" in keys else []
        stack_adapters([*earlier, folder], folder / "stacked")
        return folder / "stacked" / ADAPTER_CONFIG_FILE
    if not keys["merge_adapter"]:
        temporary = folder / ".merged.tmp"
        _run(task, host.merge(folder / "merge.yaml", keys, folder, temporary))
        temporary.replace(folder / "merged")
    return folder / "merged" / "config.json"


def _run(task: Task, command: Sequence[str]) -> None:
    result = subprocess.run(command, check=False)
    if result.returncode != 0:
        raise TaskFailedError(
            f"Task {task.name} failed with exit status {result.returncode}; its output is above. The complete tasks "
            f"are kept, and the same command continues with this one. Its own command was: {shlex.join(command)}"
        )


def _require(task: Task, *files: Path) -> None:
    for file in files:
        if not file.is_file():
            raise TaskFailedError(f"Task {task.name} ended, but {file} is missing.")


def _task_line(index: int, names: Sequence[str], scores: Mapping[str, Mapping[str, float]], seconds: float) -> str:
    shown = "  ".join(f"{name} {scores[name]['accuracy']:.1f}" for name in names[: index + 1])
    mean = sum(scores[name]["accuracy"] for name in names[: index + 1]) / (index + 1)
    return f"[{index + 1}/{len(names)}] {names[index]} done in {seconds:.0f} s | {shown} | mean {mean:.1f}"
