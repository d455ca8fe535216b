"""The work of a sequence in the host's own processes: a task trained, scored and carried on; its base scored."""

import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError

from sefe_plugin.carry import CARRIES
from sefe_plugin.data.added import KEPT_FOLDER
from sefe_plugin.evaluation.results import SCORES_FILE
from sefe_plugin.files import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    MODEL_CONFIG_FILE,
    MODEL_WEIGHTS_FILES,
    is_whole_safetensors,
    write_json,
)
from sefe_plugin.methods import methods
from sefe_plugin.recipe.options import DATA_OPTIONS, KEYS_OF_SEQUENCE_ALONE, TEST_KEYS, plugin_keys
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run.costs import read_costs
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.ledger import record_process, record_rest, record_stopped
from sefe_plugin.run.process import LOG_FILE, Started, call, ended_how, last_lines
from sefe_plugin.run.progress import CARRYING, PREPARING, Phase, ProgressFile, forget_progress, newest_progress
from sefe_plugin.run.records import RunFolderError
from sefe_plugin.run.stages import BASE, SCORE_FILE, TASK_FILE, asked_in, scored_after
from sefe_plugin.run.steps import CARRIED, SCORED, TRAINED, forget_step, record_step, steps_of
from sefe_plugin.run.view import View


#: Bytes on a disk that are little for a training; what fails then often does not say why.
_LITTLE_ROOM = 1 << 30

#: Lines of a task's log that are shown when it has failed.
_LAST_LINES = 30


class TaskFailedError(RuntimeError):
    """A task's process ended without its results.

    Attributes:
        last_lines: What it said last, where that has not been shown already.
    """

    def __init__(self, message: str, last_lines: Sequence[str] = ()):
        super().__init__(message)
        self.last_lines = list(last_lines)


class Host(Protocol):
    """What trains a task: all functions but `start` ready what they need, and return the command line that does it."""

    def start(self, command: Sequence[str], outputs: tuple[int, int], held: Sequence[int]) -> Started:
        """Start one of its command lines, as `process.spawn` does, or in a quicker way with the same outcome."""

    def train(self, file: Path, keys: Mapping[str, Any]) -> list[str]:
        """Train a task, with the keys of `task_arguments`; the process may score and carry the task on as well."""

    def score(self, file: Path, keys: Mapping[str, Any]) -> list[str]:
        """Score a trained task."""

    def score_base(self, file: Path, keys: Mapping[str, Any]) -> list[str]:
        """Score the untouched base, with the keys of `base_arguments`."""

    def merge(self, file: Path, keys: Mapping[str, Any], adapter: Path, folder: Path) -> list[str]:
        """Merge `adapter` of the task with these keys into its base, not quantized; the model goes to `folder`."""


class _Work:
    """Processes of the host that leave their results in one folder.

    Args:
        host: What they are of.
        folder: The run folder.
        place: The folder of the results.
        what: What is at work, as the subject of a sentence.
        title: The same in short, for the lines that are shown.
        view: What shows how far it is.
    """

    def __init__(self, host: Host, folder: RunFolder, place: Path, what: str, title: str, view: View):
        self._host, self._run_folder, self.folder, self._what = host, folder, place, what
        self._title, self._view = title, view
        #: The measured time of a step, and of which task.
        self._step_seconds: tuple[float, str] | None = None
        self._in_processes = 0.0

    def record_rest(self, began: float, checks: float | None) -> None:
        """Record what the sequence itself took, beside the processes of this work.

        Args:
            began: When the work began, in seconds of Unix time.
            checks: Seconds from the start of the command to this work; None if it is not the command's first.
        """
        record_rest(self.folder, began, time.time() - began - self._in_processes, checks)

    def _do(self, command: Sequence[str], phase: str = "") -> None:
        """Run a command of the host to its end.

        Args:
            command: The command line.
            phase: Name of the phase of a method, whose training this is, and of its folder.
        """
        place = self.folder / phase
        began = time.time()
        ProgressFile(place).start(PREPARING)
        title = f"{self._title}, {phase}" if phase else self._title
        with self._view.following(place, title, self._step_seconds):
            self._call(command)
        self._record(place, began)

    def _record(self, place: Path, began: float) -> None:
        """Record what a process took that has just ended, by what it has said of its progress in `place`."""
        ended = time.time()
        self._in_processes += ended - began
        phases: list[Phase] = []
        with suppress(RunFolderError):  # of which nothing depends
            phases = newest_progress(place)
        if phases and phases[0].began >= began:  # on a full disk it may be an earlier process's
            record_process(self.folder, phases, ended)

    def _call(self, command: Sequence[str]) -> None:
        log = self.folder / LOG_FILE
        status = call(command, log, self._run_folder.held, self._view.verbose, self._host.start)
        if status != 0:
            free = shutil.disk_usage(self.folder).free
            full = f" Only {free >> 20} MB are left on its disk." if free < _LITTLE_ROOM else ""
            kept = " and its training" if TRAINED in steps_of(self.folder) else ""
            raise TaskFailedError(
                f"{self._what} {ended_how(status)}; its output is {'above and ' * self._view.verbose}in {log}.{full} "
                f"The complete tasks{kept} are kept, and the same command continues here. The command that failed "
                f"was: {shlex.join(command)}",
                () if self._view.verbose else last_lines(log, _LAST_LINES),
            )

    def _require(self, *files: Path) -> None:
        for file in files:
            if not file.is_file():
                raise TaskFailedError(f"{self._what} ended, but {file} is missing.")
            if file.suffix == ".safetensors" and not is_whole_safetensors(file):
                raise TaskFailedError(f"{self._what} ended, but {file} is cut short or damaged.")


