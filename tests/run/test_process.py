"""What a task's process says is shown and kept, and it ends with the sequence."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from sefe_plugin.run import process
from sefe_plugin.run.process import call, ended_how, last_lines


#: Runs a script as a task's process, in a process whose output is looked at.
RUN = """
import sys
from pathlib import Path
from sefe_plugin.run.process import call
raise SystemExit(call([sys.executable, sys.argv[1]], Path(sys.argv[2])))
"""

RUN_INLINE = RUN.replace("[sys.executable, sys.argv[1]]", '[sys.executable, "-c", sys.argv[1]]')

#: A progress bar and a message, and whether they go to a terminal.
SAYS = """
import os, sys
print("step 1\\rstep 2\\rstep 3")
print("terminal" if os.isatty(1) else "no terminal", flush=True)
print("wrong", file=sys.stderr)
print("last words", end="", flush=True)
raise SystemExit(3)
"""


def command(script: str, log: Path) -> list[str]:
    return [sys.executable, "-c", RUN, written(script, log.parent), str(log)]


def written(script: str, folder: Path) -> str:
    (folder / "task.py").write_text(script)
    return str(folder / "task.py")


def test_output_is_shown_as_it_comes_and_kept_as_it_ends(tmp_path):
    done = subprocess.run(command(SAYS, tmp_path / "log.txt"), capture_output=True)
    assert done.returncode == 3
    assert done.stdout == b"step 1\rstep 2\rstep 3\nno terminal\nlast words"
    assert done.stderr == b"wrong\n"
    head, *lines = (tmp_path / "log.txt").read_text().splitlines()
    assert head.startswith("--- 2")
    assert sorted(lines) == ["last words", "no terminal", "step 3", "wrong"]


def test_a_terminal_stays_one(tmp_path):
    reader, writer = pty.openpty()
    done = subprocess.Popen(command(SAYS, tmp_path / "log.txt"), stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    shown = b""
    while True:
        try:
            shown += os.read(reader, 1000)
        except OSError:
            break
    os.close(reader)
    assert done.wait() == 3
    assert shown.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n") == (b"step 1\rstep 2\rstep 3\nterminal\nlast words")
    assert done.stderr.read() == b"wrong\n"
    done.stderr.close()
    # which of two streams comes first, nobody knows
    kept = [line for line in (tmp_path / "log.txt").read_text().splitlines() if line != "wrong"]
    assert kept[1:] == ["step 3", "terminal", "last words"]


def test_what_is_not_shown_is_kept_as_it_comes(tmp_path):
    code = RUN.replace("Path(sys.argv[2])", "Path(sys.argv[2]), (), False")
    log = tmp_path / "log.txt"
    script = written("import time; print('first'); time.sleep(2); print('\\x1b[1mlast\\x1b[0m'); exit(3)", tmp_path)
    running = subprocess.Popen([sys.executable, "-c", code, script, str(log)], stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while last_lines(log, 5) != ["first"]:  # long before it ends
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.01)
    assert running.communicate()[0] == b""
    assert running.returncode == 3
    assert last_lines(log, 5) == ["first", "last"]
    assert last_lines(log, 1) == ["last"]
    assert call([sys.executable, "-c", "print('another')"], log, (), False) == 0
    assert last_lines(log, 5) == ["another"]
    assert last_lines(tmp_path / "none", 5) == []


def test_a_log_that_cannot_be_written_stops_nothing():
    many = "for number in range(100_000): print(number)"  # more than waits for a reader
    done = subprocess.run([sys.executable, "-c", RUN_INLINE, many, "/dev/full"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [str(number) for number in range(100_000)]


def test_a_name_that_is_no_text_is_kept_as_it_is(tmp_path):
    name = os.fsdecode(b"caf\xe9.yaml")
    assert (
        call([sys.executable, "-c", "import sys; sys.exit(len(sys.argv[1]))", name], tmp_path / "log", (), False) == 9
    )
    assert b"caf\xe9.yaml" in (tmp_path / "log").read_bytes()


def test_logs_of_one_task_follow_each_other(tmp_path):
    for word in ("first", "second"):
        assert call([sys.executable, "-c", f"print('{word}')"], tmp_path / "log.txt") == 0
    assert [line for line in (tmp_path / "log.txt").read_text().splitlines() if "---" not in line] == [
        "first",
        "second",
    ]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (3, "failed with exit status 3"),
        (-15, "was ended by SIGTERM"),
        (-9, "was ended by SIGKILL, as a system does that runs out of memory"),
    ],
)
def test_how_a_process_ended(status, said):
    assert ended_how(status) == said


#: Starts a process of its own, hears no SIGTERM and no Ctrl-C, and says who they are.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, signal.getsignal(signal.SIGINT) == signal.SIG_IGN, flush=True)
time.sleep(60)
"""


def test_everything_that_a_task_started_ends_with_the_sequence(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_GRACE", 1)
    log = tmp_path / "log.txt"

    def interrupt() -> None:
        while not log.is_file() or len(log.read_text().splitlines()) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call([sys.executable, written(STUBBORN, tmp_path)], log)
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join()
    first, second, deaf = log.read_text().splitlines()[1].split()
    assert deaf == "True"
    assert not any(psutil.pid_exists(int(pid)) and _runs(int(pid)) for pid in (first, second))


def test_a_task_ends_at_once_with_a_sequence_that_is_killed(tmp_path):
    log = tmp_path / "log.txt"
    sequence = subprocess.Popen(command("import os, time; print(os.getpid(), flush=True); time.sleep(60)", log))
    while not log.is_file() or len(log.read_text().splitlines()) < 2:
        assert sequence.poll() is None
        time.sleep(0.01)
    sequence.kill()
    sequence.wait()
    task = int(log.read_text().splitlines()[1])
    deadline = time.monotonic() + 20
    while psutil.pid_exists(task) and _runs(task):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
