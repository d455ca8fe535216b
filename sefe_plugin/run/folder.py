"""The folder of a run: every path in it, what is complete, and the lock that keeps two runs apart.

run/
manifest.json             the recipe and the complete tasks; written last, so a task named in it is complete
data/                     the benchmark's dataset folder, if the recipe names a benchmark
single_task.json          with `single_task_run`: the accuracy of each task trained alone
0_base/                   with `score_unseen` or `retention_sets`: the untouched base, scored before the first task
    score.yaml              the plain recipe of its scoring; inputs.json, log.txt, steps.json, predictions/ and
                            scores.json as below
1_ScienceQA/              one task: its adapter, or its model with full fine-tuning, and
    task.yaml               the plain recipe of this task, which can be run again by hand
    inputs.json             what it was made of: data, base and other files, with their digests
    log.txt                 what its processes said
    steps.json              which of its steps are whole: trained, scored, carried
    cost.json               what its training took
    ledger.json             what each of its phases took, process by process
    progress.json           while it is at work: how far it is
    key_elements.safetensors  or what else the method leaves for later tasks
    asd.jsonl               every rewritten sample, before and after
    kept_samples/           with `replay_ratio`: what later tasks may draw of this one's samples
    predictions/*.jsonl     one line per answer
    scores.json             accuracy and format share of every task learned so far (`stages` says of what else);
                            official accuracy, if any
    merged/                 the base of the next task (`carry: merge`), or
    stacked/                the adapters so far as one plain LoRA on the untouched base (`carry: stack`)
report.json, report.md, *.png   of what is complete so far
ending.json               of a run that is unfinished: how it ended, by an error or by Ctrl-C
"""

import difflib
import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from sefe_plugin.evaluation.report import REPORT_FILE, REPORT_FILES
from sefe_plugin.evaluation.results import SCORES_FILE
from sefe_plugin.files import remove_folder, write_json
from sefe_plugin.recipe.keys import HostKeys
from sefe_plugin.recipe.options import TEST_KEYS, all_keys_of_scope, plugin_keys
from sefe_plugin.run.checkpoints import is_whole_checkpoint, whole_checkpoints
from sefe_plugin.run.inputs import INPUTS_FILE
from sefe_plugin.run.ledger import LEDGER_FILE
from sefe_plugin.run.process import LOG_FILE
from sefe_plugin.run.records import RunFolderError, is_manifest, is_scores, read_record
from sefe_plugin.run.stages import (
    BASE,
    BASE_NAME,
    stage_name,
    stages_of,
    stages_scored_otherwise,
)
from sefe_plugin.run.steps import SCORED, TRAINED, forget_step, steps_of


MANIFEST_VERSION = 2

_LOCK_FILE = ".lock"
#: Where transformers has TensorBoard write, below the folder of a training.
_EVENTS_FOLDER = "runs"
#: Holds the secret of a run over several nodes while it lasts.
SECRET_FILE = ".nodes.secret"  # noqa: S105 - its name
#: What a run may have left before its manifest.
_OWN_BEFORE_THE_MANIFEST = (_LOCK_FILE, SECRET_FILE, ".manifest.json.tmp")
#: Seconds that the processes of a run that was killed have to end.
_PATIENCE = 10


