"""Records of a dataset file, read one by one and replaced in place without loading the file."""

import json
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sefe_plugin.data.reader import read_records
from sefe_plugin.files import replacing
from sefe_plugin.json_lines import json_line


_CHUNK = 1 << 20


class RecordFile:
    """A JSON array of objects, or JSON lines, whose records are read by index.

    Only the records' positions are held: 16 bytes for each.

    Args:
        path: The file, in UTF-8.

    Raises:
        ValueError: If the file is neither, or a record is no object; names the place.
    """

    def __init__(self, path: Path):
        self.path = path
        self._starts, self._ends = array("q"), array("q")
        for _, start, end in read_records(path):
            self._starts.append(start)
            self._ends.append(end)
        self._file = path.open("rb")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self._file.seek(self._starts[index])
        return json.loads(self._file.read(self._ends[index] - self._starts[index]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def pieces(self, replaced: "Replacements") -> Iterator[bytes]:
        """Yield the file's bytes with some records replaced; every other byte stays as it is."""
        position = 0
        for index, record in replaced:
            yield from self._copy(position, self._starts[index])
            yield record
            position = self._ends[index]
        yield from self._copy(position, self.path.stat().st_size)

    def _copy(self, start: int, end: int) -> Iterator[bytes]:
        self._file.seek(start)
        while start < end:
            chunk = self._file.read(min(_CHUNK, end - start))
            start += len(chunk)
            yield chunk


class Replacements:
    """New records by index, kept in a temporary file until they are written in order; the last one counts.

    Args:
        count: Number of records in the source.
        folder: Where the temporary file lies; it has no name and vanishes with the process.
    """

    def __init__(self, count: int, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._starts, self._sizes = array("q", bytes(8 * count)), array("q", bytes(8 * count))

    def __enter__(self) -> "Replacements":
        return self

    def __exit__(self, *exception: object) -> None:
        self._spool.close()

    def __setitem__(self, index: int, record: dict[str, Any]) -> None:
        content = json_line(record).removesuffix(b"\n")
        self._starts[index] = self._spool.seek(0, 2)
        self._sizes[index] = len(content)
        self._spool.write(content)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for index, size in enumerate(self._sizes):
            if size:
                self._spool.seek(self._starts[index])
                yield index, self._spool.read(size)


def write_replaced(source: RecordFile, replaced: Replacements, target: Path) -> None:
    """Write a copy of the source with some records replaced, whole or not at all."""
    with replacing(target) as temporary, temporary.open("wb") as file:
        file.writelines(source.pieces(replaced))
