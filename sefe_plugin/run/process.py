"""The process of one step of a task: its output kept, and shown if that is wanted; its end with this process."""

import ctypes
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import psutil


#: The output of everything that a task started, in its folder.
LOG_FILE = "log.txt"

#: Linux's call that has a signal sent when the parent dies; None elsewhere.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1

#: Seconds that a process has to end by itself, and for its last words to come through.
_GRACE = 10

#: Begins the line that the log has for every command.
_HEAD = "--- "
#: Bytes at the end of a log that are looked at for its last lines.
_TAIL = 1 << 16
#: Colours and other signs to a terminal, which are no part of what was said.
_SIGNS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class Started(Protocol):
    """A process that has been started.

    Attributes:
        pid: Its number.
    """

    pid: int

    def wait(self) -> int:
        """Wait for its end; return its exit status, negative where a signal ended it."""


#: Starts a command line, given the file descriptors of its output and its errors, and those that it inherits.
Start = Callable[[Sequence[str], tuple[int, int], Sequence[int]], Started]


def spawn(command: Sequence[str], outputs: tuple[int, int], held: Sequence[int] = ()) -> Started:
    """Start a command line, in this environment and unbuffered; it ends with this process.

    Args:
        command: The command line.
        outputs: File descriptors of its output and of its errors.
        held: File descriptors that it inherits.
    """
    return subprocess.Popen(
        command,
        stdout=outputs[0],
        stderr=outputs[1],
        pass_fds=held,
        env=task_environment(),
        preexec_fn=end_with_parent,
    )


def task_environment() -> dict[str, str]:
    """Return the environment of the processes that this one starts."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def end_with_parent() -> None:
    """Leave a Ctrl-C to the parent, and, on Linux, end with it even if it is killed; called in a new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _prctl:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_for(process: Started) -> int:
    """Wait for the end of a process; where that is broken off, end it with all that it has started.

    Returns:
        Its exit status, negative where a signal ended it.
    """
    try:
        return process.wait()
    except BaseException:
        _end(process.pid)
        raise


def call(command: Sequence[str], log: Path, held: Sequence[int] = (), shows: bool = True, start: Start = spawn) -> int:
    """Run a command line to its end, and add what it says to a file as soon as it says it.

    Where it is shown as well and this process writes to a terminal, so does the command: progress bars stay as they
    are. The file gets every line as the terminal shows it at last, so of a progress bar it gets one line.

    A Ctrl-C is for this process alone, which ends the command: so no command breaks off with a traceback.

    Args:
        command: The command line.
        log: The file.
        held: File descriptors that the command inherits.
        shows: Whether this process also shows what the command says.
        start: Starts it.

    Returns:
        Its exit status, negative where a signal ended it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab", buffering=0) as file:
        # a name of a file may be no text
        _keep(file, os.fsencode(f"{_HEAD}{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}\n"))
        readers, writers = zip(*(_channel(stream, shows) for stream in (1, 2)), strict=True)
        try:
            process = start(command, writers, held)
        finally:
            for end in writers:
                os.close(end)
        copies = [
            threading.Thread(target=_copy, args=(reader, stream if shows else None, file), daemon=True)
            for reader, stream in zip(readers, (1, 2), strict=True)
        ]
        for copy in copies:
            copy.start()
        try:
            return wait_for(process)
        finally:
            for copy in copies:
                copy.join(_GRACE)


def ended_how(status: int) -> str:
    """Say how a process ended.

    Example:
        >>> ended_how(3), ended_how(-15)
        ('failed with exit status 3', 'was ended by SIGTERM')
    """
    if status >= 0:
        return f"failed with exit status {status}"
    name = signal.Signals(-status).name
    return f"was ended by {name}" + (", as a system does that runs out of memory" if name == "SIGKILL" else "")


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last lines that the newest command in a log has said, without signs to a terminal.

    Args:
        log: The file; one that is not there has no lines.
        count: How many lines at most.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [_SIGNS.sub("", line).rstrip() for line in text.split("\n")]
    heads = [index for index, line in enumerate(lines) if line.startswith(_HEAD)]
    said = lines[heads[-1] + 1 if heads else 0 :]
    return [line for line in said if line][-count:]


def _channel(stream: int, shows: bool) -> tuple[int, int]:
    """Return the two ends by which a command's output comes here: to read, to write."""
    if not (shows and os.isatty(stream)):
        return os.pipe()
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, termios.tcgetwinsize(stream))
    return reader, writer


def _copy(reader: int, stream: int | None, log: BinaryIO) -> None:
    """Show output as it comes, if there is a stream for it, and add each line to the log as it stands at last."""
    line = b""
    while chunk := _read(reader):
        if stream is not None:
            _show(stream, chunk)
        *whole, line = (line + chunk).split(b"\n")
        line = line[line.rstrip(b"\r").rfind(b"\r") + 1 :]
        _keep(log, b"".join(_last_state(text) + b"\n" for text in whole))
    if line:
        _keep(log, _last_state(line) + b"\n")
    os.close(reader)


def _last_state(line: bytes) -> bytes:
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def _keep(log: BinaryIO, lines: bytes) -> None:
    """Add to the log; where the disk is full, the command goes on, for it waits until its output is read."""
    try:
        log.write(lines)
    except OSError:
        return


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 1 << 16)
    except OSError:  # how a terminal says that its other end is closed
        return b""


def _show(stream: int, chunk: bytes) -> None:
    """Write to this process's own output; where nobody reads it any more, the command goes on unseen."""
    try:
        while chunk:
            chunk = chunk[os.write(stream, chunk) :]
    except OSError:
        return


def _end(pid: int) -> None:
    """End a process and all that it has started, kindly at first."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        _send(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(tree, timeout=_GRACE)
    for process in alive:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=_GRACE)


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
