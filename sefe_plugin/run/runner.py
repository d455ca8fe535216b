"""The loop over the tasks of a sequence, and a report after each."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TextIO

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.data.test_sets import test_set_errors
from sefe_plugin.evaluation.metrics import mean_of
from sefe_plugin.evaluation.report import write_report
from sefe_plugin.evaluation.results import SCORES_FILE
from sefe_plugin.evaluation.scorers import scorer_of, spec_text
from sefe_plugin.files import read_json, remove_folder
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.keys import HostKeys
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run.details import run_details
from sefe_plugin.run.ending import recorded_ending
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.inputs import (
    TRAINING,
    Inputs,
    accepted,
    base_inputs,
    changes,
    read_inputs,
    task_inputs,
    write_inputs,
)
from sefe_plugin.run.job import BaseJob, Host, Job
from sefe_plugin.run.reporting import record_single_task, run_report
from sefe_plugin.run.rescoring import Scores, scores_to_mend, write_scores
from sefe_plugin.run.sharing import Shared
from sefe_plugin.run.spare import tidy
from sefe_plugin.run.stages import BASE, has_base_row, scored_after
from sefe_plugin.run.steps import SCORED, forget_step
from sefe_plugin.run.view import View
from sefe_plugin.versions import installed_versions


def run_sequence(
    recipe: Recipe,
    host: Host,
    host_keys: HostKeys,
    say: Callable[[str], None],
    accept_changed_data: bool = False,
    *,
    terminal: TextIO | None = None,
    verbose: bool = False,
    began: float | None = None,
) -> dict:
    """Train and score the tasks of `recipe` in order, continuing after the last step that is whole.

    Args:
        recipe: The checked recipe.
        host: What trains the tasks.
        host_keys: Its keys.
        say: Given one line to show for every phase of a task and every finished task, and for what a continued run
            does anew.
        accept_changed_data: Go on although what complete tasks were made of has changed.
        terminal: Where a bar shows how far a task is; None for no bar.
        verbose: Whether to show all that the tasks say, in place of bar and phases.
        began: When the command began, in seconds of Unix time; the ledger then has what came before the first task.

    Returns:
        The report, also written to the run folder, as it is after every task.

    Raises:
        RecipeError: If a benchmark's test sets cannot be scored.
        RunFolderError: If the run folder is in use, belongs to something else, cannot be written, or holds tasks that
            were made of other data.
        TaskFailedError: If a task's process fails; what is whole stays.
    """
    folder = RunFolder(recipe.output_dir.absolute())
    try:
        return _run(recipe, host, host_keys, View(say, terminal, verbose), folder, accept_changed_data, began)
    except OSError as error:
        raise RunFolderError(
            f"{folder.path}: {error}. See that the folder can be written and the disk has room; the same command "
            "continues after the last step that is whole."
        ) from error


def _run(
    recipe: Recipe,
    host: Host,
    host_keys: HostKeys,
    view: View,
    folder: RunFolder,
    accept_changed_data: bool,
    began: float | None,
) -> dict:
    names, say = [task.name for task in recipe.tasks], view.say
    with folder.lock():
        mended = scores_to_mend(folder, recipe.to_dict())
        complete = folder.open_run(recipe.to_dict(), host_keys, say)
        _mend_scores(mended, folder, say)
        scored = [task.name for task in recipe.tasks if task.is_scored]
        record_single_task(folder, recipe.arguments.get("single_task_run"), scored)
        arguments = dict(recipe.arguments)
        if recipe.benchmark is not None:
            arguments |= load_benchmark(recipe.benchmark).prepare(folder.data, arguments)
            _check_test_sets(recipe, arguments["dataset_dir"])
        known = _compare_inputs(recipe, arguments, folder, len(complete), say, accept_changed_data)
        tidy(folder, recipe.arguments)
        if complete:
            say(f"Continuing after {len(complete)} of {len(names)} tasks: {', '.join(names[: len(complete)])}.")
        sharing = Shared(folder, arguments, recipe.tasks)
        checks = None if began is None else time.time() - began
        # a report is written while the next task is at work
        with ThreadPoolExecutor(1, "sefe-report") as pool, recorded_ending(folder):
            if has_base_row(recipe.arguments):
                job = BaseJob(host, folder, arguments, recipe.tasks, view)
                if job.is_whole():
                    known |= read_inputs(job.folder)
                else:
                    known |= _score_base(job, recipe, arguments, known, say, sharing, checks)
                    checks = None
            ended, reports = time.time(), []
            for index, task in enumerate(recipe.tasks):
                if index < len(complete):
                    continue
                started = time.monotonic()
                job = Job(host, folder, arguments, recipe.tasks, index, view)
                if not read_inputs(job.folder):
                    present = task_inputs(arguments, task, known)
                    write_inputs(job.folder, present)
                    known |= present
                if sharing.is_on:
                    wait(reports)  # what is taken is complete at once
                shared = sharing.take(index, read_inputs(job.folder), known)
                job.run()
                wait(reports)  # before anything that it tells of may change
                job.record_rest(ended, checks)
                checks = None
                sharing.note(job.folder)
                seconds = shared["seconds"] if shared else time.monotonic() - started
                record = {"name": task.name, "folder": job.folder.name, "seconds": round(seconds, 1)}
                record |= {"shared_from": shared["shared_from"]} if shared else {}
                complete = [*complete, {**record, "versions": installed_versions()}]
                folder.complete_task(recipe.to_dict(), complete)
                tidy(folder, recipe.arguments)
                ended = time.time()
                line = _task_line(index, recipe, read_json(job.folder / SCORES_FILE), seconds)
                say(f"{line} | trained by {shared['shared_from']}, and taken from there" if shared else line)
                if len(complete) < len(names):
                    reports = [pool.submit(_try_report, folder, recipe, say)]
            return _write_report(folder, recipe)


def _write_report(folder: RunFolder, recipe: Recipe) -> dict:
    """Write the report of what is complete, and return it."""
    report = run_report(folder, [task.name for task in recipe.tasks])
    title = f"{recipe.source}: {len(recipe.tasks)} tasks"
    if recipe.task_order is not None:
        report["task_order"] = recipe.task_order
        title += f" in the order {recipe.task_order}" if isinstance(recipe.task_order, str) else ""
    write_report(folder.path, report, title, run_details(folder))
    return report


def _try_report(folder: RunFolder, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Write the report of an unfinished run; a report that fails is no reason to leave the other tasks untrained."""
    try:
        _write_report(folder, recipe)
    except Exception as error:
        say(
            f"The report so far could not be written: {type(error).__name__}: {error}. Nothing else is lost, and the "
            "next report holds these scores too."
        )


