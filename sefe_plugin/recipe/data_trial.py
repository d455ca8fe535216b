"""The data of a task as its recipe and `dataset_info.json` declare it, checked without PyTorch.

What the records are worth, the host tries before the first task starts.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sefe_plugin.data.added import mix_names
from sefe_plugin.data.declarations import DoubledNameError, read_declarations
from sefe_plugin.data.layout import SUFFIXES
from sefe_plugin.data.test_sets import test_set_errors
from sefe_plugin.data.text_faults import encoding_fault
from sefe_plugin.evaluation.scorers import Spec, scorer_of, spec_text
from sefe_plugin.files import file_digest
from sefe_plugin.methods import looked_at
from sefe_plugin.words import near


#: What a dataset is to a task, by the key that names it.
_USES = {"dataset": "the training data", "eval_dataset": "the validation data", "test_dataset": "the test set"}
#: Keys of an entry that lead elsewhere than to a local file.
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")

#: Parts of an entry by which LLaMA-Factory trains on some records of a file only, and what leaves all of them.
_PARTIAL = {"num_samples": None, "split": "train", "subset": None}


def data_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List what is wrong with how the datasets of one task are declared.

    Their files must exist, and the test set must be a local file with gold answers for its scorer.

    Args:
        arguments: All keys of the task, among them `dataset`, and `test_dataset` and `scorer` where it is tested.
    """
    info_file = Path(arguments.get("dataset_dir", "data")) / "dataset_info.json"
    try:
        info = _read_info(info_file)
    except ValueError as error:
        return [f"{info_file} {error}."]
    errors = []
    for key, name in (*dataset_names(arguments), *looked_at(arguments)):
        scorer = arguments["scorer"] if key == "test_dataset" else None
        errors += _declaration_errors(key, name, info, info_file, scorer, arguments.get("max_test_samples"))
    return errors


def test_data_errors(key: str, name: str, scorer: Spec, arguments: Mapping[str, Any]) -> list[str]:
    """List what is wrong with how a test set is declared, and with its gold answers.

    Args:
        key: The key that names it.
        name: Its name in `dataset_info.json`.
        scorer: Its scorer, as the recipe writes it.
        arguments: All keys of the recipe.
    """
    info_file = Path(arguments.get("dataset_dir", "data")) / "dataset_info.json"
    try:
        limit = arguments.get("max_test_samples")
        return _declaration_errors(key, name, _read_info(info_file), info_file, scorer, limit)
    except ValueError as error:
        return [f"{info_file} {error}."]


def _declaration_errors(
    key: str, name: str, info: Mapping[str, Any], info_file: Path, scorer: Spec | None, limit: int | None
) -> list[str]:
    """List what is wrong with one dataset; one with a scorer is a test set, and its first `limit` records count."""
    if name not in info:
        return [f"`{key}`: {name!r} is not declared in {info_file}.{near(name, info)}"]
    entry, folder = info[name], info_file.parent
    if found := _entry_errors(entry):
        return [f"`{key}`: the entry {name!r} of {info_file}: {error}" for error in found]
    file = folder / entry.get("file_name", "")
    if "file_name" in entry and not os.path.exists(file):  # noqa: PTH110 - never fails
        return [f"`{key}`: the file {file} of {name!r} does not exist."]
    if scorer is None:
        return []
    if not (file.suffix in SUFFIXES and file.is_file()):
        return [f"`{key}`: {name!r} must be a local .json or .jsonl file; got {entry!r}."]
    if unread := [part for part, whole in _PARTIAL.items() if entry.get(part) not in (None, whole)]:
        named = " and ".join(f"`{part}`" for part in unread)
        return [
            f"`{key}`: the entry {name!r} of {info_file} has {named}, and of a test set all records count. Take it "
            "out, and set `max_test_samples` where fewer shall be answered; or name a file of those that are meant."
        ]
    return test_set_errors(name, folder, spec_text(scorer), scorer_of(scorer), key, limit)


def _read_info(file: Path) -> dict[str, Any]:
    """Read the declared datasets.

    Raises:
        ValueError: With what is wrong, as a clause whose subject is the file.
    """
    try:
        fault = encoding_fault(file)
        info = None if fault else read_declarations(file)
    except FileNotFoundError:
        raise ValueError("does not exist. Set `dataset_dir` to the folder that holds it") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except DoubledNameError:
        raise
    except ValueError as error:
        raise ValueError(f"is no valid JSON: {error}") from None
    if fault:
        raise ValueError(fault)
    if not isinstance(info, dict):
        raise ValueError('must be one mapping, {"name": {"file_name": ...}, ...}; it holds a ' + _kind(info))
    return info


