"""Starts the processes of a sequence as forks of one that has loaded what they all load, or plainly.

LLaMA-Factory's libraries take ten seconds of CPU to load. A sequence runs a process for its trial and one or more for
each task; as forks of a process that has loaded the libraries (`preloaded`), they are paid for once. Each is a process
of its own as ever: its own memory, output, folder, log and end. What is not known to be safe is started plainly.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sefe_plugin.hosts.llamafactory.preloaded import HOST_MODULE
from sefe_plugin.hosts.llamafactory.switches import is_on
from sefe_plugin.hosts.llamafactory.trial_process import TRIAL_MODULE
from sefe_plugin.run.process import Started, end_with_parent, spawn, task_environment


#: Environment variable; 0 has every process load the libraries itself.
PRELOAD = "SEFE_PRELOAD"

_PRELOADED = "from sefe_plugin.hosts.llamafactory.preloaded import main; main()"


class Launcher:
    """Starts command lines; a context, at whose end the process that has loaded the libraries is gone.

    Args:
        say: Given one line where forks turn out not to be safe.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        # torchrun starts processes of its own, and other systems' libraries do not bear a fork
        self._is_plain = os.environ.get(PRELOAD) == "0" or is_on("FORCE_TORCHRUN") or sys.platform != "linux"
        self._parent: _Parent | None = None
        self._has_answered = False

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *error: object) -> None:
        if self._parent is not None:
            self._parent.close()

    def get_ready(self) -> None:
        """Have the libraries loaded, and do not wait for it: on another core, while the sequence reads its data."""
        if not self._is_plain and self._parent is None:
            self._parent = _Parent()

    def start(self, command: Sequence[str], outputs: tuple[int, int], held: Sequence[int] = ()) -> Started:
        """Start a command line, as `spawn` does."""
        words = _host_module(command)
        if words and not self._is_plain:
            self.get_ready()
            if not self._has_answered:
                self._has_answered = True
                if reason := self._parent.refusal():
                    self._say(f"Every task loads the libraries of LLaMA-Factory itself: {reason}.")
                    self._is_plain = True
            if not self._is_plain and self._parent.stands_for_this_process():
                return self._parent.fork(words, outputs, held)
        return spawn(command, outputs, held)


def _host_module(command: Sequence[str]) -> list[str] | None:
    """Return the module of a command line, and its arguments, if a fork may run it in this interpreter's stead."""
    python, *words = command
    if python != sys.executable or words[:2] != ["-P", "-m"]:
        return None
    known = words[2] == TRIAL_MODULE or words[2:4] in ([HOST_MODULE, "train"], [HOST_MODULE, "export"])
    return words[2:] if known else None


class _Parent:
    """The process that has loaded the libraries, and what is said to it: see `preloaded`."""

    def __init__(self):
        self._environment = task_environment()
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PRELOADED, str(theirs.fileno())],
                env=self._environment,
                pass_fds=[theirs.fileno()],
                preexec_fn=end_with_parent,
            )
        self._answers = self._connection.makefile("rb")

    def refusal(self) -> str | None:
        """Wait until it has loaded the libraries; return why it does not fork, None if it does."""
        line = self._answers.readline()
        return json.loads(line) if line else f"the process that loads them has ended ({self._process.wait()})"

    def stands_for_this_process(self) -> bool:
        """Tell whether it is there, and its environment is still this process's."""
        return self._process.poll() is None and self._environment == task_environment()

    def fork(self, words: Sequence[str], outputs: tuple[int, int], held: Sequence[int]) -> Started:
        """Have a fork run a module.

        Args:
            words: The module and its arguments.
            outputs: As in `spawn`.
            held: As in `spawn`.
        """
        request = json.dumps({"words": words, "folder": str(Path.cwd())}).encode() + b"\n"
        sent = socket.send_fds(self._connection, [request], [*outputs, *held])
        self._connection.sendall(request[sent:])
        line = self._answers.readline()
        return _Fork(json.loads(line), self._end_of_fork) if line else self._process

    def _end_of_fork(self) -> int:
        """Wait for the end of the fork; it ends with this process, and then as this one does."""
        line = self._answers.readline()
        return json.loads(line) if line else self._process.wait()

    def close(self) -> None:
        """End it, and a fork that is at work."""
        self._process.kill()
        self._process.wait()
        self._answers.close()
        self._connection.close()


class _Fork:
    """A process that the parent has forked.

    Args:
        pid: Its number.
        wait: Waits for its end.
    """

    def __init__(self, pid: int, wait: Callable[[], int]):
        self.pid, self._wait = pid, wait
        self._status: int | None = None

    def wait(self) -> int:
        """Wait for its end; return its exit status, negative where a signal ended it."""
        if self._status is None:
            self._status = self._wait()
        return self._status
