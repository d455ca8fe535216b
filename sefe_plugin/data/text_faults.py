"""Why a file of text cannot be read: its encoding, its JSON, or values of several types in one place."""

import codecs
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sefe_plugin.data.reader import read_records


_CHUNK = 1 << 20

#: Marks at the start of a file, the longer ones first, and what they stand for.
_MARKS = {
    codecs.BOM_UTF8: "UTF-8 with a byte order mark",
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}

_KINDS = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a mapping"}


def encoding_fault(file: Path) -> str | None:
    """Tell how the bytes of a file differ from UTF-8 without a byte order mark; None where they do not.

    Example: ``is not in UTF-8 (byte 71 is no part of it); it looks like GBK. Save it in UTF-8``.
    """
    with file.open("rb") as content:
        start = content.read(4)
        for mark, name in _MARKS.items():
            if start.startswith(mark):
                return f"is in {name}. Save it in UTF-8 without that mark"
        content.seek(0)
        place = _first_foreign_byte(content)
    if place is None:
        return None
    guess = "; it looks like GBK" if _decodes(file, "gb18030") else ""
    return f"is not in UTF-8 (byte {place} is no part of it){guess}. Save it in UTF-8"


def record_fault(file: Path) -> str | None:
    """Tell where the records of a file are no JSON, or have values of several types in one place; None where not.

    LLaMA-Factory's reader makes a table of them, whose columns have one type each.
    """
    seen: dict[str, dict[str, int]] = {}
    try:
        for number, placed in enumerate(read_records(file), start=1):
            for path, kind in _kinds("", placed.record):
                kinds = seen.setdefault(path, {})
                if kinds.setdefault(kind, number) == number and len(kinds) > 1:
                    first, second = list(kinds.items())[:2]
                    return (
                        f"`{path}` is {first[0]} in record {first[1]} and {second[0]} in record {second[1]}, counted "
                        "from 1. Give it one type in all records"
                    )
    except (ValueError, RecursionError) as error:
        return f"it cannot be read: {error}"
    return None


def _first_foreign_byte(content) -> int | None:
    decoder, start = codecs.getincrementaldecoder("utf-8")(), 0
    while True:
        chunk = content.read(_CHUNK)
        held = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            return start - held + error.start
        if not chunk:
            return None
        start += len(chunk)


def _decodes(file: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _kinds(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the kind of every value of a record by its place; null is of every kind."""
    if path and value is not None:
        yield path, _KINDS[type(value)]
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _kinds(f"{path}.{key}" if path else key, part)
    elif isinstance(value, list):
        for part in value:
            yield from _kinds(f"{path}[]", part)
