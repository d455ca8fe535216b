"""The loop over the tasks of a sequence, and a report at the end."""

import time
from collections.abc import Callable, Mapping, Sequence

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.data.test_sets import test_set_errors
from sefe_plugin.evaluation.report import build_report, write_report
from sefe_plugin.evaluation.results import SCORES_FILE
from sefe_plugin.evaluation.scorers import SCORERS
from sefe_plugin.files import read_json
from sefe_plugin.recipe.keys import HostKeys
from sefe_plugin.recipe.load import Recipe, RecipeError
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.job import Host, Job


def run_sequence(recipe: Recipe, host: Host, host_keys: HostKeys, say: Callable[[str], None]) -> dict:
    """Train and score the tasks of `recipe` in order, continuing after the last step that is whole.

    Args:
        recipe: The checked recipe.
        host: What trains the tasks.
        host_keys: Its keys.
        say: Given one line to show for every finished task.

    Returns:
        The report, also written to the run folder.

    Raises:
        RecipeError: If a benchmark's test sets cannot be scored.
        RunFolderError: If the run folder is in use or belongs to something else.
        TaskFailedError: If a task's process fails; what is whole stays.
    """
    folder = RunFolder(recipe.output_dir.absolute())
    names = [task.name for task in recipe.tasks]
    with folder.lock():
        complete = folder.open_run(recipe.to_dict(), host_keys)
        arguments = dict(recipe.arguments)
        if recipe.benchmark is not None:
            arguments |= load_benchmark(recipe.benchmark).prepare(folder.data, arguments)
            _check_test_sets(recipe, arguments["dataset_dir"])
        if complete:
            say(f"Continuing after {len(complete)} of {len(names)} tasks: {', '.join(names[: len(complete)])}.")
        for index, task in enumerate(recipe.tasks):
            if index < len(complete):
                continue
            started = time.monotonic()
            job = Job(host, folder, arguments, recipe.tasks, index)
            job.run()
            seconds = time.monotonic() - started
            complete = [*complete, {"name": task.name, "folder": job.folder.name, "seconds": round(seconds, 1)}]
            folder.complete_task(recipe.to_dict(), complete)
            say(_task_line(index, names, read_json(job.folder / SCORES_FILE), seconds))
        report = build_report(names, *folder.matrices(names))
        title = f"{recipe.source}: {len(names)} tasks"
        if recipe.task_order is not None:
            report["task_order"] = recipe.task_order
            title += f" in the order {recipe.task_order}" if isinstance(recipe.task_order, str) else ""
        write_report(folder.path, report, title)
    return report


def _check_test_sets(recipe: Recipe, dataset_dir: str) -> None:
    errors = []
    for task in recipe.tasks:
        errors += test_set_errors(task.test_dataset, dataset_dir, task.scorer, SCORERS[task.scorer])
    if errors:
        raise RecipeError(recipe.source, errors)


def _task_line(index: int, names: Sequence[str], scores: Mapping[str, Mapping[str, float]], seconds: float) -> str:
    shown = "  ".join(f"{name} {scores[name]['accuracy']:.1f}" for name in names[: index + 1])
    mean = sum(scores[name]["accuracy"] for name in names[: index + 1]) / (index + 1)
    return f"[{index + 1}/{len(names)}] {names[index]} done in {seconds:.0f} s | {shown} | mean {mean:.1f}"
