"""The datasets of a task, read by the host's own loader and tried record by record before anything is trained."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from llamafactory.data import loader
from llamafactory.data.converter import DATASET_CONVERTERS
from llamafactory.data.data_utils import split_dataset
from llamafactory.data.parser import DatasetAttr, get_dataset_list

from sefe_plugin.asd.dataset import ORIGIN
from sefe_plugin.data.text_faults import encoding_fault, record_fault
from sefe_plugin.hosts.llamafactory.dataset import rewrite
from sefe_plugin.hosts.llamafactory.many_records import sampling_note, spread, tried
from sefe_plugin.hosts.llamafactory.record_trial import PARTS, RecordTrial, Verdict, quoted
from sefe_plugin.words import near


#: Numbers of records that a message names.
_NAMED = 5


class Found(NamedTuple):
    """What the trial of one dataset found.

    Attributes:
        errors: One sentence each.
        notes: What was not tried, one sentence each.
        media: The files that were opened.
    """

    errors: list[str]
    notes: list[str]
    media: list[str]


def try_dataset(
    key: str, name: str, arguments: tuple, loaded: Mapping[str, Any], template, show: Callable, is_whole: bool = True
) -> Found:
    """Try the records of one dataset as the host will train on them.

    Args:
        key: The recipe key that names it.
        name: Its name in `dataset_info.json`.
        arguments: The host's arguments for model, data and training.
        loaded: The host's tokenizer and processor.
        template: The host's template.
        show: Makes a progress bar of an iterator and the number of its steps.
        is_whole: Whether it holds all records that will be trained, so that their number tells something.
    """
    _, data_args, training_args = arguments
    try:
        (attributes,) = get_dataset_list([name], data_args.dataset_dir)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Found([f"`{key}`: the entry {name!r} of dataset_info.json cannot be read: {error}."], [], [])
    if errors := _entry_errors(attributes, data_args.dataset_dir):
        return Found([f"`{key}`: the entry {name!r} of dataset_info.json: {error}" for error in errors], [], [])
    if attributes.load_from != "file" or data_args.streaming:
        how = "streamed" if data_args.streaming else "no local file"
        return Found([], [f"`{key}`: {name!r} is {how}: LLaMA-Factory tries it only when its task starts."], [])
    if not data_args.trial_samples:
        return Found([], [f"`{key}`: {sampling_note(name, 0, 0)}"], [])
    file = Path(data_args.dataset_dir) / attributes.dataset_name
    try:
        records = _load(attributes, arguments)
    except Exception as error:
        return Found([f"`{key}`: {file} of {name!r} {_loading_fault(file, attributes, error)}."], [], [])
    where = f"{name!r} ({file})"
    if not len(records):
        return Found([f"`{key}`: {where} holds no records. Give it some."], [], [])
    trial = RecordTrial(attributes, data_args, loaded, template)
    numbers = spread(len(records), data_args.trial_samples)
    verdicts = list(show(tried(trial, records, numbers, data_args.preprocessing_num_workers), len(numbers)))
    errors = [f"`{key}`: {error}" for error in _summaries(where, numbers, verdicts)]
    notes = []
    if len(numbers) < len(records):
        notes.append(f"`{key}`: {sampling_note(name, len(numbers), len(records))}")
    notes += [f"`{key}`: {doubt}" for doubt in _doubts(where, numbers, verdicts)]
    if key == "dataset" and data_args.asd_ratio and not errors:
        errors = _asd_errors(name, records, attributes, data_args, training_args)
    if key == "dataset" and is_whole:
        count = min(limit for limit in (len(records), attributes.num_samples, data_args.max_samples) if limit)
        if data_args.asd_ratio and not round(data_args.asd_ratio * count):
            notes.append(f"`asd_ratio: {data_args.asd_ratio}` of the {count} records of {where} rewrites none.")
        if len(data_args.dataset) == 1 and (fault := _split_fault(count, data_args)):
            errors.append(f"`val_size: {data_args.val_size}` of the {count:,} records of {where}: {fault}.")
    return Found(errors, notes, sorted({file for verdict in verdicts for file in verdict.media}))


def _entry_errors(attributes: DatasetAttr, dataset_dir: str) -> list[str]:
    """List what the host would refuse of an entry of dataset_info.json, or pass over."""
    errors = []
    if attributes.formatting not in DATASET_CONVERTERS:
        errors.append(
            f"`formatting` must be one of {tuple(DATASET_CONVERTERS)}; got {attributes.formatting!r}."
            f"{near(attributes.formatting, DATASET_CONVERTERS)}"
        )
    if attributes.ranking:
        errors.append(
            "`ranking: true` marks preference data, on which LLaMA-Factory does no supervised fine-tuning. Name data "
            "with one answer for each question."
        )
    number = attributes.num_samples
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
        errors.append(f"`num_samples` must be a whole number of at least 1; got {number!r}.")
    return errors


@contextmanager
def _unaligned() -> Iterator[None]:
    """Let the host's loader return the records as it read them, while the context lasts."""
    host_align = loader.align_dataset
    loader.align_dataset = lambda dataset, *arguments: dataset
    try:
        yield
    finally:
        loader.align_dataset = host_align


