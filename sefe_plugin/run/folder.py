"""The folder of a run: every path in it, what is complete, and the lock that keeps two runs apart.

run/
manifest.json             the recipe and the complete tasks; written last, so a task named in it is complete
data/                     the benchmark's dataset folder, if the recipe names a benchmark
1_ScienceQA/              one task: its adapter, or its model with full fine-tuning, and
    task.yaml               the plain recipe of this task, which can be run again by hand
    steps.json              which of its steps are whole: trained, scored, carried
    key_elements.safetensors  or what else the method leaves for later tasks
    asd.jsonl               what every rewritten sample was
    predictions/*.jsonl     one line per answer
    scores.json             accuracy and format share of every task learned so far; official accuracy, if any
    merged/                 the base of the next task (`carry: merge`), or
    stacked/                the adapters so far as one plain LoRA on the untouched base (`carry: stack`)
report.json, report.md, *.png
"""

import difflib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import yaml

from sefe_plugin.evaluation.report import REPORT_FILE
from sefe_plugin.evaluation.results import SCORES_FILE
from sefe_plugin.files import read_json, write_json
from sefe_plugin.recipe.keys import HostKeys
from sefe_plugin.recipe.options import all_keys_of_scope
from sefe_plugin.run.steps import TRAINED, steps_of


MANIFEST_VERSION = 2


class RunFolderError(ValueError):
    """A run folder that cannot be used, with the reason and the remedy."""


class RunFolder:
    """Paths and state of one run.

    Args:
        path: the folder; made when a run starts in it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.manifest_file = path / "manifest.json"
        self.data = path / "data"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            RunFolderError: if another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunFolderError(
                f"{self.path} is in use by another run. Wait for it or choose another `output_dir`."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def task_folder(self, index: int, name: str) -> Path:
        """Return the folder of the task at `index`, counted from 0."""
        return self.path / f"{index + 1}_{name}"

    def read_manifest(self) -> dict[str, Any] | None:
        """Return the manifest, or None when no run has started here.

        Raises:
            RunFolderError: if the manifest was written by another version of its format.
        """
        if not self.manifest_file.is_file():
            return None
        manifest = read_json(self.manifest_file)
        if manifest.get("version") != MANIFEST_VERSION:
            raise RunFolderError(
                f"{self.manifest_file} has format version {manifest.get('version')!r}, this plugin reads "
                f"{MANIFEST_VERSION}. Choose another `output_dir`, or install the version that wrote it."
            )
        return manifest

    def open_run(self, recipe: Mapping[str, Any], host: HostKeys) -> list[dict]:
        """Start a run of `recipe` here or continues it.

        Tasks that are not complete may differ from those of the run so far: a finished sequence can be given further
        tasks, and one that failed other keys. What is left of an unfinished task that now differs is removed. Keys
        that do not change what is learned may differ for the whole run, the batch size of a device too as long as
        accumulation makes up for it.

        Args:
            recipe: the recipe as plain data, with its "tasks".
            host: the host's keys.

        Returns:
            The records of the complete tasks, in order.

        Raises:
            RunFolderError: if the folder holds a run of another recipe, with the difference, or foreign files.
        """
        manifest = self.read_manifest()
        if manifest is None:
            foreign = sorted(file.name for file in self.path.iterdir() if file.name != ".lock")
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
        if before != after:
            raise RunFolderError(
                f"{self.path} holds a run of another recipe; continuing would mix the two. Only tasks that are not "
                f"complete may change, and {', '.join(_computing(host))}, and {' and '.join(host.batch)} with an "
                f"equal product. Undo the other changes or choose another `output_dir`.\n{_difference(before, after)}"
            )
        for index, task in enumerate(old["tasks"]):
            if index >= len(complete) and task not in new["tasks"][index : index + 1]:
                shutil.rmtree(self.task_folder(index, task["name"]), ignore_errors=True)
        self._write_manifest(new, complete)
        (self.path / REPORT_FILE).unlink(missing_ok=True)  # of the shorter sequence
        return complete

    def complete_task(self, recipe: Mapping[str, Any], complete: Sequence[dict]) -> None:
        """Record the complete tasks; call it when everything of the newest one is on disk."""
        self._write_manifest(recipe, complete)

    def _write_manifest(self, recipe: Mapping[str, Any], complete: Sequence[dict]) -> None:
        write_json(self.manifest_file, {"version": MANIFEST_VERSION, "recipe": recipe, "complete": list(complete)})

    def clear_unfinished(self, folder: Path) -> None:
        """Ready the folder of a task, or of one of its phases, that is not trained.

        Whole checkpoints of an interrupted run stay, so that the host continues from the last of them, and phases that
        are trained or have such checkpoints; everything else is written anew.
        """
        folder.mkdir(exist_ok=True)
        for entry in folder.iterdir():
            if entry.name.startswith("checkpoint-") and (entry / "trainer_state.json").is_file():
                continue
            if TRAINED in steps_of(entry) or any(entry.glob("checkpoint-*/trainer_state.json")):
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def matrices(self, tasks: Sequence[str]) -> tuple[list[list], list[list], list[list] | None]:
        """Read the accuracy, format and official accuracy matrices of the tasks called `tasks`.

        Returns:
            Matrices in percent; entry [i][j] is on task j after task i, None where it was not scored. The last is None
            where no task is scored by an official rule.
        """
        manifest = self.read_manifest()
        num_complete = len(manifest["complete"]) if manifest else 0
        rows = [
            read_json(self.task_folder(index, name) / SCORES_FILE) if index < num_complete else {}
            for index, name in enumerate(tasks)
        ]
        accuracy, formatted, official = (
            [[scores.get(task, {}).get(key) for task in tasks] for scores in rows]
            for key in ("accuracy", "format", "official")
        )
        has_official = any(value is not None for row in official for value in row)
        return accuracy, formatted, official if has_official else None


def _computing(host: HostKeys) -> list[str]:
    """Keys that say how a task is computed or shown, not what it learns."""
    return sorted([*host.computing, *all_keys_of_scope("computing")])


def _done(recipe: Mapping[str, Any], count: int, host: HostKeys) -> dict[str, Any]:
    """Return the part of a recipe that decided what its first `count` tasks learned."""
    kept = {key: value for key, value in recipe.items() if key not in (*_computing(host), *host.batch)}
    batch = {}
    if any(key in recipe for key in host.batch):
        sizes = [int(recipe.get(key) or default) for key, default in host.batch.items()]
        batch = {" x ".join(host.batch): math.prod(sizes)}
    return {**kept, **batch, "tasks": recipe["tasks"][:count]}


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    def lines(recipe: Mapping[str, Any]) -> list[str]:
        return yaml.safe_dump(json.loads(json.dumps(recipe)), sort_keys=True).splitlines()

    return "\n".join(difflib.unified_diff(lines(old), lines(new), "run folder", "this recipe", lineterm="", n=0))
