"""Local test sets: their records, each with a gold answer that its scorer can read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sefe_plugin.data.layout import TAGS
from sefe_plugin.files import read_json
from sefe_plugin.json_lines import read_json_lines


class GoldReader(Protocol):
    """What of a scorer a test set has to know.

    Attributes:
        gold: The field of a record that holds the gold answer.
        alternatives: Other fields that can stand in its place.
    """

    gold: str
    alternatives: tuple[str, ...]

    def check(self, record: Mapping) -> None:
        """Raise ValueError for a record that cannot be scored."""


def read_test_set(dataset: str, dataset_dir: str | Path, scorer: GoldReader) -> list[dict]:
    """Read the records of a `.json` or `.jsonl` test set.

    A record without the field that its scorer reads ("answer", say) gets it from where the host finds the response:
    the declared column, or the assistant's last message. A column that `columns` names as the response goes before a
    field "answer".

    Args:
        dataset: Its name in `dataset_info.json`.
        dataset_dir: The folder of that file.
        scorer: The scorer that will read them.

    Raises:
        ValueError: If the file holds anything but records.
    """
    declared = read_json(Path(dataset_dir) / "dataset_info.json")[dataset]
    file = Path(dataset_dir) / declared["file_name"]
    records = read_json_lines(file) if file.suffix == ".jsonl" else read_json(file)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{file} must hold a list of records")
    ready = {scorer.gold, *scorer.alternatives}
    named = declared.get("columns", {}).get("response") if ready == {"answer"} else None
    return [
        record
        if ready & record.keys() and named not in record
        else record | {scorer.gold: _response(record, declared)}
        for record in records
    ]


def test_set_errors(dataset: str, dataset_dir: str | Path, name: str, scorer: GoldReader) -> list[str]:
    """List what keeps a test set from being scored, so that it is known before anything is trained.

    Args:
        dataset: As in `read_test_set`.
        dataset_dir: As in `read_test_set`.
        name: Name of the scorer, for messages.
        scorer: As in `read_test_set`.
    """
    try:
        records = read_test_set(dataset, dataset_dir, scorer)
    except (OSError, ValueError) as error:
        return [f"`test_dataset`: {dataset!r} cannot be read: {error}."]
    if not records:
        return [f"`test_dataset`: {dataset!r} holds no records. Give it some."]
    errors = {}
    for index, record in enumerate(records):
        try:
            scorer.check(record)
        except ValueError as error:
            errors[index] = error
    if not errors:
        return []
    first, reason = next(iter(errors.items()))
    return [
        f"`test_dataset`: {len(errors)} of {len(records)} records of {dataset!r} have no gold answer for the scorer "
        f"{name!r}; record {first}, counted from 0: {reason}. Put it into a field {scorer.gold!r}, or where "
        "dataset_info.json says that the response is, or choose another scorer."
    ]


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
