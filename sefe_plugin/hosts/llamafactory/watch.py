"""Ends a task's process when the sequence that started it is gone, so that nothing trains unseen."""

import os
import signal
import threading
import time

import psutil


#: Environment variable with the process id of the sequence.
RUNNER_PID = "SEFE_RUNNER_PID"


class Terminated(KeyboardInterrupt):
    """This process was asked to end, by SIGTERM, as a queue of a cluster does."""


def announce_runner() -> None:
    """Make this process the one whose end ends the tasks it starts, and let SIGTERM end it as a Ctrl-C does."""
    os.environ[RUNNER_PID] = str(os.getpid())
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> None:
    raise Terminated("Stopped by SIGTERM.")


def end_with_runner() -> None:
    """Watch the announced process from a thread, if there is one; called in every process of a task."""
    pid = os.environ.get(RUNNER_PID)
    if pid is not None:
        if not psutil.pid_exists(int(pid)):
            os._exit(1)  # before anything is written
        threading.Thread(target=_watch, args=(int(pid),), name="sefe-runner-watch", daemon=True).start()


def _watch(pid: int) -> None:
    try:
        runner = psutil.Process(pid)
        while runner.is_running() and runner.status() != psutil.STATUS_ZOMBIE:
            time.sleep(1)
    except psutil.NoSuchProcess:
        pass
    os._exit(1)
