"""How far a task is: written seldom, read whole, and shown as lines and a bar."""

import io
import json
import time
from pathlib import Path

import pytest

from sefe_plugin.run import progress, view
from sefe_plugin.run.progress import (
    CARRYING,
    PREPARING,
    PROGRESS_FILE,
    SCORING,
    TRAINING,
    Phase,
    ProgressFile,
    forget_progress,
    newest_progress,
)
from sefe_plugin.run.records import RunFolderError
from sefe_plugin.run.view import View


def test_phases_follow_each_other_in_another_process(tmp_path):
    ProgressFile(tmp_path).start(PREPARING)
    task = ProgressFile(tmp_path)
    task.go_on()
    task.begin(TRAINING, total=8, done=2, samples=64)
    task.count(8)
    first, second = newest_progress(tmp_path)
    assert (first.name, second[:1], second[3:7]) == (PREPARING, (TRAINING,), (2, 8, 8, 64))
    assert first.seen <= second.began <= second.seen
    ProgressFile(tmp_path).start(PREPARING)
    assert [phase.name for phase in newest_progress(tmp_path)] == [PREPARING]
    forget_progress(tmp_path)
    assert not list(tmp_path.iterdir())


def test_many_steps_are_written_seldom(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    task = ProgressFile(tmp_path)
    task.begin(TRAINING, total=1000)
    written = []
    for step in range(1, 1001):
        now += 0.01
        task.count(step)
        written.append(newest_progress(tmp_path)[-1].done)
    assert len(set(written)) == 10 + 1  # ten seconds of steps, and the last one is always there
    assert written[-1] == 1000


def test_other_processes_and_full_disks_write_nothing(tmp_path):
    ProgressFile(None).start(PREPARING)
    (tmp_path / f".{PROGRESS_FILE}.tmp").mkdir()  # nothing can be written there
    ProgressFile(tmp_path).start(PREPARING)
    assert newest_progress(tmp_path) == []


def test_rate_and_time_left_are_of_this_process_alone():
    phase = Phase(TRAINING, began=100.0, seen=110.0, before=20, done=40, total=100)
    assert (phase.rate, phase.left) == (2.0, 30.0)
    assert phase._replace(done=20).rate is phase._replace(done=20).left is None


@pytest.mark.parametrize("content", [{}, [], [{"name": "training"}], [Phase("x", -1.0, 0.0)._asdict()], "x"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / PROGRESS_FILE).write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match=r"progress\.json is damaged"):
        newest_progress(tmp_path)
    task = ProgressFile(tmp_path)
    task.go_on()
    task.begin(SCORING)
    assert [phase.name for phase in newest_progress(tmp_path)] == [SCORING]


@pytest.mark.parametrize("place", [".", "calibrate"])
@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_task_may_end_while_its_progress_is_read(tmp_path, monkeypatch, place, looks):
    (tmp_path / place).mkdir(exist_ok=True)
    ProgressFile(tmp_path / place).start(PREPARING)
    whole, stat, left = newest_progress(tmp_path), Path.stat, [looks]

    def stat_and_end(file, **options):
        found = stat(file, **options)
        if file.name == PROGRESS_FILE:
            left[0] -= 1
            if left[0] == 0:
                file.unlink()
        return found

    monkeypatch.setattr(Path, "stat", stat_and_end)
    assert newest_progress(tmp_path) == ([] if left[0] <= 0 else whole)


def work(folder, fails=False, pause=0.0):
    """What the process of a task says."""
    task = ProgressFile(folder)
    task.start(PREPARING)
    task.begin(TRAINING, total=88, done=8, samples=700)
    task.count(88)
    time.sleep(pause)
    task.begin(SCORING, total=64)
    task.count(32)
    time.sleep(pause)
    if fails:
        raise RuntimeError
    task.begin(CARRYING)
    task.end()


LINES = [
    "[1/2] A: 700 samples, 88 steps, from step 8 on, about 40 s by the steps of Z",
    "[1/2] A: trained in 0 s",
    "[1/2] A: scored 64 answers in 0 s",
    "[1/2] A: carried on in 0 s",
]


def test_every_phase_has_a_line_however_fast_it_is(tmp_path):
    lines = []
    with View(lines.append).following(tmp_path, "[1/2] A", (0.5, "Z")):
        work(tmp_path)
    assert lines == LINES


def test_what_ends_in_an_error_is_not_called_done(tmp_path, monkeypatch):
    monkeypatch.setattr(view, "_PAUSE", 0.01)
    lines = []
    with pytest.raises(RuntimeError), View(lines.append).following(tmp_path, "[1/2] A", (0.5, "Z")):
        work(tmp_path, fails=True, pause=0.3)
    assert lines == LINES[:2]


def test_a_terminal_has_one_bar_that_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(view, "_PAUSE", 0.01)
    monkeypatch.setattr(progress, "_INTERVAL", 0)
    lines, terminal = [], io.StringIO()
    with View(lines.append, terminal).following(tmp_path, "[1/2] A"):
        work(tmp_path, pause=0.5)
    shown = terminal.getvalue()
    assert "[1/2] A training 100%" in shown
    assert "88/88" in shown
    assert "32/64" in shown
    assert "answers/s" in shown
    assert shown.endswith("\r")
    assert not shown.rstrip("\r").rpartition("\r")[2].strip()  # nothing of it is left
    assert len(lines) == 4


@pytest.mark.parametrize("terminal", [None, io.StringIO()])
def test_a_run_goes_on_where_nobody_reads_its_lines(tmp_path, terminal):
    lines = []

    def say(line):
        lines.append(line)
        if len(lines) > 1:
            raise BrokenPipeError

    with View(say, terminal).following(tmp_path, "[1/2] A", (0.5, "Z")):
        work(tmp_path)
    assert lines == LINES


def test_no_bar_and_no_phase_where_all_is_shown(tmp_path):
    lines, terminal = [], io.StringIO()
    with View(lines.append, terminal, verbose=True).following(tmp_path, "[1/2] A"):
        work(tmp_path)
    assert (lines, terminal.getvalue()) == ([], "")
