"""JSON lines: one record a line, in UTF-8. Only a line feed ends a line: a text may hold other line separators."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sefe_plugin.files import parse_json, replacing


def json_line(record: Any) -> bytes:
    """Return a record as one line, with the line feed that ends it."""
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        # half of a surrogate pair has no bytes in UTF-8, it can be written as an escape alone
        return json.dumps(record).encode() + b"\n"


def write_json_lines(file: Path, records: Iterable[Any]) -> None:
    """Write a file of JSON lines, whole or not at all."""
    with replacing(file) as temporary, temporary.open("wb") as lines:
        lines.writelines(map(json_line, records))


def numbered_records(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the records of a file with the numbers of their lines, from 1; pass over empty lines.

    Raises:
        ValueError: If a line is no JSON; names the file and the line.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parsed(file, number, line)


def read_json_lines(file: Path) -> list[Any]:
    """Read all records of a file (`numbered_records`)."""
    return [record for _, record in numbered_records(file)]


class GrowingFile:
    """A file of JSON lines to which one process adds records, and which another one takes up where it stopped.

    A record is on the disk when `append` returns: neither a kill nor a loss of power loses it. A last line that was
    cut short does not count, and the next `append` takes its place. Opening alone changes no byte.

    Args:
        path: The file; made if it does not exist, with its folder.

    Raises:
        ValueError: If another process has the file open.
    """

    def __init__(self, path: Path):
        self.path = path
        from filelock import FileLock, Timeout

        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another process is writing {path}; wait for it or choose another output") from error
        self._file: BinaryIO = path.open("a+b")
        self._end = self._whole_size()

    def __enter__(self) -> "GrowingFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yield all records with their places, in the order in which they were added.

        Raises:
            ValueError: If a whole line is no JSON; names the file and the line.
        """
        place = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if place == self._end:
                    return
                yield place, _parsed(self.path, number, line)
                place += len(line)

    def close(self) -> None:
        """Close the file and let other processes have it."""
        self._file.close()
        self._lock.release()

    def read(self, place: int) -> Any:
        """Return the record at a place that `append` or the iteration gave."""
        self._file.seek(place)
        return json.loads(self._file.readline())

    def append(self, record: Any) -> int:
        """Add a record at the end, and return its place."""
        place, line = self._end, json_line(record)
        if self._file.seek(0, 2) > place:
            self._file.truncate(place)
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._end += len(line)
        return place

    def _whole_size(self) -> int:
        """Return the size of the file up to its last line feed."""
        self._file.seek(0)
        return sum(len(line) for line in self._file if line.endswith(b"\n"))


def _parsed(file: Path, number: int, line: bytes) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise ValueError(f"{file}, line {number}: each line must be one JSON object; {error}") from error
