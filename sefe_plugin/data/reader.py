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
#: Deepest record, far below what Python's own parser and printer can take.
_MAX_DEPTH = 200
_TOO_DEEP = f"its lists and objects must be nested at most {_MAX_DEPTH} deep"
_RECODE = "Save the file in UTF-8; `iconv -f GBK -t UTF-8 OLD > NEW` recodes one in GBK"


class EncodingError(ValueError):
    """A file in another encoding than UTF-8."""


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
        EncodingError: If the file is not in UTF-8.
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
        except UnicodeDecodeError as error:
            byte, place = error.object[error.start], content.place + error.start
            raise EncodingError(
                f"{path} must be in UTF-8; at record {number}, byte {place}, 0x{byte:02x}, is not. {_RECODE}."
            ) from error
        except ValueError as error:
            if content.has_zeros:
                raise EncodingError(
                    f"{path} must be a text in UTF-8; it has zero bytes, as files in UTF-16 and files that are no "
                    f"texts have. Save it in UTF-8 as {'.json or .jsonl' if lines else '.json'}."
                ) from error
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
    def has_zeros(self) -> bool:
        """Whether there are zero bytes in what is at hand; JSON has none."""
        return "\0" in self._buffer

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
        found = self.peek()
        if found != character:
            expected = repr(character) if character else "the end of the file"
            raise ValueError(f"{expected} expected, got {repr(found) if found else 'the end of the file'}")
        self._next += len(character)

    def take_object(self) -> Placed:
        """Take the next value, which must be an object."""
        found = self.peek()
        if found != "{":
            raise ValueError(f"an object expected, got {repr(found) if found else 'the end of the file'}")
        while True:
            try:
                record, end = _DECODER.raw_decode(self._buffer, self._next)
            except json.JSONDecodeError as error:
                offset = error.pos - self._next
                # the object may go on beyond what is read so far
                if len(self._buffer) - self._next > _MAX_RECORD:
                    raise ValueError(f"no valid JSON within {_MAX_RECORD} bytes, {error.msg}") from error
                if not self._read_on():
                    self._require_utf8()
                    self._next += offset
                    ends = self._next >= len(self._buffer.rstrip()) or error.msg.startswith("Unterminated string")
                    raise ValueError(f"no valid JSON, {'the file ends within it' if ends else error.msg}") from error
            except RecursionError as error:
                raise ValueError(_TOO_DEEP) from error
            except ValueError as error:
                raise ValueError("no valid JSON, a number has thousands of digits") from error
            else:
                text = self._buffer[self._next : end]
                if not text.isascii():
                    record, _ = _DECODER.raw_decode(text.encode("latin-1").decode())
                if text.count("[") + text.count("{") > _MAX_DEPTH and _depth(record) > _MAX_DEPTH:
                    raise ValueError(_TOO_DEEP)
                start, self._next = self.place, end
                return Placed(record, start, self.place)

    def _require_utf8(self) -> None:
        """Raise UnicodeDecodeError where what is at hand is something else; a sign may be cut at the end."""
        codecs.getincrementaldecoder("utf-8")().decode(self._buffer[self._next :].encode("latin-1"))

    def _read_on(self) -> bool:
        """Read the next chunk; chunks that double keep a long record from being parsed again and again."""
        rest = self._buffer[self._next :]
        chunk = self._file.read(max(_CHUNK, len(rest)))
        self._base, self._next, self._buffer = self.place, 0, rest + chunk.decode("latin-1")
        return bool(chunk)


def _depth(record: Any) -> int:
    """Count how deep lists and objects are nested, without recursion."""
    depth, level = 0, [record]
    while level:
        depth += 1
        inner = (value.values() if isinstance(value, dict) else value for value in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
    return depth
