"""What a task was made of: its data, the base and the files that its recipe names, so that a change is noticed.

Example, a part of ``1_charts/inputs.json``::

    "charts_train": {
      "for": "training", "file": "/data/charts.json", "size": 81222, "modified": 17640720000000, "sha256": "9f2c..."
    }

How a change is seen:

- a file: by size and time of change at first. Only where one of them differs is its SHA-256 taken again, and that
  decides. So a copy with new times is no change.
- the weights of a base: in the same way, but the digest covers 4 MB at most: 64 blocks spread evenly over each file.
- images, videos and audio of a dataset: by their names and sizes, and, where their times differ, by the bytes of up to
  256 of them. Another file of equal size that is none of these is not seen.
- a model or dataset of a hub: by its name, and a model by the revision that this machine's cache holds, if any.
- how many records of a test set are answered (`max_test_samples`), with its entry in dataset_info.json.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sefe_plugin.data.added import mix_names
from sefe_plugin.data.layout import SUFFIXES, listed
from sefe_plugin.data.reader import read_records
from sefe_plugin.files import file_digest, read_json, write_json
from sefe_plugin.methods import looked_at
from sefe_plugin.recipe.tasks import Task


INPUTS_FILE = "inputs.json"

#: What an input is for: to train a task, or to score it; the base where it is scored alone.
TRAINING, TEST, SCORING = "training", "test", "scoring"

#: Inputs of one task, by name.
Inputs = dict[str, dict[str, Any]]

#: What of a record may differ although the input is the same.
_CIRCUMSTANCES = ("for", "file", "modified", "accepted")
#: Files up to this size are read whole, even those of a base model.
_SMALL = 8 << 20
_BLOCK, _BLOCKS = 1 << 16, 64
_MEDIA_READ = 256
_MEDIA_COLUMNS = ("images", "videos", "audios")


def task_inputs(arguments: Mapping[str, Any], task: Task, recorded: Inputs) -> Inputs:
    """Return the inputs of a task as they are now.

    Args:
        arguments: The keys that hold for every task; `dataset_dir` and `media_dir` as the task is trained with them.
        task: The task.
        recorded: The inputs as they were, whose digests hold for files that are as large and as old as then.
    """
    keys = {**arguments, **task.overrides}
    folder = Path(keys.get("dataset_dir") or "data")
    media_dir = Path(keys.get("media_dir") or folder)
    found: Inputs = {}
    limit = arguments.get("max_test_samples")
    tests = {one["dataset"]: limit for one in arguments.get("retention_sets") or ()}
    if task.test_dataset is not None:
        tests[task.test_dataset] = keys.get("max_test_samples")
    trained = [*task.dataset.split(","), *mix_names(keys), *(name for _, name in looked_at(keys))]
    named = {TEST: tests, TRAINING: trained}  # what serves both is for training
    for use, names in named.items():
        for name in map(str.strip, names):
            found |= {key: {"for": use, **record} for key, record in _dataset(name, folder, media_dir, recorded)}
    _note_limits(found, tests)
    others = {key: {"for": TRAINING, **record} for key, record in (*_base(keys, recorded), *_files(keys, recorded))}
    return found | others


def base_inputs(arguments: Mapping[str, Any], test_sets: Iterable[Mapping[str, Any]], recorded: Inputs) -> Inputs:
    """Return what the scores of the untouched base are made of, as it is now: its test sets and the base.

    Args:
        arguments: As in `task_inputs`.
        test_sets: The test sets, as `stages.scored_after` returns them.
        recorded: As in `task_inputs`.
    """
    found = test_inputs(arguments, test_sets, recorded)
    return found | {key: {"for": SCORING, **record} for key, record in _base(arguments, recorded)}


def test_inputs(arguments: Mapping[str, Any], test_sets: Iterable[Mapping[str, Any]], recorded: Inputs) -> Inputs:
    """Return what test sets are made of, as they are now.

    Args:
        arguments: As in `task_inputs`.
        test_sets: As in `base_inputs`.
        recorded: As in `task_inputs`.
    """
    folder = Path(arguments.get("dataset_dir") or "data")
    media_dir = Path(arguments.get("media_dir") or folder)
    found: Inputs = {}
    limits = {one["dataset"]: one.get("max_samples") for one in test_sets}
    for name in limits:
        found |= {key: {"for": TEST, **record} for key, record in _dataset(name, folder, media_dir, recorded)}
    _note_limits(found, limits)
    return found


def read_inputs(folder: Path) -> Inputs:
    """Return what is recorded in the folder of a stage; nothing where an earlier version trained it."""
    file = folder / INPUTS_FILE
    return read_json(file) if file.is_file() else {}


def write_inputs(folder: Path, inputs: Inputs) -> None:
    """Record the inputs of a task in its folder."""
    write_json(folder / INPUTS_FILE, inputs)


def changes(recorded: Inputs, present: Inputs, use: str | None = None) -> list[str]:
    """List the inputs that are recorded and differ now, one sentence each.

    Args:
        recorded: The inputs as they were.
        present: As they are.
        use: Only those for `TRAINING`, `TEST` or `SCORING`.
    """
    found = []
    for name, record in recorded.items():
        was, now = essence(record.get("accepted") or record), essence(present.get(name, {}))
        differing = [key for key in was | now if was.get(key) != now.get(key)]
        # of a model on a hub the revision may be unknown, until it is downloaded
        unknown = differing == ["revision"] and None in (was["revision"], now.get("revision"))
        if differing and not unknown and use in (None, record["for"]):
            place = f", {record['file']}" if "file" in record else ""
            then, today = (_shown(state, differing) for state in (was, now))
            found.append(f"{name} (for {record['for']}{place}): it was {then}, and is {today}.")
    return found


def accepted(recorded: Inputs, present: Inputs) -> Inputs:
    """Return the record of inputs whose changes are accepted: what they were stays, and what they are joins it."""
    return {
        name: record if not changes({name: record}, present) else record | {"accepted": present.get(name, {})}
        for name, record in recorded.items()
    }


def essence(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an input's record that is equal wherever and for whatever it is read."""
    return {key: value for key, value in record.items() if key not in _CIRCUMSTANCES}


