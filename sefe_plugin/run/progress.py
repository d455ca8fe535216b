"""How far a task is: a small file that its process writes while it works, and that others read.

Example: a task of 700 samples that has answered 32 of its 64 questions::

    [{"name": "preparing", "began": 1795000000.0, "seen": 1795000011.0, ...},
     {"name": "training", "began": 1795000011.0, "seen": 1795000050.0, "done": 88, "total": 88, "samples": 700, ...},
     {"name": "scoring", "began": 1795000052.0, "seen": 1795000058.0, "done": 32, "total": 64, ...}]
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sefe_plugin.run.records import RunFolderError, read_record


PROGRESS_FILE = "progress.json"

#: The phases of a task: until the plugin is called in a host that is loaded; records read and tokenized; tokenizer,
#: model and adapter; what the method does before the first step and after the last one; the steps.
PREPARING, DATA, LOADING, METHOD, TRAINING = "preparing", "data", "loading", "method", "training"
#: Until its results are saved; its answers; what is carried on.
SAVING, SCORING, CARRYING = "saving", "scoring", "carrying on"

#: What is counted in a phase; nothing in the others.
UNITS = {DATA: "samples", TRAINING: "steps", SCORING: "answers"}

#: Seconds between two writings within one phase.
_INTERVAL = 1.0


class Phase(NamedTuple):
    """One phase of a task's process.

    Attributes:
        name: One of the phases above.
        began: When, in seconds of Unix time.
        seen: When this was written.
        before: Of what is counted, what an earlier process had done.
        done: What is done, with `before`.
        total: What there is to do; 0 where nothing is counted.
        samples: Training samples; None where they are unknown, or nothing is trained.
        trained: Samples that the steps have gone through, each as often as it was; None where that is not known.
        tokens: Tokens of them, where the host counts them (`include_num_input_tokens_seen`).
        memory: Most bytes that the process has held until the end of the phase; None where it has not said so.
        device_memory: The same on its GPU.
        written: Bytes that the process has written in the phase.
    """

    name: str
    began: float
    seen: float
    before: int = 0
    done: int = 0
    total: int = 0
    samples: int | None = None
    trained: int | None = None
    tokens: int | None = None
    memory: int | None = None
    device_memory: int | None = None
    written: int | None = None

    @property
    def rate(self) -> float | None:
        """What is done in a second; None as long as nothing is."""
        seconds = self.seen - self.began
        return (self.done - self.before) / seconds if self.done > self.before and seconds > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds from `seen` until all is done at this rate; None where that is not known."""
        return (self.total - self.done) / self.rate if self.rate else None


class Usage(NamedTuple):
    """What a process has used since it started, in bytes.

    Attributes:
        memory: The most that it has held.
        device_memory: The most on its GPU; None without one.
        written: What it has written; None where the system does not tell.
    """

    memory: int
    device_memory: int | None
    written: int | None


class ProgressFile:
    """Writes how far a task is, at most once a second while a phase lasts.

    The file is whole or absent for whoever reads it, but it is not brought to the disk: after a loss of power it is
    worth nothing. On a disk that is full the task goes on without it.

    Args:
        folder: Where the task leaves its results; None writes nothing, as in all processes but the first.
        used: Says what this process has used; by default nothing is said of it.
    """

    def __init__(self, folder: Path | None, used: Callable[[], Usage] | None = None):
        self._file = folder and folder / PROGRESS_FILE
        self._used = used
        self._phases: list[Phase] = []
        self._written = 0.0
        self._bytes_before = 0

    @property
    def phase(self) -> str | None:
        """The phase that is at work; None before the first."""
        return self._phases[-1].name if self._phases else None

    def start(self, name: str) -> None:
        """Begin anew with a phase; what an earlier process has left is forgotten."""
        self._phases = []
        self.begin(name)

    def go_on(self) -> None:
        """Take over what the process before, which started this one, has written; what is damaged is forgotten."""
        if self._file and self._file.is_file():
            with suppress(RunFolderError):
                self._phases = _read(self._file)

    def begin(self, name: str, total: int = 0, done: int = 0, samples: int | None = None) -> None:
        """Begin a phase; the one before it is over."""
        now = time.time()
        if self._phases:
            self._close(now)
        self._phases.append(Phase(name, now, now, done, done, total, samples))
        self._write()

    def count(self, done: int) -> None:
        """Say how much of the phase is done."""
        self._phases[-1] = self._phases[-1]._replace(done=done, seen=time.time())
        if done == self._phases[-1].total or time.monotonic() - self._written >= _INTERVAL:
            self._write()

    def note(self, trained: int | None, tokens: int | None) -> None:
        """Say what the steps have gone through; see `Phase`. It is written with what comes next."""
        self._phases[-1] = self._phases[-1]._replace(trained=trained, tokens=tokens)

    def end(self) -> None:
        """Say that the last phase is over."""
        self._close(time.time())
        self._write()

    def _close(self, now: float) -> None:
        """Say of the phase that is over when that was, and what it has used."""
        self._phases[-1] = self._phases[-1]._replace(seen=now)
        if self._used is None:
            return
        used = self._used()
        written = None if used.written is None else used.written - self._bytes_before
        self._bytes_before = used.written or 0
        self._phases[-1] = self._phases[-1]._replace(
            memory=used.memory, device_memory=used.device_memory, written=written
        )

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._file is None:
            return
        temporary = self._file.with_name(f".{PROGRESS_FILE}.tmp")
        with suppress(OSError):
            temporary.write_text(json.dumps([phase._asdict() for phase in self._phases]), encoding="utf-8")
            temporary.replace(self._file)


def newest_progress(folder: Path) -> list[Phase]:
    """Return the phases of the process that was at work last in a task's folder; none where none has said anything.

    A task may end, and its files go, at any moment of this look.

    Args:
        folder: The task's; the trainings of a method's own phases have folders in it.

    Raises:
        RunFolderError: If the file is damaged.
    """
    times = {}
    for file in _files(folder):
        with suppress(FileNotFoundError):
            times[file] = file.stat().st_mtime_ns
    if not times:
        return []
    newest = max(times, key=times.get)
    try:
        return _read(newest)
    except RunFolderError:
        if newest.exists():
            raise
        return []


def all_progress(folder: Path) -> list[list[Phase]]:
    """Return what the processes in a task's folder have said last, the oldest first; nothing of damaged files."""
    found = []
    for file in _files(folder):
        with suppress(RunFolderError):
            found.append(_read(file))
    return sorted(found, key=lambda phases: phases[0].began)


def forget_progress(folder: Path) -> None:
    """Remove what a task has said of its progress, once it is complete."""
    for file in _files(folder):
        file.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return [*folder.glob(f"*/{PROGRESS_FILE}"), folder / PROGRESS_FILE]


def _read(file: Path) -> list[Phase]:
    rule = f"a list of phases, each with {Phase._fields}"
    return [Phase(**phase) for phase in read_record(file, rule, _is_progress, "Remove it; nothing else needs it.")]


def _is_progress(content: Any) -> bool:
    return isinstance(content, list) and all(map(_is_phase, content)) and bool(content)


def _is_phase(content: Any) -> bool:
    numbers = ("began", "seen", "before", "done", "total")
    return (
        isinstance(content, dict)
        and {"name", *numbers} <= set(content) <= set(Phase._fields)
        and isinstance(content["name"], str)
        and all(_is_number(content[key]) for key in numbers)
        and all(content.get(key) is None or _is_number(content[key]) for key in set(content) - {"name", *numbers})
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