def dataset_names(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the datasets of a task by the keys that name them; the host takes several, separated by commas."""
    named = []
    for key in ("dataset", "eval_dataset"):
        value = arguments.get(key) or ()
        names = value.split(",") if isinstance(value, str) else value
        named += [(key, name.strip()) for name in names]
    named += [("mix", name) for name in mix_names(arguments)]
    tested = arguments.get("test_dataset")
    return [*named, ("test_dataset", tested)] if tested is not None else named


def mix_errors(tasks: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """List general datasets that are none: the data of a task or its test set, under whatever name.

    Two names are one dataset where they lead to the same file, to files of the same bytes, or to the same part of one
    on a hub.

    Args:
        tasks: Name of each task, and all its keys as in `data_errors`.
    """
    used: dict[Any, tuple[str, str]] = {}
    general: dict[str, set] = {}
    for task, arguments in tasks:
        for key, name in dataset_names(arguments):
            sources = _sources(name, Path(arguments.get("dataset_dir") or "data"))
            if key == "mix":
                general.setdefault(name, set()).update(sources)
            else:
                used |= dict.fromkeys(sources, (name, f"{_USES[key]} of {task}"))
    return sorted(
        f"`mix`: {name!r} is {use}, no general data. Name another, or use `replay_ratio` for earlier tasks."
        for name, use in _shared(general, used)
    )


def trained_test_sets(tasks: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """List the test sets that are training data of a task, under whatever name: a doubt, no error.

    Args:
        tasks: As in `mix_errors`.
    """
    trained: dict[Any, tuple[str, str]] = {}
    tested: list[tuple[str, str, set[Any]]] = []
    for task, arguments in tasks:
        for key, name in dataset_names(arguments):
            sources = _sources(name, Path(arguments.get("dataset_dir") or "data"))
            if key == "test_dataset":
                tested.append((task, name, sources))
            elif key == "dataset":
                trained |= dict.fromkeys(sources - trained.keys(), (name, f"the training data of {task}"))
    return [
        f"task {task}: `test_dataset`: {name!r} is {use}. So it tests what was memorised; name other data."
        for task, name, sources in tested
        for _, use in sorted(_shared({name: sources}, trained))
    ]


def looked_at_errors(arguments: Mapping[str, Any], tasks: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """List datasets that the method looks at although a task is tested on them.

    Args:
        arguments: The keys that hold for every task.
        tasks: As in `mix_errors`.
    """
    folder = Path(arguments.get("dataset_dir") or "data")
    used: dict[Any, tuple[str, str]] = {}
    for task, keys in tasks:
        if (name := keys["test_dataset"]) is not None:
            used |= dict.fromkeys(_sources(name, folder), (name, f"the test set of {task}"))
    return [
        f"`{key}`: {name!r} is {use}. Name data that no task is tested on."
        for key, name in looked_at(arguments)
        for _, use in _shared({name: _sources(name, folder)}, used)
    ]


def retention_data_errors(arguments: Mapping[str, Any], tasks: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """List retention sets that are data of a task, its test set, or general data that is trained.

    Args:
        arguments: The keys that hold for every task.
        tasks: As in `mix_errors`.
    """
    used: dict[Any, tuple[str, str]] = {}
    for task, keys in tasks:
        for key, name in dataset_names(keys):
            use = "general data of `mix`" if key == "mix" else f"{_USES[key]} of {task}"
            used |= dict.fromkeys(_sources(name, Path(keys.get("dataset_dir") or "data")), (name, use))
    folder = Path(arguments.get("dataset_dir") or "data")
    named = {entry["dataset"] for entry in arguments.get("retention_sets") or ()}
    found = _shared({name: _sources(name, folder) for name in named}, used)
    return sorted(
        f"`retention_sets`: {name!r} is {use}. Name a test set that belongs to no task." for name, use in found
    )


def _shared(looked_at: Mapping[str, set[Any]], used: Mapping[Any, tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the datasets that are in use under whatever name: name, and what the same data is.

    Args:
        looked_at: Name -> where its samples come from.
        used: Where samples come from -> the name of the dataset and what it is.
    """
    sizes = defaultdict(list)
    for source in used:
        if isinstance(source, Path):
            sizes[source.stat().st_size].append(source)
    for name, sources in looked_at.items():
        copied = {
            file
            for source in sources - used.keys()
            if isinstance(source, Path)
            for file in sizes[source.stat().st_size]
            if file_digest(file) == file_digest(source)
        }
        for other, use in {used[source] for source in (sources & used.keys()) | copied}:
            yield name, use if other == name else f"{use}, there called {other!r}"


def _sources(name: str, folder: Path) -> set[Any]:
    """Return where the samples of a dataset come from; its name where that is not known."""
    try:
        entry = _read_info(folder / "dataset_info.json").get(name)
    except ValueError:
        entry = None
    if _entry_errors(entry):
        return {name}
    part = [str(entry.get(key) or default) for key, default in (("subset", ""), ("folder", ""), ("split", "train"))]
    if elsewhere := {(key, str(entry[key]), *part) for key in _ELSEWHERE if key in entry}:
        return elsewhere
    file = folder / entry.get("file_name", "")
    if not os.path.exists(file):  # noqa: PTH110 - never fails
        return {name}
    return {path.resolve() for path in (file.iterdir() if file.is_dir() else [file]) if path.is_file()}


def _entry_errors(entry: Any) -> list[str]:
    """List what of an entry has another shape than LLaMA-Factory expects."""
    if not isinstance(entry, dict):
        return [f'it must be a mapping, such as {{"file_name": "data.json"}}; got {entry!r}.']
    errors = []
    if "file_name" in entry and not isinstance(entry["file_name"], str):
        several = " Give each file an entry of its own, and name both in the recipe, separated by commas."
        errors.append(
            f"`file_name` must be the name of one file or folder; got {entry['file_name']!r}."
            f"{several if isinstance(entry['file_name'], list) else ''}"
        )
    for part in ("columns", "tags"):
        names = entry.get(part, {})
        if not isinstance(names, dict):
            errors.append(f"`{part}` must be a mapping of names; got {names!r}. Leave it out for the usual names.")
        else:
            errors += [
                f"`{part}`: `{name}` must be text; got {value!r}."
                for name, value in names.items()
                if value is not None and not isinstance(value, str)
            ]
    return errors


def _kind(value: Any) -> str:
    return {list: "list", str: "text", type(None): "null"}.get(type(value), "number")