def _shown(state: Mapping[str, Any], keys: Sequence[str]) -> str:
    if not state or "absent" in state:
        return "absent"
    shown = {key: str(state.get(key, "not set")) for key in keys}
    return ", ".join(f"{key} {value[:12]}..." if "sha256" in key else f"{key} {value}" for key, value in shown.items())


def _note_limits(found: Inputs, limits: Mapping[str, int | None]) -> None:
    """Add to the entry of each test set how many of its records are answered, where not all are."""
    for name, limit in limits.items():
        if limit is not None:
            found[_entry_key(name)]["max_test_samples"] = limit


def _entry_key(name: str) -> str:
    return f"{name} in dataset_info.json"


def _dataset(name: str, folder: Path, media_dir: Path, recorded: Inputs) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the entry of a dataset, its files, and the media that its records name."""
    info = folder / "dataset_info.json"
    entry = read_json(info).get(name) if info.is_file() else None
    yield _entry_key(name), {"entry": entry}
    if entry is None or "file_name" not in entry:
        return
    file = folder / entry["file_name"]
    files = sorted(path for path in file.iterdir() if path.is_file()) if file.is_dir() else [file]
    for path in files:
        key = name if path == file else f"{name}: {path.name}"
        yield key, _file_record(path, recorded.get(key))
    for kind in _MEDIA_COLUMNS:
        column = (entry.get("columns") or {}).get(kind)
        if column and file.suffix in SUFFIXES and file.is_file():
            key = f"{kind} of {name}"
            yield key, _media_record(_media_names(file, column), media_dir, recorded.get(key))


def _base(keys: Mapping[str, Any], recorded: Inputs) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the files of a local base model, or what is known of one on a hub."""
    model = keys["model_name_or_path"]
    folder = Path(model)
    if not folder.is_dir():
        yield f"base {model}", {"revision": _cached_revision(model, keys.get("model_revision") or "main")}
        return
    for file in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        key = f"base: {file.name}"
        yield key, _file_record(file, recorded.get(key), _weights_digest)


