"""Starts a sequence, ends it at a random moment, and says what a finished one is made of."""

import hashlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
from same_report import without_times


#: What of a finished run must be the same, whatever happened on the way.
RESULTS = (
    "report.json",
    "*/scores.json",
    "*/predictions/*.jsonl",
    "*/asd.jsonl",
    "*/adapter_model.safetensors",
    "*/key_elements.safetensors",
    "*/merged/model.safetensors",
    "*/stacked/adapter_model.safetensors",
)


def results(run: Path) -> dict[str, str]:
    """Digest of every file that holds a result; of the report without its times."""
    files = sorted(file for pattern in RESULTS for file in run.glob(pattern))
    return {str(file.relative_to(run)): hashlib.sha256(_content(file)).hexdigest() for file in files}


def _content(file: Path) -> bytes:
    return without_times(file) if file.name == "report.json" else file.read_bytes()


def moment(run: Path) -> str:
    """Which step a run is in, by what lies in its folder."""
    tasks = sorted(folder for folder in run.glob("[0-9]*_*") if folder.is_dir())
    if not tasks:
        return "before the first task"
    task = tasks[-1]
    steps = (task / "steps.json").read_text() if (task / "steps.json").is_file() else ""
    if "carried" in steps and "scored" in steps:
        return "report" if (run / "report.md").is_file() else "between tasks"
    if "scored" in steps:
        return "carry"
    if "trained" in steps:
        return "scoring"
    if (task / "key_elements.safetensors").is_file():
        return "training's end"
    if (task / "adapter_model.safetensors").is_file() or any(task.glob(".key_elements*")):
        return "key elements"
    if any(task.glob("checkpoint-*")):
        return "training, from a checkpoint on"
    if (task / "trainer_log.jsonl").is_file() or (task / "asd.jsonl").is_file():
        return "training"
    return "a task's start"


def names(run: Path) -> set[str]:
    """Everything that lies in a run folder, as it is at this moment."""
    found = set()
    for folder, folders, files in os.walk(run):
        found.update(f"{folder}/{name}" for name in (*folders, *files))
    return found


class Disturbed:
    """A sequence that is ended again and again.

    Args:
        start: Starts it.
        run: Its folder.
        log: Where its output goes.
        rng: Draws the moments.
    """

    def __init__(self, start: Callable[[], subprocess.Popen], run: Path, log: Path, rng: random.Random):
        self.start, self.run, self.log, self.rng = start, run, log, rng
        self.moments: Counter[str] = Counter()

    def finish(self, timeout: float) -> int:
        """Start it and let it end by itself."""
        return self.start().wait(timeout)

    def end_somewhere(self, kind: str, most_events: int, most_seconds: float) -> bool:
        """Start it, wait for some new files or some seconds, and end it; False if it was faster.

        Args:
            kind: "all" kills every process, "sequence" the first one, "task" those that it started; "SIGTERM" asks
                the first one to end, "SIGINT" all as a Ctrl-C does.
            most_events: How many new files at most.
            most_seconds: How long after them at most.
        """
        process = self.start()
        before, events = names(self.run), self.rng.randrange(most_events)
        while process.poll() is None and len(names(self.run) - before) < events:
            time.sleep(0.005)
        time.sleep(self.rng.uniform(0, most_seconds))
        if process.poll() is not None:
            assert process.returncode == 0, self.log.read_text()[-3000:]
            return False
        children = _children(process)
        while kind == "task" and not children and process.poll() is None:
            children = _children(process)
        where = moment(self.run)
        if kind == "all":
            os.killpg(process.pid, signal.SIGKILL)
        elif kind == "task":
            for child in children:
                child.kill()
        elif kind == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM if kind == "SIGTERM" else signal.SIGKILL)
        process.wait(60)
        if process.returncode == 0:  # it was in its last line
            return False
        self.moments[where] += 1
        return True


def starter(command: list[str], log: Path, environment: dict[str, str]) -> Callable[[], subprocess.Popen]:
    """Return what starts a command in a process group of its own, with its output in a file."""

    def start() -> subprocess.Popen:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
                preexec_fn=_hear_ctrl_c,
            )

    return start


def _hear_ctrl_c() -> None:
    """Undo what a shell does to a job in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _children(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
