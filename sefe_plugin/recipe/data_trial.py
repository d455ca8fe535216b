"""The data of a task as its recipe and `dataset_info.json` declare it, checked without PyTorch.

What the records are worth, the host tries before the first task starts.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sefe_plugin.data.layout import SUFFIXES
from sefe_plugin.data.test_sets import test_set_errors
from sefe_plugin.data.text_faults import encoding_fault
from sefe_plugin.evaluation.scorers import SCORERS
from sefe_plugin.words import near


def data_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List what is wrong with how the datasets of one task are declared.

    Their files must exist, and the test set must be a local file with gold answers for its scorer.

    Args:
        arguments: All keys of the task, among them `dataset`, `test_dataset` and `scorer`.
    """
    folder = Path(arguments.get("dataset_dir", "data"))
    info_file = folder / "dataset_info.json"
    try:
        info = _read_info(info_file)
    except ValueError as error:
        return [f"{info_file} {error}."]
    errors = []
    for key, name in _named(arguments):
        if name not in info:
            errors.append(f"`{key}`: {name!r} is not declared in {info_file}.{near(name, info)}")
            continue
        entry, where = info[name], f"`{key}`: the entry {name!r} of {info_file}"
        if found := [f"{where}: {error}" for error in _entry_errors(entry)]:
            errors += found
            continue
        file = folder / entry.get("file_name", "")
        if "file_name" in entry and not file.exists():
            errors.append(f"`{key}`: the file {file} of {name!r} does not exist.")
        elif key == "test_dataset" and not (file.suffix in SUFFIXES and file.is_file()):
            errors.append(f"`test_dataset`: {name!r} must be a local .json or .jsonl file; got {entry!r}.")
        elif key == "test_dataset":
            errors += test_set_errors(name, folder, arguments["scorer"], SCORERS[arguments["scorer"]])
    return errors


def _read_info(file: Path) -> dict[str, Any]:
    """Read the declared datasets.

    Raises:
        ValueError: With what is wrong, as a clause whose subject is the file.
    """
    try:
        if fault := encoding_fault(file):
            raise ValueError(fault)
        info = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("does not exist. Set `dataset_dir` to the folder that holds it") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is no valid JSON: {error}") from None
    if not isinstance(info, dict):
        raise ValueError('must be one mapping, {"name": {"file_name": ...}, ...}; it holds a ' + _kind(info))
    return info


def _named(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the datasets of a task by the keys that name them; the host takes several, separated by commas."""
    named = [("dataset", name.strip()) for name in arguments["dataset"].split(",")]
    held_out = arguments.get("eval_dataset") or ()
    names = held_out.split(",") if isinstance(held_out, str) else held_out
    return [*named, *(("eval_dataset", name.strip()) for name in names), ("test_dataset", arguments["test_dataset"])]


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