class RunFolder:
    """Paths and state of one run.

    Args:
        path: the folder; made when a run starts in it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.manifest_file = path / "manifest.json"
        self.data = path / "data"
        self.single_task_file = path / "single_task.json"
        #: Folder of the stage before the first task.
        self.base_folder = self.task_folder(BASE, BASE_NAME)
        #: File descriptors that hold the lock, for processes that shall hold it too.
        self.held: tuple[int, ...] = ()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process, and for those that inherit `held`.

        So a process that a killed run has left behind ends before the next run starts to write.

        Raises:
            RunFolderError: if another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._acquire(descriptor)
            self.held = (descriptor,)
            yield
        finally:
            self.held = ()
            os.close(descriptor)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep runs from starting here while files are read; nothing is made or changed.

        Several may read at a time. Where no run has ever locked the folder, there is nothing to hold.

        Raises:
            RunFolderError: If a run, or a process of it that still ends, holds the folder.
        """
        file = self.path / _LOCK_FILE
        with file.open("rb") if file.exists() else nullcontext() as lock:
            try:
                if lock is not None:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(f"{self.path} is in use by a run. Try again when it has ended.") from None
            yield

    def is_in_use(self) -> bool:
        """Tell whether a run, or a process of it that still ends, holds the folder; nothing is made or changed.

        A start at the very moment of the question waits for it, by a tenth of a second.
        """
        try:
            with self.reading():
                return False
        except RunFolderError:
            return True

    def _acquire(self, descriptor: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunFolderError(
                        f"{self.path} is in use by another run. Wait for it or choose another `output_dir`."
                    ) from None
            time.sleep(0.1)

    def task_folder(self, index: int, name: str) -> Path:
        """Return the folder of the task at `index`, counted from 0; of a stage, in the words of `stages`."""
        return self.path / f"{index + 1}_{name}"

    def read_manifest(self) -> dict[str, Any] | None:
        """Return the manifest, or None when no run has started here.

        Raises:
            RunFolderError: if the manifest is damaged, or was written by another version of its format.
        """
        if not self.manifest_file.exists():
            return None
        remedy = "Choose another `output_dir`."
        manifest = read_record(self.manifest_file, "a mapping", lambda content: isinstance(content, dict), remedy)
        if manifest.get("version") != MANIFEST_VERSION:
            raise RunFolderError(
                f"{self.manifest_file} has format version {manifest.get('version')!r}, this plugin reads "
                f"{MANIFEST_VERSION}. Choose another `output_dir`, or install the version that wrote it."
            )
        return read_record(self.manifest_file, "a recipe with its tasks, and those complete", is_manifest, remedy)

    def open_run(
        self, recipe: Mapping[str, Any], host: HostKeys, say: Callable[[str], None] = lambda line: None
    ) -> list[dict]:
        """Start a run of `recipe` here or continues it.

        Tasks that are not complete may differ from those of the run so far: a finished sequence can be given further
        tasks, and one that failed other keys. What is left of an unfinished task that now differs is removed. Keys
        that do not change what is learned may differ for the whole run, the batch size of a device too as long as
        accumulation makes up for it. As long as no task is complete, everything may differ.

        Args:
            recipe: the recipe as plain data, with its "tasks".
            host: the host's keys.
            say: given one line for each unfinished task whose leftovers are removed.

        Returns:
            The records of the complete tasks, in order.

        Raises:
            RunFolderError: if the folder holds a run of another recipe, with the difference, or foreign files, or a
                file of it is damaged.
        """
        for removed in self.path.glob(".*.removed"):
            shutil.rmtree(removed)  # half done by a run that was killed
        manifest = self.read_manifest()
        if manifest is None:
            own = {*_OWN_BEFORE_THE_MANIFEST, *host.own_files}
            foreign = sorted(file.name for file in self.path.iterdir() if file.name not in own)
            if foreign:
                raise RunFolderError(
                    f"{self.path} holds other files ({', '.join(foreign[:5])}). Choose another `output_dir`."
                )
            self._write_manifest(recipe, [])
            return []
        complete = manifest["complete"]
        old, new = manifest["recipe"], json.loads(json.dumps(recipe))
        if new == old:
            return complete
        before, after = (_done(recipe, len(complete), host) for recipe in (old, new))
        if before != after and complete:
            raise RunFolderError(
                f"{self.path} holds a run of another recipe; continuing would mix the two. Only tasks that are not "
                f"complete may change, and {', '.join(_computing(host))}, and {' and '.join(host.batch)} with an "
                f"equal product. Undo the other changes or choose another `output_dir`.\n{_difference(before, after)}"
            )
        for index, task in enumerate(old["tasks"]):
            folder = self.task_folder(index, task["name"])
            fits = before == after and _unscored([task]) == _unscored(new["tasks"][index : index + 1])
            if index >= len(complete) and not fits and folder.is_dir():
                remove_folder(folder)
                say(f"{task['name']} starts anew: its recipe is another than before.")
        if before != after:
            for place in (self.data, self.base_folder):  # the data a benchmark's, for the recipe before
                if place.is_dir():
                    remove_folder(place)
        self.forget_scores(old, stages_scored_otherwise(old, new), len(complete))
        self._write_manifest(new, complete)
        (self.path / REPORT_FILE).unlink(missing_ok=True)  # of the shorter sequence
        return complete

    def read_scores(self, index: int, name: str) -> dict[str, dict[str, float]]:
        """Return the scores of a task by the names of the test sets.

        Raises:
            RunFolderError: if they are absent or damaged.
        """
        file = self.task_folder(index, name) / SCORES_FILE
        rule = "a mapping from test sets to their `accuracy` and `format`, in percent"
        return read_record(file, rule, is_scores, f"Make it anew from the predictions: sefe score {self.path}")

    def forget_scores(self, recipe: Mapping[str, Any], stages: Sequence[int], num_complete: int) -> None:
        """Remove the scores of some tasks and the report, but no predictions.

        So scores of two scorers never stand side by side. Those of complete tasks are then made anew from the
        predictions (`rescoring`), those of an unfinished task by its scoring.
        """
        for index in stages:
            folder = self.task_folder(index, stage_name(recipe, index))
            (folder / SCORES_FILE).unlink(missing_ok=True)
            if index >= num_complete and SCORED in steps_of(folder):
                forget_step(folder, SCORED)
        for name in REPORT_FILES if stages else ():
            (self.path / name).unlink(missing_ok=True)

    def has_scored_base(self) -> bool:
        """Tell whether the untouched base is scored."""
        return SCORED in steps_of(self.base_folder)

    def finished_stages(self, recipe: Mapping[str, Any], num_complete: int) -> list[int]:
        """Return the stages whose answers are all there: complete tasks, and the base where it is scored."""
        stages = [index for index in stages_of(recipe) if index < num_complete]
        return [index for index in stages if index != BASE or self.has_scored_base()]

    def complete_task(self, recipe: Mapping[str, Any], complete: Sequence[dict]) -> None:
        """Record the complete tasks; call it when everything of the newest one is on disk."""
        self._write_manifest(recipe, complete)

    def _write_manifest(self, recipe: Mapping[str, Any], complete: Sequence[dict]) -> None:
        write_json(self.manifest_file, {"version": MANIFEST_VERSION, "recipe": recipe, "complete": list(complete)})

    def clear_unfinished(self, folder: Path) -> None:
        """Ready the folder of a task, or of one of its phases, that is not trained.

        Whole checkpoints of an interrupted run stay, so that the host continues from the last of them, with what
        TensorBoard has been told of the steps before; and phases that are trained or have such checkpoints, the log
        and the ledger. Everything else is written anew.
        """
        folder.mkdir(exist_ok=True)
        goes_on = bool(whole_checkpoints(folder))
        for entry in folder.iterdir():
            if entry.name in (INPUTS_FILE, LOG_FILE, LEDGER_FILE) or (goes_on and entry.name == _EVENTS_FOLDER):
                continue
            if entry.name.startswith("checkpoint-") and is_whole_checkpoint(entry):
                continue
            if TRAINED in steps_of(entry) or whole_checkpoints(entry):
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def newest_log(self) -> Path | None:
        """Return what the process that ran last has said; None where none has run."""
        logs = [log for log in self.path.glob(f"*/{LOG_FILE}") if log.is_file()]
        return max(logs, key=lambda log: log.stat().st_mtime_ns, default=None)


def _computing(host: HostKeys) -> list[str]:
    """Keys that say how a task is computed or shown, not what it learns."""
    return sorted([*host.computing, *all_keys_of_scope("computing"), *all_keys_of_scope("reporting")])


def _done(recipe: Mapping[str, Any], count: int, host: HostKeys) -> dict[str, Any]:
    """Return the part of a recipe that decided what its first `count` tasks learned."""
    known = plugin_keys()
    kept = {
        key: value
        for key, value in recipe.items()
        if key not in (*_computing(host), *host.batch, *TEST_KEYS)
        and not (key in known and value == known[key].option.default)
    }
    batch = {}
    if any(key in recipe for key in host.batch):
        sizes = [int(recipe.get(key) or default) for key, default in host.batch.items()]
        batch = {" x ".join(host.batch): math.prod(sizes)}
    if kept.get("retention_sets"):
        kept["retention_sets"] = _unscored(kept["retention_sets"])
    return {**kept, **batch, "tasks": _unscored(recipe["tasks"][:count])}


def _unscored(tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return tasks or retention sets without what decides nothing that is learned: how they are scored."""
    return [{key: value for key, value in task.items() if key not in ("scorer", *TEST_KEYS)} for task in tasks]


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    def lines(recipe: Mapping[str, Any]) -> list[str]:
        return yaml.safe_dump(json.loads(json.dumps(recipe)), sort_keys=True).splitlines()

    return "\n".join(difflib.unified_diff(lines(old), lines(new), "run folder", "this recipe", lineterm="", n=0))
