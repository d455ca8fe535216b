"""The data of a task, tried before anything starts: its files, images, answers for the scorer, and samples for ASD."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sefe_plugin.asd.dataset import ORIGIN
from sefe_plugin.asd.diversify import diversify
from sefe_plugin.data.layout import SUFFIXES, layout_of, listed
from sefe_plugin.data.records import RecordFile
from sefe_plugin.data.sample import Sample, UnsuitableSampleError
from sefe_plugin.data.test_sets import test_set_errors
from sefe_plugin.evaluation.scorers import SCORERS
from sefe_plugin.options import option_errors
from sefe_plugin.recipe.options import DataOptions
from sefe_plugin.words import near


def data_errors(arguments: Mapping[str, Any]) -> list[str]:
    """Lists what is wrong with the datasets of one task.

    They must be declared. Of local JSON and JSON lines files the images must exist, the test set must have gold
    answers for its scorer, and with `asd_ratio` the share must be rewritable. Samples of several turns, other files
    and the hub are left to the host.

    Args:
        arguments: all keys of the task, among them `dataset`, `test_dataset` and `scorer`.
    """
    folder = Path(arguments.get("dataset_dir", "data"))
    info_file = folder / "dataset_info.json"
    try:
        info = json.loads(info_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [f"{info_file} does not exist. Set `dataset_dir` to the folder that holds it."]
    except json.JSONDecodeError as error:
        return [f"{info_file} is no valid JSON: {error}."]
    named = [("dataset", name.strip()) for name in arguments["dataset"].split(",")]
    errors = []
    for key, name in [*named, ("test_dataset", arguments["test_dataset"])]:
        entry = info.get(name)
        file = folder / (entry or {}).get("file_name", "")
        readable = file.suffix in SUFFIXES and file.is_file()
        if entry is None:
            errors.append(f"`{key}`: {name!r} is not declared in {info_file}.{near(name, info)}")
        elif "file_name" in entry and not file.exists():
            errors.append(f"`{key}`: the file {file} of {name!r} does not exist.")
        elif key == "test_dataset" and not readable:
            errors.append(f"`test_dataset`: {name!r} must be a local .json or .jsonl file; got {entry!r}.")
        elif key == "test_dataset":
            errors += test_set_errors(name, folder, arguments["scorer"], SCORERS[arguments["scorer"]])
            errors += _image_errors(key, name, entry, _records(file), arguments)
        elif readable:
            errors += _image_errors(key, name, entry, _records(file, arguments.get("max_samples")), arguments)
            if arguments.get("asd_ratio") and not option_errors(DataOptions, arguments):
                errors += _asd_errors(name, entry, file, arguments)
    return errors


def _image_errors(
    key: str, name: str, entry: Mapping, records: Iterator[dict], arguments: Mapping[str, Any]
) -> list[str]:
    """Count the images of a dataset that do not exist.

    Example: with `media_dir: data`, the path ``charts/1.png`` of a record leads to ``data/charts/1.png``, or else to
    ``charts/1.png``, as in the host.
    """
    column = entry.get("columns", {}).get("images")
    if column is None:
        return []
    media_dir = Path(arguments.get("media_dir") or arguments.get("dataset_dir", "data"))
    try:
        listings = (listed(record.get(column)) for record in records)
        paths = sorted({image for images in listings for image in images if isinstance(image, str)})
    except ValueError as error:
        # of a test set it is told already
        return [] if key == "test_dataset" else [f"`{key}`: {name!r} cannot be read: {error}."]
    missing = [path for path in paths if not _is_file(media_dir / path) and not _is_file(path)]
    if not missing:
        return []
    return [
        f"`{key}`: {len(missing)} of {len(paths)} images of {name!r} do not exist, the first is {missing[0]!r} below "
        f"{media_dir}. Set `media_dir` to the folder that their paths start from."
    ]


def _is_file(path: str | Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - `Path.is_file` fails where a path is too long


def _asd_errors(name: str, entry: Mapping, file: Path, arguments: Mapping[str, Any]) -> list[str]:
    """Rewrites the share that will be trained."""
    try:
        layout = layout_of(name, entry)
        samples: list[Sample] = []
        for record in _records(file, arguments.get("max_samples")):
            if ORIGIN in record:
                raise ValueError("some are of other styles already, by `sefe asd build`.")
            try:
                samples.append(layout.read(record))
            except UnsuitableSampleError:
                return []
        diversify(samples, arguments["asd_ratio"], arguments.get("seed", 42))  # 42 is the host's default
    except ValueError as error:
        reason = f"the answers of {name!r} cannot be rewritten: {error}"
        return [f"`asd_ratio`: {reason} `asd_ratio: 0` trains them as they are."]
    return []


def _records(file: Path, limit: Any = None) -> Iterator[dict[str, Any]]:
    """Yields the records of a file, the first `limit` of them if that is a number."""
    records = RecordFile(file)
    try:
        for index in range(min(len(records), limit) if isinstance(limit, int) else len(records)):
            yield records[index]
    finally:
        records.close()