def _load(attributes: DatasetAttr, arguments: tuple):
    """Read all records of a file that may be trained on, in their order, by the host's loader."""
    attributes = copy.copy(attributes)
    attributes.num_samples = None  # the host draws them at random
    with _unaligned():
        return loader._load_single_dataset(attributes, *arguments)


def _loading_fault(file: Path, attributes: DatasetAttr, error: Exception) -> str:
    """Tell why the host cannot read a file, as a clause whose subject is the file."""
    if file.suffix in (".json", ".jsonl") and file.is_file():
        if fault := encoding_fault(file):
            return fault
        if fault := record_fault(file):
            parts = fault.startswith(f"`{attributes.messages}[].{attributes.content_tag}` ")
            return f"cannot be read by LLaMA-Factory: {fault}{f'. {PARTS}' if parts else ''}"
    while error.__cause__ is not None:  # the reader's own words lie below those of its library
        error = error.__cause__
    return f"cannot be read by LLaMA-Factory: {quoted(error)}"


def _summaries(where: str, numbers: Sequence[int], verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield one sentence for each fault: how many records have it, which, and what the first of them shows."""
    for fault, found in _alike(numbers, verdicts, "fault").items():
        records = "record" if len(found) == 1 else "records"
        first, verdict = found[0]
        yield (
            f"{where}: {len(found):,} of {len(numbers):,} records cannot be trained on, {records} {_named(found)} "
            f"(counted from 1): {fault}; record {first + 1}: {verdict.detail.rstrip('.')}."
        )


def _doubts(where: str, numbers: Sequence[int], verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield one sentence for each doubt: how many records it is of, and which."""
    for doubt, found in _alike(numbers, verdicts, "doubt").items():
        yield f"{where}: {len(found):,} of {len(numbers):,} records {doubt}: {_named(found)} (counted from 1)."


def _alike(numbers: Sequence[int], verdicts: Sequence[Verdict], part: str) -> dict[str, list[tuple[int, Verdict]]]:
    """Return the records of which a part of the verdict says something, by what it says."""
    found: dict[str, list[tuple[int, Verdict]]] = {}
    for number, verdict in zip(numbers, verdicts, strict=True):
        if said := getattr(verdict, part):
            found.setdefault(said, []).append((number, verdict))
    return found


def _named(found: Sequence[tuple[int, Verdict]]) -> str:
    """Name the first of some records by their numbers, from 1."""
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    return f"{', '.join(str(number + 1) for number, _ in found[:_NAMED])}{more}"


def _split_fault(count: int, data_args) -> str | None:
    """Return what the host says where it cannot take a part of so many records for validation."""
    try:
        split_dataset(Dataset.from_dict({"record": range(count)}), None, data_args, seed=0)
    except ValueError as error:
        return quoted(error)
    return None


def _asd_errors(name: str, records, attributes: DatasetAttr, data_args, training_args) -> list[str]:
    """Rewrite the share that will be trained, of what the host aligned."""
    remedy = "`asd_ratio: 0` trains it as it is."
    if ORIGIN in records.column_names:
        reason = "some of its records are of other styles already, by `sefe asd build`."
        return [f"`asd_ratio` on dataset {name}: {reason} {remedy}"]
    try:
        rewrite(
            loader.align_dataset(records, attributes, data_args, training_args),
            name,
            data_args.asd_ratio,
            training_args.seed,
        )
    except ValueError as error:
        return [str(error)]
    return []
