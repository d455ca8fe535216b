"""The reference of a sequence: a finished run with `carry: none`, in which each task was trained alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sefe_plugin.evaluation.report import load_report


def single_task_errors(arguments: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    """List why the run that `single_task_run` names is no reference for tasks of these names."""
    run = arguments.get("single_task_run")
    if run is None:
        return []
    try:
        single_task_accuracy(Path(run), tasks)
    except (OSError, ValueError) as error:
        return [f"`single_task_run`: {error}."]
    return []


def single_task_accuracy(run: Path, tasks: Sequence[str]) -> dict[str, float]:
    """Return the accuracy of each task when it was trained alone.

    Args:
        run: The reference's run folder.
        tasks: The names of the tasks that are scored; the reference may hold others too, in any order.

    Raises:
        ValueError: If its report is absent, unfinished, of a sequence that carries tasks on, or lacks a task.
    """
    try:
        report = load_report(run)
    except FileNotFoundError:
        raise ValueError(f"{run} holds no report.json. Name the folder of a finished run with `carry: none`") from None
    names = report["tasks"]
    if not report.get("trained_alone"):
        raise ValueError(f"{run} is no run with `carry: none`: its tasks were not trained alone. Name one that is")
    if report["num_scored_tasks"] < len(names):
        raise ValueError(f"{run} is unfinished: {report['num_scored_tasks']} of {len(names)} tasks. Finish it first")
    if absent := [task for task in tasks if task not in names]:
        raise ValueError(f"{run} lacks the tasks {', '.join(absent)}; it has {', '.join(names)}. Name another run")
    if unscored := [task for task in tasks if task in report.get("unscored", ())]:
        raise ValueError(
            f"{run} has no scores of {', '.join(unscored)}. Score them: sefe score {run} --scorer TASK=NAME"
        )
    return {task: report["accuracy_matrix"][names.index(task)][names.index(task)] for task in tasks}
