"""Where a run is, from its folder: told without disturbing it, and without anything heavy to import."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sefe_plugin.evaluation.metrics import mean_of
from sefe_plugin.run.ending import read_ending
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.process import LOG_FILE, last_lines
from sefe_plugin.run.progress import UNITS, Phase, newest_progress
from sefe_plugin.run.stages import BASE, has_base_row, stage_name, unscored_sets
from sefe_plugin.run.steps import steps_of
from sefe_plugin.words import duration


#: Lines of the log that are shown.
_LAST_LINES = 5

RUNNING, FINISHED, FAILED, STOPPED, NOT_STARTED = "running", "finished", "failed", "stopped", "not started"


def run_status(path: Path) -> dict[str, Any]:
    """Read where a run is.

    Args:
        path: The run folder.

    Returns:
        Plain data: "run", "state" (running, finished, failed, stopped or not started) and "said", why it ended. Of a
        run that has started: "tasks", "complete", "scores", the rows of the complete tasks by task and test set, and
        "mean", the mean accuracy of the complete tasks after the last of them. Of one that is not finished: "task",
        "steps", those that are whole, "phase" with "name", "done", "total", "unit", "rate" in a second and "since",
        "phase_left" and "left", seconds until the phase and about until all tasks are done, "log" and "last_lines".
        None stands for what is not known.

    Raises:
        RunFolderError: If there is no such folder, or a file of it is damaged.
    """
    if not path.is_dir():
        raise RunFolderError(f"{path} is no folder. Name the `output_dir` of a sequence.")
    folder = RunFolder(path)
    is_running = folder.is_in_use()
    manifest = folder.read_manifest()
    if manifest is None:
        return {"run": str(path), "state": RUNNING if is_running else NOT_STARTED, "said": None}
    recipe, complete = manifest["recipe"], manifest["complete"]
    names = [task["name"] for task in recipe["tasks"]]
    ending = None if is_running else read_ending(folder)
    is_finished = len(complete) == len(names)
    ended = STOPPED if ending is None or not ending.failed else FAILED
    scores = {name: folder.read_scores(index, name) for index, name in enumerate(names[: len(complete)])}
    status = {
        "run": str(path),
        "state": RUNNING if is_running else FINISHED if is_finished else ended,
        "said": ending.said.strip() or None if ending else None,
        "tasks": names,
        "complete": len(complete),
        "scores": scores,
        "mean": _mean(scores, names[: len(complete)], unscored_sets(recipe)),
    }
    return status if is_finished else {**status, **_at_work(folder, recipe, complete, is_running)}


def _mean(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]], learned: Sequence[str], unscored: Collection[str]
) -> float | None:
    return mean_of(scores[learned[-1]].get(name, {}).get("accuracy") for name in learned if name not in unscored)


def _at_work(folder: RunFolder, recipe: Mapping[str, Any], complete: Sequence[Mapping], is_running: bool) -> dict:
    """Tell of the stage that is at work, or was when the run ended."""
    index = len(complete)
    if index == 0 and has_base_row(recipe) and not folder.has_scored_base():
        index = BASE
    place = folder.task_folder(index, stage_name(recipe, index))
    phases = newest_progress(place)
    log = place / LOG_FILE
    status: dict[str, Any] = {
        "task": stage_name(recipe, index),
        "steps": steps_of(place),
        "phase": None,
        "phase_left": None,
        "left": None,
        "log": str(log) if log.is_file() else None,
        "last_lines": last_lines(log, _LAST_LINES),
    }
    if phases:
        phase = phases[-1]
        status["phase"] = {
            **{key: getattr(phase, key) for key in ("name", "done", "total", "rate")},
            "unit": UNITS.get(phase.name),
            "since": phase.began,
        }
        if is_running:
            passed = time.time() - phase.seen
            status["phase_left"] = None if phase.left is None else max(0.0, phase.left - passed)
            status["left"] = _left(phases, status["phase_left"], [entry.get("seconds") for entry in complete], recipe)
    return status


def _left(
    phases: Sequence[Phase], phase_left: float | None, seconds: Sequence[float | None], recipe: Mapping[str, Any]
) -> float | None:
    """Return about how many seconds all tasks still take, if each takes as long as those so far in the mean."""
    mean = mean_of(seconds)
    if mean is None:
        return None
    own = mean - (time.time() - phases[0].began)
    return max(own, phase_left or 0.0) + mean * (len(recipe["tasks"]) - len(seconds) - 1)


def format_status(status: Mapping[str, Any]) -> str:
    """Write a status as a few lines."""
    if "tasks" not in status:
        said = "in use, and about to begin" if status["state"] == RUNNING else "no run has begun in this folder"
        return f"{status['run']}: {status['state']}, {said}"
    return "\n".join(_lines(status))


def _lines(status: Mapping[str, Any]) -> Iterator[str]:
    yield f"{status['run']}: {status['state']}, {status['complete']} of {len(status['tasks'])} tasks complete"
    if status["state"] in (FAILED, STOPPED):
        yield f"  {status['said'] or 'Killed, or the machine was lost; nothing was recorded.'}"
        yield "  The same command continues after the last step that is whole."
    if status["complete"]:
        last = status["tasks"][status["complete"] - 1]
        scores = status["scores"][last]
        accuracies = {name: values["accuracy"] for name, values in scores.items()}
        shown = "  ".join(f"{name} {'-' if of is None else f'{of:.1f}'}" for name, of in accuracies.items())
        mean = "" if status["mean"] is None else f" | mean {status['mean']:.1f}"
        yield f"after {last}: {shown or 'nothing is scored'}{mean}"
    if "task" in status:
        yield from _work_lines(status)


def _work_lines(status: Mapping[str, Any]) -> Iterator[str]:
    is_running, phase = status["state"] == RUNNING, status["phase"]
    yield f"{'now' if is_running else 'next'}: {status['task']}{_phase(phase, status['steps'], is_running)}"
    if is_running and status["phase_left"] is not None:
        yield f"  {phase['name']} done at {_clock(status['phase_left'])}, in {duration(status['phase_left'])}"
    if is_running and status["left"] is not None:
        yield f"  all tasks done at about {_clock(status['left'])}, in {duration(status['left'])}"
    if status["log"]:
        yield f"log: {status['log']}"
        yield from (f"  | {line}" for line in status["last_lines"])


def _phase(phase: Mapping[str, Any] | None, steps: Sequence[str], is_running: bool) -> str:
    whole = f", already {' and '.join(steps)}" if steps else ""
    if phase is None:
        return whole
    counted = f", {phase['done']} of {phase['total']} {phase['unit']}" if phase["total"] else ""
    rate = f", {phase['rate']:.3g} {phase['unit']}/s" if phase["rate"] and is_running else ""
    return f", {'' if is_running else 'ended in '}{phase['name']}{counted}{rate}{whole}"


def _clock(seconds: float) -> str:
    """Return the time of the day that comes in some seconds, with its date where that is another one."""
    now, then = time.localtime(), time.localtime(time.time() + seconds)
    return time.strftime("%H:%M:%S" if now[:3] == then[:3] else "%Y-%m-%d %H:%M", then)