class BaseJob(_Work):
    """The scoring of the untouched base before the first task.

    Args:
        host: What scores it.
        folder: The run folder.
        arguments: The keys that hold for every task.
        tasks: All tasks of the sequence.
        view: What shows how far it is.
    """

    def __init__(self, host: Host, folder: RunFolder, arguments: Mapping[str, Any], tasks: Sequence[Task], view: View):
        super().__init__(host, folder, folder.base_folder, "The scoring of the base", f"[0/{len(tasks)}] base", view)
        self._keys = base_arguments(arguments, tasks, folder)

    def is_whole(self) -> bool:
        """Tell whether all its test sets have scores; those of tasks that joined the sequence later may have none."""
        if SCORED not in steps_of(self.folder):
            return False
        asked = asked_in(self.folder) or set()
        return {(one["name"], one["dataset"]) for one in self._keys["test_sets"]} <= asked

    def run(self) -> None:
        """Score what has no answers yet.

        Raises:
            TaskFailedError: If the process fails or leaves no scores.
        """
        self.folder.mkdir(exist_ok=True)
        record_stopped(self.folder)
        if SCORED in steps_of(self.folder):
            forget_step(self.folder, SCORED)
        self._do(self._host.score_base(self.folder / SCORE_FILE, self._keys))
        self._require(self.folder / SCORES_FILE)
        record_step(self.folder, SCORED)
        forget_progress(self.folder)


class Job(_Work):
    """The steps of one task.

    Args:
        host: What trains it.
        folder: The run folder.
        arguments: The keys that hold for every task.
        tasks: All tasks of the sequence.
        index: Which of them, from 0.
        view: What shows how far it is.
    """

    def __init__(
        self,
        host: Host,
        folder: RunFolder,
        arguments: Mapping[str, Any],
        tasks: Sequence[Task],
        index: int,
        view: View,
    ):
        self._task = tasks[index]
        title = f"[{index + 1}/{len(tasks)}] {self._task.name}"
        place = folder.task_folder(index, self._task.name)
        super().__init__(host, folder, place, f"Task {self._task.name}", title, view)
        if index:
            self._step_seconds = _step_seconds(folder, index - 1, tasks[index - 1].name)
        self._keys = task_arguments(arguments, tasks, index, folder)
        self._way = arguments["carry"]
        self._method, self._carry = methods()[arguments["cl_method"]], CARRIES[self._way]

    def run(self) -> None:
        """Do the steps that are not whole.

        Raises:
            TaskFailedError: If a process fails or leaves no result.
        """
        record_stopped(self.folder)
        after_training = [(SCORED, self._score), (CARRIED, self._carry_on)]
        if self._keys.get("scoring_backend", "generate") != "generate":
            after_training.reverse()  # another engine answers with what is carried on
        for step, do in ((TRAINED, self._train), *after_training):
            if step not in steps_of(self.folder):
                do()
                record_step(self.folder, step)
        forget_progress(self.folder)

    def _train(self) -> None:
        self._run_folder.clear_unfinished(self.folder)
        phases = self._method.phases(self._keys)
        for phase in phases:
            folder = self.folder / phase.name
            if TRAINED in steps_of(folder):
                continue
            keys = {**self._keys, **phase.keys, "output_dir": str(folder)}
            if phase is not phases[-1]:
                self._run_folder.clear_unfinished(folder)
                keys |= {"test_sets": None, "merge_adapter": False, "replay_to": None}
            self._do(self._host.train(folder / TASK_FILE, keys), phase.name)
            self._require_trained(folder)
            record_step(folder, TRAINED)

    def _require_trained(self, folder: Path) -> None:
        if self._method.parametrisation == "full":
            self._require(folder / MODEL_CONFIG_FILE)
            if not any((folder / name).is_file() for name in MODEL_WEIGHTS_FILES):
                self._require(folder / MODEL_WEIGHTS_FILES[0])
        else:
            self._require(folder / ADAPTER_CONFIG_FILE, folder / ADAPTER_WEIGHTS_FILE)
        if self._method.file is not None:
            self._require(folder / self._method.file)

    def _score(self) -> None:
        if not self._keys["test_sets"]:  # no task so far has one
            write_json(self.folder / SCORES_FILE, {})
            return
        self._do(self._host.score(self.folder / SCORE_FILE, self._keys))
        self._require(self.folder / SCORES_FILE)

    def _carry_on(self) -> None:
        result = self._carry.result and self.folder / self._carry.result
        if result is None or result.is_file():
            self._finish_carrying()
        else:
            progress = ProgressFile(self.folder)
            began = time.time()
            progress.start(CARRYING)
            with self._view.following(self.folder, self._title):
                self._finish_carrying()
                progress.end()
            self._record(self.folder, began)
        if result is not None:
            self._require(result)

    def _finish_carrying(self) -> None:
        def merge(target: Path) -> None:
            self._call(self._host.merge(self.folder / "merge.yaml", self._keys, self.folder, target))

        try:
            self._carry.finish(self._keys, self.folder, merge)
        except (ValueError, SafetensorError) as error:
            raise TaskFailedError(
                f"Task {self._task.name} is trained and cannot be carried on by `carry: {self._way}`: {error}"
            ) from error


