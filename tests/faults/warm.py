"""LLaMA-Factory loaded once: every sequence and every task of it is a fork, which starts in no time.

What a fork does is what a process of its own does, from reading the recipe on. Only the start, and the output that is
shown and kept, are left out.
"""

import io
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import yaml
from tqdm import tqdm


class Forked:
    """A fork that runs a function, with what the tests need of `subprocess.Popen`.

    Args:
        work: What it runs; a number that it returns, or exits with, is its exit status.
        log: Where its output goes.
        own_group: Whether it begins a process group.
    """

    def __init__(self, work: Callable[[], int | None], log: Path, own_group: bool = True):
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                if own_group:
                    os.setsid()
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                for stream, name in ((1, "stdout"), (2, "stderr")):
                    os.dup2(output, stream)
                    setattr(sys, name, open(stream, "w", closefd=False))  # noqa: SIM115
                status = work() or 0
            except SystemExit as end:
                status = end.code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("fork", timeout)
            time.sleep(0.005)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def load_host() -> None:
    """Load what a task's process loads."""
    import llamafactory.train.tuner  # noqa: F401
    from matplotlib.figure import Figure

    import sefe_plugin.hosts.llamafactory.scoring
    import sefe_plugin.hosts.llamafactory.task  # noqa: F401

    Figure().savefig(io.BytesIO())  # a fork may begin while a thread of a sequence draws, and must not wait for it
    tqdm.set_lock(threading.RLock())  # its own is one of all forks: one that is killed with it would stop all others


def run_sequence(arguments: list[str]) -> None:
    """Run a sequence as `llamafactory-cli train` does, in a fork for each step of its tasks."""
    import sefe_plugin.run.job
    from sefe_plugin.hosts.llamafactory.sequence import intercept
    from sefe_plugin.run import process

    def call(command: list[str], log: Path, *given: object) -> int:
        def work() -> None:
            from llamafactory.train.tuner import export_model, run_exp

            process.end_with_parent()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            {"train": run_exp, "export": export_model}[command[-2]](yaml.safe_load(Path(command[-1]).read_text()))

        task = Forked(work, log, own_group=False)
        try:
            return task.wait()
        except BaseException:
            process._end(task.pid)
            raise

    sefe_plugin.run.job.call = call
    intercept(arguments)
