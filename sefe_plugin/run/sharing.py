"""Tasks that another run of the same comparison has trained already, and the scores of its base: taken from there.

Two runs have a task in common where all that decides it is equal: the keys of the task's own run, how it is carried
on, the digests of all that it reads, the versions of the packages, and the trainings of every task before it. Paths
inside the run folder count by where they lead in it. So arms share the tasks before the first one in which a key
differs.
Nothing is said of two values that would have had the same effect: two methods share no task, not even the first. They
share the scores of the untouched base, of which no key of a method is a part.

A shared task's folder is a copy. Its weights are hard links where the disk has them, so they take no room. Names of
the other run's folder in its small files become those of its own. `identity.json` names the run that trained it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sefe_plugin.carry import CARRIES
from sefe_plugin.files import read_json, replacing_folder, write_json
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run.checkpoints import whole_checkpoints
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.inputs import INPUTS_FILE, Inputs, base_inputs, essence, write_inputs
from sefe_plugin.run.job import base_arguments, task_arguments
from sefe_plugin.run.ledger import LEDGER_FILE
from sefe_plugin.run.process import LOG_FILE
from sefe_plugin.run.progress import PROGRESS_FILE
from sefe_plugin.run.steps import SCORED, STEPS_FILE, steps_of
from sefe_plugin.versions import installed_versions


#: Names the folder of the runs that may share tasks; `sefe compare` sets it.
SHARED_RUNS = "SEFE_SHARED_RUNS"

IDENTITY_FILE = "identity.json"

_RUN = "<run>"
#: Files that hold names of folders.
_TEXTS = (".json", ".yaml", ".md")
#: Files that nobody changes in their place.
_LINKED = (".safetensors",)
#: What is a run's own; the ledger says where its own time went.
_NOT_TAKEN = (INPUTS_FILE, IDENTITY_FILE, PROGRESS_FILE, LEDGER_FILE)


class Shared:
    """What a run has in common with others.

    Args:
        folder: The run's.
        arguments: The keys that hold for every task, with those that the benchmark has prepared.
        tasks: All tasks of the sequence.
    """

    def __init__(self, folder: RunFolder, arguments: Mapping[str, Any], tasks: Sequence[Task]):
        self._folder, self._arguments, self._tasks = folder, arguments, tasks
        runs = os.environ.get(SHARED_RUNS)
        # paths in texts are found as they are: with blanks they may be broken, other characters may be escaped
        is_plain = str(folder.path).isascii() and not any(map(str.isspace, str(folder.path)))
        self._trained: dict[str, str] | None = None
        self._runs = Path(runs) if runs and is_plain and folder.path.parent == Path(runs) else None

    @property
    def is_on(self) -> bool:
        """Whether other runs are asked at all."""
        return self._runs is not None

    def take(self, index: int, inputs: Inputs, known: Inputs) -> dict[str, Any] | None:
        """Take a task from another run, if one has it.

        Args:
            index: Which task, from 0; it is not complete.
            inputs: What it is made of.
            known: What is known of the files of test sets.

        Returns:
            The other run's record of the task, with "shared_from", the name of that run's folder; None where the task
            is to be trained.
        """
        if self._runs is None:
            return None
        place = self._folder.task_folder(index, self._tasks[index].name)
        identity = self._identity(index, inputs, known)
        if identity is None or (place / STEPS_FILE).exists() or whole_checkpoints(place):
            return None
        for run in self._others():
            if record := self._complete(run, index, identity):
                trained_by = record.get("shared_from", run.name)
                try:
                    self._copy(run / place.name, place, {"identity": identity, "shared_from": trained_by}, inputs)
                except FileNotFoundError:
                    continue  # that run goes on, and has just removed a model that it needs no more
                return {**record, "shared_from": trained_by}
        self._trained = {"identity": identity}
        return None

    def take_base(self, inputs: Inputs) -> str | None:
        """Take the scores of the untouched base from another run, if one has them.

        Args:
            inputs: What they are made of; none are there yet.

        Returns:
            The name of the run that made them; None where they are to be made.
        """
        if self._runs is None:
            return None
        place = self._folder.base_folder
        keys = base_arguments(self._arguments, self._tasks, self._folder)
        identity = _digest(
            {
                "keys": _placed(keys, str(self._folder.path)),
                "inputs": {name: essence(record) for name, record in inputs.items()},
                "versions": installed_versions(),
            }
        )
        for run in self._others():
            found = _known_as(run / place.name)
            if found.get("identity") == identity and SCORED in steps_of(run / place.name):
                made_by = found.get("shared_from", run.name)
                self._copy(run / place.name, place, {"identity": identity, "shared_from": made_by}, inputs)
                return made_by
        self._trained = {"identity": identity}
        return None

    def note(self, place: Path) -> None:
        """Note what was done here from its beginning, so that others can take it.

        Args:
            place: The folder of the task or of the base, which `take` or `take_base` has just not found elsewhere.
        """
        if self._trained is not None:
            write_json(place / IDENTITY_FILE, self._trained)
            self._trained = None

    def _others(self) -> list[Path]:
        return sorted(path for path in self._runs.iterdir() if path.is_dir() and path != self._folder.path)

    def _identity(self, index: int, inputs: Inputs, known: Inputs) -> str | None:
        """Return the digest of all that decides a task; None where a task before has none."""
        before = []
        for number, task in enumerate(self._tasks[:index]):
            known_as = _known_as(self._folder.task_folder(number, task.name))
            if not known_as:
                return None
            # who trained it counts: what depends on the device may differ in two trainings of the same
            before.append([known_as["identity"], known_as.get("shared_from", self._folder.path.name)])
        keys = task_arguments(self._arguments, self._tasks, index, self._folder)
        tests = base_inputs(self._arguments, keys["test_sets"], known)
        content = {
            "keys": _placed(keys, str(self._folder.path)),
            "carry": self._arguments["carry"],
            "inputs": {name: essence(record) for name, record in (*tests.items(), *inputs.items())},
            "versions": installed_versions(),
            "before": before,
        }
        return _digest(content)

    def _complete(self, run: Path, index: int, identity: str) -> dict[str, Any] | None:
        """Return a run's record of a task with this identity that is whole; None where it has none."""
        place = run / self._folder.task_folder(index, self._tasks[index].name).name
        if _known_as(place).get("identity") != identity:
            return None
        try:
            manifest = RunFolder(run).read_manifest()
        except RunFolderError:
            return None  # a damaged run has nothing to give, and says so itself
        if manifest is None or len(manifest["complete"]) <= index:
            return None
        result = CARRIES[self._arguments["carry"]].result
        is_there = result is None or (place / result).is_file()  # `keep_merged: last` may have removed it
        return manifest["complete"][index] if is_there else None

    def _copy(self, source: Path, place: Path, identity: Mapping[str, Any], inputs: Inputs) -> None:
        own, other = (str(folder.parent) for folder in (place, source))
        with replacing_folder(place) as draft:
            for path in sorted(source.rglob("*")):
                if path.name in _NOT_TAKEN:
                    continue
                target = draft / path.relative_to(source)
                if path.is_dir():
                    target.mkdir(parents=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix in _TEXTS:
                    target.write_text(_renamed(path.read_text(encoding="utf-8"), other, own), encoding="utf-8")
                elif path.suffix in _LINKED:
                    _link(path, target)
                else:
                    shutil.copy2(path, target)
            (draft / LOG_FILE).write_text(f"Nothing was computed here: all of this is from {source}.\n")
            write_inputs(draft, inputs)
            write_json(draft / IDENTITY_FILE, identity)


def shared_from(run: Path) -> dict[str, str]:
    """Return the tasks that a run has taken from others: name -> name of the run that trained it."""
    manifest = RunFolder(run).read_manifest()
    return {task["name"]: task["shared_from"] for task in manifest["complete"] if "shared_from" in task}


def _known_as(place: Path) -> dict[str, str]:
    """Return what is noted of a task or of the base; nothing where it cannot be shared."""
    file = place / IDENTITY_FILE
    return read_json(file) if file.is_file() else {}


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _placed(value: Any, run: str) -> Any:
    """Return keys with the run's own folder by another name than that of any folder."""
    if isinstance(value, Mapping):
        return {key: _placed(part, run) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_placed(part, run) for part in value]
    if isinstance(value, str) and (value == run or value.startswith(f"{run}/")):
        return _RUN + value.removeprefix(run)
    return value


def _renamed(text: str, other: str, own: str) -> str:
    return text.replace(f"{other}/", f"{own}/")


def _link(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except FileNotFoundError:
        raise
    except OSError:  # a disk without hard links
        shutil.copy2(path, target)