def _step_seconds(folder: RunFolder, index: int, name: str) -> tuple[float, str] | None:
    """Return the measured time of a step of a task's last training, and its name; None where none was measured."""
    costs = read_costs(folder.task_folder(index, name))
    return (costs[-1].step_seconds, name) if costs and costs[-1].steps else None


def task_arguments(
    arguments: Mapping[str, Any], tasks: Sequence[Task], index: int, folder: RunFolder
) -> dict[str, Any]:
    """Return the keys of one task's own run.

    Args:
        arguments: The keys that hold for every task, `cl_method` and `carry` among them.
        tasks: All tasks of the sequence.
        index: Which of them, from 0.
        folder: The run folder; what the tasks before left lies in it.
    """
    task, carry = tasks[index], CARRIES[arguments["carry"]]
    earlier = [] if carry.alone else [folder.task_folder(i, t.name) for i, t in enumerate(tasks[:index])]
    keys: dict[str, Any] = {
        **_of_tasks({**arguments, **task.overrides}),
        "stage": "sft",
        "do_train": True,
        "dataset": task.dataset,
        "output_dir": str(folder.task_folder(index, task.name)),
        "test_sets": scored_after(_plain(arguments, tasks), index),
    }
    keys |= carry.start(keys, earlier)
    method = methods()[arguments["cl_method"]]
    if method.earlier is not None:
        keys[method.earlier] = [str(path / method.file) for path in earlier]
    if keys.get("replay_ratio"):
        keys["replay_from"] = [str(path / KEPT_FOLDER) for path in earlier]
        keys["replay_to"] = str(folder.task_folder(index, task.name) / KEPT_FOLDER)
    return keys | method.start({**arguments, **keys}, len(earlier))


def base_arguments(arguments: Mapping[str, Any], tasks: Sequence[Task], folder: RunFolder) -> dict[str, Any]:
    """Return the keys of the scoring of the untouched base: those that hold for every task, without the method.

    Args:
        arguments: As in `task_arguments`.
        tasks: All tasks of the sequence.
        folder: The run folder.
    """
    of_data = {option.name for options in DATA_OPTIONS for option in fields(options)} - {"media_outside"}
    of_methods = {key for key, known in plugin_keys().items() if known.method is not None}
    keys = _of_tasks(arguments)
    return {
        **{key: value for key, value in keys.items() if key not in {"cl_method", *of_data, *of_methods}},
        "stage": "sft",
        "do_train": False,
        "dataset": tasks[0].dataset,
        "output_dir": str(folder.base_folder),
        "test_sets": scored_after(_plain(arguments, tasks), BASE),
    }


def _of_tasks(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that a task's own run has of those of the sequence."""
    return {key: value for key, value in arguments.items() if key not in KEYS_OF_SEQUENCE_ALONE}


def _plain(arguments: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
    entries = [
        {"name": task.name, "test_dataset": task.test_dataset, "scorer": task.scorer, "official": task.official}
        | {key: task.overrides[key] for key in TEST_KEYS if key in task.overrides}
        for task in tasks
    ]
    return {**arguments, "tasks": entries}
