"""The loop over the tasks of a sequence: one host process each, and a report at the end."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.evaluation.report import build_report, write_report
from sefe_plugin.files import read_json
from sefe_plugin.recipe import Recipe, Task
from sefe_plugin.run_folder import RunFolder


class TaskFailedError(RuntimeError):
    """A task's process ended without its results."""


def run_sequence(
    recipe: Recipe,
    write_task_recipe: Callable[[Path, Mapping[str, Any]], None],
    command: Callable[[Path], Sequence[str]],
    say: Callable[[str], None],
) -> dict:
    """Trains and scores the tasks of `recipe` in order, continuing after the last complete one.

    Args:
        recipe: the checked recipe.
        write_task_recipe: writes one task's keys as a recipe of the host to a file.
        command: the command line that runs such a file.
        say: given one line to show for every finished task.

    Returns:
        The report, also written to the run folder.

    Raises:
        RunFolderError: if the run folder is in use or belongs to something else.
        TaskFailedError: if a task's process fails; the complete tasks stay.
    """
    folder = RunFolder(recipe.output_dir.absolute())
    names = [task.name for task in recipe.tasks]
    with folder.lock():
        complete = folder.open_run(recipe.to_dict())
        arguments = dict(recipe.arguments)
        if recipe.benchmark is not None:
            arguments |= load_benchmark(recipe.benchmark).prepare(folder.data, arguments)
        if complete:
            say(f"Continuing after {len(complete)} of {len(names)} tasks: {', '.join(names[: len(complete)])}.")
        for index, task in enumerate(recipe.tasks):
            if index < len(complete):
                continue
            started = time.monotonic()
            task_folder = folder.clear_unfinished(index, task.name)
            file = task_folder / "task.yaml"
            write_task_recipe(file, task_arguments(arguments, recipe.tasks, index, folder))
            _run_task(task, command(file), task_folder)
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
        folder: the run folder; the merged model of the task before lies in it.
    """
    task = tasks[index]
    earlier = [folder.task_folder(i, t.name) for i, t in enumerate(tasks[:index])]
    filled_in: dict[str, Any] = {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "dataset": task.dataset,
        "output_dir": str(folder.task_folder(index, task.name)),
        "test_sets": [{"name": t.name, "dataset": t.test_dataset, "scorer": t.scorer} for t in tasks[: index + 1]],
        "merge_adapter": True,
    }
    if earlier:
        filled_in["model_name_or_path"] = str(earlier[-1] / "merged")
    merged = {**arguments, **task.overrides, **filled_in}
    if merged.get("use_reglora"):
        files = [path / "key_elements.safetensors" for path in earlier]
        merged["reglora_key_elements"] = [str(file) for file in files if file.is_file()]
    return merged


def _run_task(task: Task, command: Sequence[str], task_folder: Path) -> None:
    result = subprocess.run(command, check=False)
    if result.returncode != 0:
        raise TaskFailedError(
            f"Task {task.name} failed with exit status {result.returncode}; its output is above. The complete tasks "
            f"are kept, and the same command continues with this one. To try it alone: {' '.join(command)}"
        )
    for needed in ("adapter_config.json", "scores.json", "merged/config.json"):
        if not (task_folder / needed).is_file():
            raise TaskFailedError(f"Task {task.name} ended, but {task_folder / needed} is missing.")


def _task_line(index: int, names: Sequence[str], scores: Mapping[str, Mapping[str, float]], seconds: float) -> str:
    shown = "  ".join(f"{name} {scores[name]['accuracy']:.1f}" for name in names[: index + 1])
    mean = sum(scores[name]["accuracy"] for name in names[: index + 1]) / (index + 1)
    return f"[{index + 1}/{len(names)}] {names[index]} done in {seconds:.0f} s | {shown} | mean {mean:.1f}"
