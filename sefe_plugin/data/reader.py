"""The one reader of records: a JSON array or JSON lines, record by record, each with its place in the file."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple


_CHUNK = 1 << 20
_MAX_RECORD = 64 * _CHUNK
_BLANKS = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class Placed(NamedTuple):
    """A record and where it stands.

    Attributes:
        record: The record.
        start: Its first byte, counted from 0.
        end: The byte after its last one.
    """

    record: dict[str, Any]
    start: int
    end: int


def read_records(path: Path, lines: bool = True) -> Iterator[Placed]:
    """Yield the records of a file in UTF-8, and hold no more of it at a time than a record and a megabyte.

    A byte-order mark and empty lines are passed over.

    Args:
        path: A JSON array of objects, or JSON lines.
        lines: Whether the file may be JSON lines.

    Raises:
        ValueError: If it is neither, or a record is no object; names the record by its number, from 1, and the byte.
    """
    number = 0
    with path.open("rb") as file:
        content = _Content(file)
        try:
            is_array = content.peek() == "[" or not lines
            if is_array:
                content.take("[")
            end = "]" if is_array else ""
            while content.peek() != end:
                if is_array and number:
                    content.take(",")
                number += 1
                yield content.take_object()
            content.take(end)
            content.take("")
        except ValueError as error:
            kinds = "a JSON array or JSON lines" if lines else "a JSON array"
            raise ValueError(
                f"{path} must be {kinds} of objects; at record {number}: {error}, at byte {content.place}"
            ) from error


def read_array(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON array (`read_records`)."""
    return (placed.record for placed in read_records(path, lines=False))


class _Content:
    """A file's bytes, read on as they are asked for.

    Each byte is held as one character (Latin-1). JSON's own signs are all ASCII, so its parser finds the end of a
    record nevertheless, and a place in the buffer is a place in the file.
    """

    def __init__(self, file: BinaryIO):
        self._base = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
        file.seek(self._base)
        self._file = file
        self._buffer, self._next = "", 0

    @property
    def place(self) -> int:
        """The place of the next byte in the file."""
        return self._base + self._next

    def peek(self) -> str:
        """Return the next character that is no blank, without taking it; nothing at the end."""
        while True:
            self._next = _BLANKS.match(self._buffer, self._next).end()
            if self._next < len(self._buffer):
                return self._buffer[self._next]
            if not self._read_on():
                return ""

    def take(self, character: str) -> None:
        """Take the next character, which must be the one named."""
        if self.peek() != character:
            raise ValueError(f"{character!r} expected, got {self.peek()!r}")
        self._next += len(character)

    def take_object(self) -> Placed:
        """Take the next value, which must be an object."""
        if self.peek() != "{":
            raise ValueError(f"an object expected, got {self.peek()!r}")
        while True:
            try:
                record, end = _DECODER.raw_decode(self._buffer, self._next)
            except json.JSONDecodeError as error:
                offset = error.pos - self._next
                # the object may go on beyond what is read so far
                if len(self._buffer) - self._next > _MAX_RECORD or not self._read_on():
                    self._next += offset
                    raise ValueError(f"no valid JSON, {error.msg}") from error
            else:
                text = self._buffer[self._next : end]
                if not text.isascii():
                    record, _ = _DECODER.raw_decode(text.encode("latin-1").decode())
                start, self._next = self.place, end
                return Placed(record, start, self.place)

    def _read_on(self) -> bool:
        """Read the next chunk; chunks that double keep a long record from being parsed again and again."""
        rest = self._buffer[self._next :]
        chunk = self._file.read(max(_CHUNK, len(rest)))
        self._base, self._next, self._buffer = self.place, 0, rest + chunk.decode("latin-1")
        return bool(chunk)