def _mend_scores(mended: Scores, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Write the scores that were computed anew, as far as the run goes on with what they are of."""
    kept = {file: scores for file, scores in mended.items() if file.parent.is_dir()}
    if not kept:
        return
    write_scores(kept)
    tasks = [file for file in kept if file.parent != folder.base_folder]
    parts = [f"{len(tasks)} complete tasks"] * bool(tasks) + ["the base"] * (len(tasks) < len(kept))
    say(f"Scored the answers of {' and of '.join(parts)} again, from their predictions.")


def _score_base(
    job: BaseJob,
    recipe: Recipe,
    arguments: Mapping[str, Any],
    known: Inputs,
    say: Callable[[str], None],
    sharing: Shared,
    checks: float | None,
) -> Inputs:
    """Score the untouched base, and return what its scores are made of."""
    started, began = time.monotonic(), time.time()
    sets = scored_after(recipe.to_dict(), BASE)
    recorded = read_inputs(job.folder)
    present = base_inputs(arguments, sets, known | recorded)
    shared_from = None if recorded else sharing.take_base(present)
    if shared_from is None:
        job.folder.mkdir(exist_ok=True)
        # test sets of tasks that have joined since are added
        write_inputs(job.folder, present | {name: record for name, record in recorded.items() if name in present})
        job.run()
        sharing.note(job.folder)
    job.record_rest(began, checks)
    scores = read_json(job.folder / SCORES_FILE)
    shown = _accuracies([one["name"] for one in sets], scores)
    line = f"[0/{len(recipe.tasks)}] base scored in {time.monotonic() - started:.0f} s | {shown}"
    say(line if shared_from is None else f"{line} | scored by {shared_from}, and taken from there")
    return present


def _compare_inputs(
    recipe: Recipe,
    arguments: Mapping[str, Any],
    folder: RunFolder,
    num_complete: int,
    say: Callable[[str], None],
    accept: bool,
) -> Inputs:
    """Compare what the tasks so far were made of with what is there now, and return it.

    Complete tasks must not have changed, unless that is accepted. What is left of another task is done anew, as far as
    it depends on what has changed.
    """
    known: Inputs = {}
    refused: list[str] = []
    changed: dict[Path, Inputs] = {}
    unfinished: list[tuple[Task, Path, Inputs]] = []
    base = folder.base_folder
    recorded = read_inputs(base)
    present = _present_base_inputs(recipe, arguments, recorded)
    known |= present
    # of a test set that no task has any more nothing is asked
    base_changes = changes({name: record for name, record in recorded.items() if name in present}, present)
    if base_changes and num_complete:
        refused += [f"the base before the first task: {sentence}" for sentence in base_changes]
        changed[base] = accepted(recorded, present)
    for index, task in enumerate(recipe.tasks):
        place = folder.task_folder(index, task.name)
        recorded = read_inputs(place)
        if not recorded:
            continue
        present = task_inputs(arguments, task, known | recorded)
        known |= present
        if index >= num_complete:
            unfinished.append((task, place, present))
        elif found := changes(recorded, present):
            refused += [f"task {task.name}: {sentence}" for sentence in found]
            changed[place] = accepted(recorded, present)
    if refused and not accept:
        listed = "\n".join(f"  - {sentence}" for sentence in refused)
        raise RunFolderError(
            f"{folder.path} holds complete tasks that were made of something else than is there now; continuing would "
            "mix the two. Put it back or choose another `output_dir`; or add --accept-changed-data to the command, to "
            f"continue on purpose.\n{listed}"
        )
    if base_changes and not num_complete:
        remove_folder(base)
        say(f"The base is scored anew: {base_changes[0]}")
    for task, place, present in unfinished:
        recorded = read_inputs(place)
        if found := changes(recorded, present, TRAINING):
            remove_folder(place)
            say(f"{task.name} starts anew: {found[0]}")
        elif changed or changes(recorded, present):
            _forget_scores(place)
            write_inputs(place, present)
            say(f"{task.name} is scored anew: the test sets have changed.")
    for place, inputs in changed.items():
        write_inputs(place, inputs)
    for sentence in refused:
        say(f"Accepted as changed: {sentence}")
    return known


def _present_base_inputs(recipe: Recipe, arguments: Mapping[str, Any], recorded: Inputs) -> Inputs:
    """Return what the scores of the untouched base are made of, as it is now; nothing where there are none yet."""
    if not recorded or not has_base_row(recipe.arguments):
        return {}
    return base_inputs(arguments, scored_after(recipe.to_dict(), BASE), recorded)


def _forget_scores(place: Path) -> None:
    forget_step(place, SCORED)
    (place / SCORES_FILE).unlink(missing_ok=True)
    shutil.rmtree(place / "predictions", ignore_errors=True)


def _check_test_sets(recipe: Recipe, dataset_dir: str) -> None:
    errors, limit = [], recipe.arguments.get("max_test_samples")
    sets = [("test_dataset", task.test_dataset, task.scorer) for task in recipe.tasks]
    sets += [("retention_sets", one["dataset"], one["scorer"]) for one in recipe.arguments.get("retention_sets") or ()]
    for key, dataset, scorer in sets:
        errors += test_set_errors(dataset, dataset_dir, spec_text(scorer), scorer_of(scorer), key, limit)
    if errors:
        raise RecipeError(recipe.source, errors)


def _task_line(index: int, recipe: Recipe, scores: Mapping[str, Mapping[str, float]], seconds: float) -> str:
    """Say how the tasks so far are, and the retention sets; a report tells the rest."""
    names = [task.name for task in recipe.tasks]
    mean = mean_of(scores[task.name]["accuracy"] for task in recipe.tasks[: index + 1] if task.is_scored)
    parts = [f"[{index + 1}/{len(names)}] {names[index]} done in {seconds:.0f} s"]
    parts += [_accuracies(names[: index + 1], scores), *([] if mean is None else [f"mean {mean:.1f}"])]
    if retention := recipe.arguments.get("retention_sets"):
        parts.append(_accuracies([one["name"] for one in retention], scores))
    return " | ".join(parts)


def _accuracies(names: Sequence[str], scores: Mapping[str, Mapping[str, float | None]]) -> str:
    accuracies = {name: scores.get(name, {}).get("accuracy") for name in names}  # of a task that is only trained, none
    return "  ".join(f"{name} {'-' if value is None else f'{value:.1f}'}" for name, value in accuracies.items())
