"""The replies of a model, each written down the moment it comes, so that nothing is asked twice."""

import hashlib
import json
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


class Journal:
    """A file of replies, one JSON line each, that only grows.

    A reply is in the operating system's hands when `add` returns: a process that is killed loses none. A line that a
    kill cut short is dropped when the file is opened again. Only the replies' positions are held in memory.

    Args:
        path: The file; made if it does not exist.

    Raises:
        ValueError: Where another process has the file open.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another process is writing {path}; wait for it or choose another output") from error
        self._file = path.open("a+b")
        self._places: dict[bytes, int] = {}
        self._index()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._lock.release()

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: bytes) -> str | None:
        """Return the reply to a request, None where there is none yet."""
        if key not in self._places:
            return None
        self._file.seek(self._places[key])
        return json.loads(self._file.readline())["reply"]

    def add(self, key: bytes, samples: list[int], style: str, reply: str) -> None:
        """Write a reply down.

        Args:
            key: The request's key.
            samples: Indices of the samples that it asks about.
            style: The style that it asks for.
            reply: The reply as it came.
        """
        record = {"key": key.hex(), "samples": samples, "style": style, "reply": reply}
        self._places[key] = self._file.seek(0, 2)
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def _index(self) -> None:
        place = 0
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                self._file.truncate(place)
                break
            self._places[bytes.fromhex(json.loads(line)["key"])] = place
            place += len(line)


def request_key(*parts: Any) -> bytes:
    """Return a key of 16 bytes for everything that a request consists of, as JSON knows it."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:16]
