"""The trial of a sequence where it starts: in a process of its own, and only of what has not passed it before.

LLaMA-Factory takes ten seconds to load, so the process that runs a sequence does not load it. What has passed is
recorded beside the caches of Hugging Face, in `sefe_plugin/trials`, one small file for each task: a second start with
the same keys, files and versions does not read all records again.
"""

import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.data.added import mix_names
from sefe_plugin.files import read_json, write_json
from sefe_plugin.hosts.llamafactory.host import section_of
from sefe_plugin.hosts.llamafactory.vllm_python import scoring_python_errors
from sefe_plugin.hosts.llamafactory.watch import end_with_runner
from sefe_plugin.methods import looked_at, methods
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import Recipe, recipe_warnings
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.process import Start, spawn, wait_for
from sefe_plugin.run.stages import BASE


#: This module, as the command line of the trial has it.
TRIAL_MODULE = "sefe_plugin.hosts.llamafactory.trial_process"

_PACKAGES = ("llamafactory", "transformers", "peft", "datasets", "pillow", "sefe-plugin")

#: Lines of a trial that has failed itself, for the message.
_LAST_LINES = 15


def require_trial(
    recipe: Recipe, say: Callable[[str], None], trial: Callable | None = None, start: Start = spawn
) -> None:
    """Let the host try what a sequence has still to do, before it does anything.

    Args:
        recipe: The checked recipe.
        say: Given one line to show for what is done, not tried or doubtful.
        trial: Tries a recipe and the data of tasks (`trial.try_sequence`); in a process of its own if None.
        start: Starts that process.

    Raises:
        RecipeError: With all that the host would refuse, of all tasks, and what `scoring_python` lacks.
    """
    manifest = RunFolder(recipe.output_dir.absolute()).read_manifest()
    complete = len(manifest["complete"]) if manifest else 0
    if complete >= len(recipe.tasks):
        return
    for warning in recipe_warnings(recipe):
        say(f"Warning: {warning}")
    errors = scoring_python_errors(recipe)
    with tempfile.TemporaryDirectory() as folder, with_data(recipe, Path(folder) / "data") as (ready, indices):
        left = [index for index in indices if index == BASE or index >= complete]
        ahead = {index: _Passed(_data_digest(ready, recipe, index)) for index in left}
        keys = _Passed(_keys_digest(recipe))
        to_try = [index for index, passed in ahead.items() if not passed.holds()]
        if to_try or not keys.holds():
            names = _names(recipe, to_try)
            known = _names(recipe, (index for index in ahead if index not in to_try))
            data = f" and the data of {names}" if names else ""
            say(f"Trying the keys{data} in LLaMA-Factory before the start{known and f' ({known}: tried before)'}.")
            found = try_data(ready, to_try, trial or partial(_in_a_process, start=start))
            errors += found["errors"]
            if not found["errors"]:
                keys.record([], found["notes"])
            for index, task in sorted(found["tasks"].items(), key=lambda item: int(item[0])):
                errors += task["errors"]
                if not task["errors"]:
                    ahead[int(index)].record(task["media"], task["notes"])
        if errors:
            raise RecipeError(recipe.source, errors)
        for note in (note for passed in (keys, *ahead.values()) for note in passed.notes()):
            say(note)


def _names(recipe: Recipe, indices: Iterable[int]) -> str:
    """Return the names of tasks, and of retention sets, to be read."""
    return ", ".join("retention sets" if index == BASE else recipe.tasks[index].name for index in indices)


