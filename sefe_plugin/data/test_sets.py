"""Local test sets: their records, each with a gold answer that its scorer can read."""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from sefe_plugin.data.layout import TAGS, listed
from sefe_plugin.data.reader import read_records
from sefe_plugin.files import read_json


#: Records at fault that a message shows.
_SHOWN = 5


class GoldReader(Protocol):
    """What of a scorer a test set has to know.

    Attributes:
        gold: The field of a record that holds the gold answer.
        alternatives: Other fields that can stand in its place.
        needs_gold: Whether a record without a gold answer is at fault.
    """

    gold: str
    alternatives: tuple[str, ...]
    needs_gold: bool

    def check(self, record: Mapping) -> None:
        """Raise ValueError for a record that cannot be scored, with the reason."""


def read_test_set(dataset: str, dataset_dir: str | Path, scorer: GoldReader, limit: int | None = None) -> list[dict]:
    """Read the records of a `.json` or `.jsonl` test set.

    A record without the field that its scorer reads ("answer", say) gets it from where the host finds the response:
    the declared column, or the assistant's last message. A column that `columns` names as the response goes before a
    field "answer".

    Args:
        dataset: Its name in `dataset_info.json`.
        dataset_dir: The folder of that file.
        scorer: The scorer that will read them.
        limit: Most records, the first ones, as the host's `max_samples` takes them; None for all.

    Raises:
        ValueError: If the file holds anything but records.
    """
    declared = read_json(Path(dataset_dir) / "dataset_info.json")[dataset]
    placed = islice(read_records(Path(dataset_dir) / declared["file_name"]), limit)
    ready = {scorer.gold, *scorer.alternatives}
    response = declared.get("columns", {}).get("response") if scorer.gold == "answer" else None
    records = []
    for record in (one.record for one in placed):
        named = None if {*scorer.alternatives} & record.keys() else response
        if not (ready & record.keys() and named not in record):
            gold = _response(record, declared)
            record = record if gold is None and not scorer.needs_gold else record | {scorer.gold: gold}
        records.append(record)
    return records


def test_set_errors(
    dataset: str,
    dataset_dir: str | Path,
    name: str,
    scorer: GoldReader,
    key: str = "test_dataset",
    limit: int | None = None,
) -> list[str]:
    """List what keeps a test set from being scored, so that it is known before anything is trained.

    Args:
        dataset: As in `read_test_set`.
        dataset_dir: As in `read_test_set`.
        name: Name of the scorer, for messages.
        scorer: As in `read_test_set`.
        key: The recipe key that names the test set, for messages.
        limit: As in `read_test_set`.
    """
    try:
        records = read_test_set(dataset, dataset_dir, scorer, limit)
    except (OSError, ValueError) as error:
        return [f"`{key}`: {dataset!r} cannot be read: {error}."]
    if not records:
        return [f"`{key}`: {dataset!r} holds no records. Give it some."]
    faults = gold_faults(records, scorer)
    if not faults:
        return []
    return [
        f"`{key}`: {len(faults)} of {len(records)} records of {dataset!r} have no gold answer for the scorer "
        f"{name!r}: {listed_faults(faults)}. Put it into a field {scorer.gold!r}, or where dataset_info.json says "
        "that the response is, or choose another scorer."
    ]


def gold_faults(records: Iterable[Mapping], scorer: GoldReader) -> dict[int, str]:
    """Find the records whose gold answer cannot be scored: repeating it must be right, and silence wrong.

    Returns:
        Number of the record, from 1 -> what is wrong with it.
    """
    faults = {}
    for number, record in enumerate(records, start=1):
        try:
            scorer.check(record)
        except ValueError as error:
            faults[number] = str(error)
    return faults


def listed_faults(faults: Mapping[int, str]) -> str:
    """Write faults of records in one line, the first ones with their reasons and the rest as a number.

    Example:
        >>> listed_faults({2: "has no question", 7: "has no question"})
        'record 2: has no question; record 7: has no question'
    """
    shown = [f"record {number}: {fault}" for number, fault in islice(faults.items(), _SHOWN)]
    more = len(faults) - len(shown)
    return "; ".join([*shown, f"and {more} more"] if more else shown)


def question_in(record: Mapping[str, Any], declared: Mapping[str, Any]) -> str:
    """Return the question of a test record as a person reads it; of several turns all that come before the answer.

    Args:
        record: The record.
        declared: The entry of its dataset in `dataset_info.json`.
    """
    columns = declared.get("columns", {"prompt": "instruction", "query": "input", "messages": "conversations"})
    if declared.get("formatting", "alpaca") == "alpaca":
        parts = [record.get(columns.get(part)) for part in ("prompt", "query")]
        return "\n".join(part for part in parts if isinstance(part, str) and part)
    tags = TAGS | declared.get("tags", {})
    messages = record.get(columns.get("messages"))
    turns = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    if turns and turns[-1].get(tags["role_tag"]) == tags["assistant_tag"]:
        turns.pop()
    texts = [(str(turn.get(tags["role_tag"])), str(turn.get(tags["content_tag"]))) for turn in turns]
    return texts[0][1] if len(texts) == 1 else "\n".join(f"{role}: {text}" for role, text in texts)


def images_in(record: Mapping[str, Any], declared: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths of a test record's images as they stand there; those that have none are left out.

    Args:
        record: The record.
        declared: The entry of its dataset in `dataset_info.json`.
    """
    column = declared.get("columns", {}).get("images")
    images = listed(record.get(column)) if column else ()
    paths = (image.get("path") if isinstance(image, dict) else image for image in images)
    return tuple(path for path in paths if isinstance(path, str))


def _response(record: Mapping[str, Any], declared: Mapping[str, Any]) -> Any:
    """Return the response as the host reads it; None where there is none."""
    columns = declared.get("columns", {"response": "output", "messages": "conversations"})
    if declared.get("formatting", "alpaca") == "alpaca":
        return record.get(columns.get("response"))
    tags = TAGS | declared.get("tags", {})
    messages = record.get(columns.get("messages"))
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get(tags["role_tag"]) != tags["assistant_tag"]:
        return None
    return last.get(tags["content_tag"])