def _files(keys: Mapping[str, Any], recorded: Inputs) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the files that other keys name, such as DeepSpeed's configuration."""
    for key, value in keys.items():
        if isinstance(value, str) and os.path.isfile(value):  # noqa: PTH113 - any text, however long
            yield f"`{key}`", _file_record(Path(value), recorded.get(f"`{key}`"))


def _cached_revision(model: str, revision: str) -> str | None:
    """Return the commit of a hub's model that the cache holds; None where that is not known."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(file).parent.name if isinstance(file, str) else None


def _file_record(file: Path, recorded: Mapping[str, Any] | None, digest=file_digest) -> dict[str, Any]:
    place = {"file": str(file.absolute())}
    if not file.is_file():
        return place | {"absent": True}
    state = file.stat()
    seen = {"size": state.st_size, "modified": state.st_mtime_ns}
    return place | seen | {"sha256": _known(recorded, seen, "sha256") or digest(file)}


def _known(recorded: Mapping[str, Any] | None, seen: Mapping[str, Any], digest: str) -> str | None:
    """Return a digest that was taken of the same state."""
    for record in (recorded or {}, (recorded or {}).get("accepted") or {}):
        if all(record.get(key) == value for key, value in seen.items()):
            return record.get(digest)
    return None


def _weights_digest(file: Path) -> str:
    size = file.stat().st_size
    if size <= _SMALL:
        return file_digest(file)
    digest = hashlib.sha256()
    with file.open("rb") as content:
        for index in range(_BLOCKS):
            content.seek((size - _BLOCK) * index // (_BLOCKS - 1))
            digest.update(content.read(_BLOCK))
    return digest.hexdigest()


def _media_names(file: Path, column: str) -> list[str]:
    names: set[str] = set()
    for placed in read_records(file):
        names.update(name for name in listed(placed.record.get(column)) if isinstance(name, str))
    return sorted(names)


def _media_record(names: Sequence[str], folder: Path, recorded: Mapping[str, Any] | None) -> dict[str, Any]:
    """Describe media files; a relative name leads below `folder`, or else, as in the host, to the working folder."""
    sizes, times, files = hashlib.sha256(), hashlib.sha256(), []
    for name in names:
        file, state = _found(os.path.join(folder, name), name)  # noqa: PTH118 - three times as fast, for many files
        sizes.update(f"{name}\0{state.st_size if state else None}\n".encode(errors="surrogatepass"))
        times.update(f"{state.st_mtime_ns if state else None}\n".encode())
        files.append(file)
    seen = {"count": len(names), "names_and_sizes_sha256": sizes.hexdigest(), "modified": times.hexdigest()}
    known = _known(recorded, seen, "content_sha256")
    return seen | {"content_sha256": known or _content_digest(files)}


def _found(*paths: str) -> tuple[str, os.stat_result | None]:
    for path in paths:
        try:
            return path, os.stat(path)  # noqa: PTH116 - as above
        except (OSError, ValueError):
            continue
    return paths[-1], None


def _content_digest(files: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for file in _spread(files, _MEDIA_READ):
        digest.update(file_digest(Path(file)).encode() if os.path.isfile(file) else b"absent")  # noqa: PTH113
    return digest.hexdigest()


def _spread(files: Sequence[str], count: int) -> Iterable[str]:
    """Return up to `count` of the files, spread evenly."""
    return files if len(files) <= count else [files[len(files) * i // count] for i in range(count)]