@contextmanager
def with_data(recipe: Recipe, folder: Path) -> Iterable[tuple[Recipe, list[int]]]:
    """Yield a recipe with the keys that point to its data, and the indices of the tasks whose data can be tried.

    `stages.BASE` stands for its retention sets.

    Args:
        recipe: The checked recipe; its data is there.
        folder: Where a benchmark may write its dataset folder for as long as the context lasts; what it draws is
            there in `try_data` only.
    """
    every = list(range(BASE if recipe.arguments.get("retention_sets") else 0, len(recipe.tasks)))
    if recipe.benchmark is None:
        yield recipe, every
    elif recipe.is_drawn:
        yield replace(recipe, arguments={**recipe.arguments, "dataset_dir": str(folder)}), every
    else:
        keys = load_benchmark(recipe.benchmark).prepare(folder, recipe.arguments)
        yield replace(recipe, arguments={**recipe.arguments, **keys}), every


def try_data(ready: Recipe, indices: list[int], trial: Callable[[Recipe, list[int]], dict]) -> dict[str, Any]:
    """Let the host try a recipe, and data of its tasks; what its benchmark draws, it draws for that.

    What is drawn is gone afterwards, so no path to it is left in what was found.

    Args:
        ready: The recipe with the keys that point to its data, from `with_data`.
        indices: Of the tasks whose data is tried.
        trial: As in `require_trial`.

    Returns:
        What the trial found.
    """
    if not (indices and ready.is_drawn):
        return trial(ready, indices)
    folder = Path(ready.arguments["dataset_dir"])
    load_benchmark(ready.benchmark).draw(folder, ready.arguments, for_trial=True)
    found = trial(ready, indices)
    for part in (found, *found["tasks"].values()):
        for kind in ("errors", "notes"):
            part[kind] = [sentence.replace(f"{folder}{os.sep}", "") for sentence in part[kind]]
    for task in found["tasks"].values():
        task["media"] = []
    return found


class _Passed:
    """The record that something has passed its trial."""

    def __init__(self, digest: str):
        self._file = Path(HF_HOME) / "sefe_plugin" / "trials" / f"{digest}.json"
        self._record = self._read()

    def _read(self) -> dict[str, Any] | None:
        try:
            return read_json(self._file)
        except (OSError, ValueError):
            return None

    def holds(self) -> bool:
        """Whether it has passed, and all files that were opened are as they were."""
        record = self._record
        return record is not None and all(_state(path) == state for path, state in record["media"].items())

    def notes(self) -> list[str]:
        """Return what was said when it passed."""
        return self._record["notes"] if self._record else []

    def record(self, media: Iterable[str], notes: list[str]) -> None:
        """Record that it has passed."""
        self._record = {"media": {path: _state(path) for path in media}, "notes": notes}
        with suppress(OSError):  # a read-only cache only makes the next start slower
            write_json(self._file, self._record)


def _state(path: str | Path) -> list[int] | None:
    """Return the size and the time of a file; None where it is gone."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _keys_digest(recipe: Recipe) -> str:
    keys = {key: value for key, value in recipe.to_dict().items() if key != "output_dir"}
    machine = [platform.node(), sys.prefix, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("FORCE_TORCHRUN")]
    return _digest(keys, machine, _model_files(recipe.arguments))


def _data_digest(ready: Recipe, recipe: Recipe, index: int) -> str:
    """Return the digest of everything that the trial of a task's data, or of retention sets, depends on.

    Args:
        ready: The recipe with the keys that point to its data.
        recipe: The recipe as it was.
        index: Of the task, or `stages.BASE`.
    """
    task = recipe.tasks[max(index, 0)]
    keys = {**recipe.arguments, **task.overrides}
    used = {
        key: value
        for key, value in keys.items()
        if section_of(key) in ("model", "dataset", "generation") or key in ("seed", "scoring_backend")
    }
    used["added_tokens"] = methods()[keys["cl_method"]].added_tokens(keys)
    if index == BASE:
        sets = recipe.arguments["retention_sets"]
        names = [one["dataset"] for one in sets]
        return _digest(used, sets, _files_of(ready, names), _model_files(keys))
    return _digest(used, asdict(task), _data_files(ready, ready.tasks[index]), _model_files(keys))


def _digest(*parts: Any) -> str:
    versions = [version(package) for package in _PACKAGES]
    content = json.dumps([versions, *parts], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _data_files(ready: Recipe, task: Task) -> list:
    """Return what the trial of a task's datasets depends on, as `_files_of` does."""
    keys = {**ready.arguments, **task.overrides}
    named = keys.get("eval_dataset") or ()
    names = [*task.dataset.split(","), *(named.split(",") if isinstance(named, str) else named)]
    names += [] if task.test_dataset is None else [task.test_dataset]
    return _files_of(ready, [*names, *mix_names(keys), *(name for _, name in looked_at(keys))])


