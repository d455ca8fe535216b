"""The replies of a model, each written down the moment it comes, so that nothing is asked twice."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sefe_plugin.json_lines import GrowingFile
from sefe_plugin.words import shown


class Journal:
    """A file of replies, one JSON line each, that only grows.

    No reply is lost when the process is killed (`GrowingFile`). Only the replies' positions are held in memory.

    Args:
        path: The file; made if it does not exist.

    Raises:
        ValueError: If another process has the file open, or if a line is no reply.
    """

    def __init__(self, path: Path):
        self._file = GrowingFile(path)
        try:
            self._places = {_key(path, record): place for place, record in self._file}
        except ValueError:
            self._file.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: bytes) -> str | None:
        """Return the reply to a request, None where there is none yet."""
        return self._file.read(self._places[key])["reply"] if key in self._places else None

    def add(self, key: bytes, samples: list[int], style: str, reply: str) -> None:
        """Write a reply down.

        Args:
            key: The request's key.
            samples: Indices of the samples that it asks about.
            style: The style that it asks for.
            reply: The reply as it came.
        """
        record = {"key": key.hex(), "samples": samples, "style": style, "reply": reply}
        self._places[key] = self._file.append(record)


def _key(path: Path, record: Any) -> bytes:
    try:
        if isinstance(record["reply"], str):
            return bytes.fromhex(record["key"])
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError(
        f"{path}: a line is no reply of a model: {shown(record)}. Remove the line, or choose another output."
    )


def request_key(*parts: Any) -> bytes:
    """Return a key of 16 bytes for everything that a request consists of, as JSON knows it."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:16]
