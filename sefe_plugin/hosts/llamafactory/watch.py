"""Ends a task's process when the sequence that started it is gone, so that nothing trains unseen."""

import os
import threading
import time

import psutil


#: Environment variable with the process id of the sequence.
RUNNER_PID = "SEFE_RUNNER_PID"


def announce_runner() -> None:
    """Make this process the one whose end ends the tasks it starts."""
    os.environ[RUNNER_PID] = str(os.getpid())


def end_with_runner() -> None:
    """Watch the announced process from a thread, if there is one; called in every process of a task."""
    pid = os.environ.get(RUNNER_PID)
    if pid is not None:
        threading.Thread(target=_watch, args=(int(pid),), name="sefe-runner-watch", daemon=True).start()


def _watch(pid: int) -> None:
    try:
        runner = psutil.Process(pid)
        while runner.is_running() and runner.status() != psutil.STATUS_ZOMBIE:
            time.sleep(1)
    except psutil.NoSuchProcess:
        pass
    os._exit(1)