def _files_of(ready: Recipe, names: list[str]) -> list:
    """Return the entries of datasets, and the state of their files; who draws them, where they are drawn by rule."""
    if ready.is_drawn:
        return [ready.benchmark, names]  # beside the seed, which every digest has
    folder = Path(ready.arguments.get("dataset_dir", "data"))
    info = read_json(folder / "dataset_info.json")
    entries = {name: info.get(name.strip()) for name in names}
    files = [folder / str((entry or {}).get("file_name", "")) for entry in entries.values()]
    single = [part for file in files for part in (sorted(file.iterdir()) if file.is_dir() else [file])]
    return [entries, {str(file.absolute()): _state(file) for file in single}]


def _model_files(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of the small files of a local model: configurations and tokenizer."""
    folder = Path(str(arguments["model_name_or_path"]))
    return {str(file.absolute()): _state(file) for file in sorted(folder.glob("*")) if file.suffix != ".safetensors"}


def _in_a_process(recipe: Recipe, tasks: list[int], start: Start) -> dict[str, Any]:
    """Run `trial.try_sequence` in a process that loads the host."""
    with tempfile.TemporaryDirectory() as folder:
        job, result, log = (Path(folder) / name for name in ("job.json", "result.json", "log"))
        content = {**asdict(recipe), "output_dir": str(recipe.output_dir)}
        job.write_text(json.dumps({"recipe": content, "tasks": tasks}, default=str), encoding="utf-8")
        command = [sys.executable, "-P", "-m", TRIAL_MODULE, str(job), str(result), str(log)]
        status = wait_for(start(command, (1, 2), ()))
        if status == 0 and result.is_file():
            return read_json(result)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        raise RecipeError(
            recipe.source,
            [
                f"the trial of its keys and data in LLaMA-Factory ended with exit status {status} before it was done. "
                "Its last lines were:\n" + "\n".join(lines[-_LAST_LINES:])
            ],
        )


def main(job: str, result: str, log: str) -> None:
    """Try a recipe in this process, which has been started for it.

    Args:
        job: File with the recipe and the indices of the tasks.
        result: File for what was found.
        log: File for what the host says meanwhile; progress goes to standard error.
    """
    bar = os.fdopen(os.dup(2), "w", encoding="utf-8")
    with Path(log).open("w", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    end_with_runner()
    content = read_json(Path(job))
    keys = content["recipe"]
    tasks = tuple(Task(**task) for task in keys["tasks"])
    recipe = Recipe(**{**keys, "tasks": tasks, "output_dir": Path(keys["output_dir"])})
    _join_torchrun()
    from sefe_plugin.hosts.llamafactory.trial import try_sequence

    found = try_sequence(recipe, content["tasks"], here=True, bar=bar)
    write_json(Path(result), found)


def _join_torchrun() -> None:
    """Be the only process of a torchrun where the host would start its training with one.

    The host's parser refuses DeepSpeed, and several GPUs, in any other process.
    """
    from llamafactory.extras.misc import find_available_port, get_device_count, is_env_enabled

    if is_env_enabled("FORCE_TORCHRUN") or get_device_count() > 1:
        os.environ |= dict.fromkeys(("RANK", "LOCAL_RANK"), "0") | dict.fromkeys(
            ("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1"
        )
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_available_port())}


if __name__ == "__main__":
    main(*sys.argv[1:])
