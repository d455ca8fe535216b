"""The folder of datasets that `sefe prepare` writes: its files, and what LLaMA-Factory is told of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks.published.tables import Published, PublishedTask
from sefe_plugin.data.declarations import DoubledNameError, read_declarations
from sefe_plugin.evaluation.scorers import scorer_of
from sefe_plugin.files import is_file


#: Written last: a folder without it is not complete.
MANIFEST_FILE = "manifest.json"
MANIFEST_VERSION = 2

#: Folder that says, while a folder of datasets is not complete, which of them are.
DONE = ".done"
#: Where LLaMA-Factory reads which datasets a folder has.
DATASET_INFO = "dataset_info.json"


def dataset_file(folder: Path, task: str, split: str) -> Path:
    """Return the file of a task's training ("train") or test set ("test")."""
    return folder / task / f"{split}.jsonl"


def declared_datasets(folder: Path) -> dict[str, Any]:
    """Return what `dataset_info.json` of a folder declares: a benchmark's datasets, and those of the user beside them.

    Raises:
        ValueError: If it is no JSON object, or names something in it twice.
    """
    info = folder / DATASET_INFO
    if not is_file(info):
        return {}
    try:
        entries = read_declarations(info)
    except DoubledNameError as error:
        raise ValueError(f"{info} {error}.") from error
    except ValueError as error:
        raise ValueError(f"{info} cannot be read: {error}. Mend it, or remove it.") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{info} must map names of datasets to what they are. Mend it, or remove it.")
    return entries


def dataset_entries(published: Published, file_of: Callable[[str, str], Path]) -> dict[str, dict]:
    """Return LLaMA-Factory's description of a benchmark's datasets.

    Args:
        published: The benchmark.
        file_of: Gives the file of a task and a split ("train" or "test").
    """
    entries = {}
    for task in published.tasks:
        stem = f"{published.name}_{task.name.lower()}"
        entries[f"{stem}_train"] = {
            "file_name": str(file_of(task.name, "train")),
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "images": "image"},
        }
        entries[f"{stem}_test"] = {
            "file_name": str(file_of(task.name, "test")),
            "columns": {"prompt": "text", "response": gold_field(task), "images": "image"},
        }
    return entries


def gold_field(task: PublishedTask) -> str:
    """Return the field of a task's test records that holds the gold answer."""
    return scorer_of(task.scorer).gold
