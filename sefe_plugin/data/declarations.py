"""Reading `dataset_info.json`: of two entries or keys of one name JSON keeps the last one, silently."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sefe_plugin.files import parse_json


class DoubledNameError(ValueError):
    """Names that stand there more than once; its text is a clause whose subject is the file."""


def read_declarations(file: Path) -> Any:
    """Read a `dataset_info.json`, whatever JSON it holds.

    Raises:
        OSError: If it cannot be read.
        DoubledNameError: If it declares a dataset twice, or an entry has a key twice.
        ValueError: If it is not JSON in UTF-8.
    """
    doubled: list[tuple[dict, str]] = []

    def as_dict(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            doubled.extend((content, name) for name, count in counts.items() if count > 1)
        return content

    declared = parse_json(file.read_text(encoding="utf-8"), as_dict)
    if doubled:
        raise DoubledNameError(
            f"holds {' and '.join(_places(declared, doubled))} more than once, of which the last alone would count. "
            "Rename or remove the others"
        )
    return declared


def _places(declared: Any, doubled: Sequence[tuple[dict, str]]) -> Iterator[str]:
    """Yield each doubled name with the entry in which it stands."""
    owners = {}
    if isinstance(declared, dict):
        owners = {id(part): name for name, entry in declared.items() for part in _mappings(entry)}
    for content, name in doubled:
        if content is declared:
            yield f"the dataset {name!r}"
        elif id(content) in owners:
            yield f"`{name}` in the entry {owners[id(content)]!r}"
        else:  # within an entry that is doubled itself, or in no entry
            yield f"`{name}`"


def _mappings(value: Any) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _mappings(part)
