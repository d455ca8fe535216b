"""Kills, Ctrl-C, a full disk: a sequence goes on to the same results. Here with a host of a few lines; the long form,
with LLaMA-Factory, is `pytest -m faults -s tests/faults`.
"""

import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Disturbed, results, starter


COMMAND = [sys.executable, str(Path(__file__).with_name("stand_in.py"))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    """The results of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([*COMMAND, str(folder)], check=True, capture_output=True)
    found = results(folder / "run")
    assert len(found) == 19  # report, 3 x (scores, adapter, key elements, merged), 6 predictions
    return found


@pytest.fixture
def disturbed(tmp_path):
    def make(seed: int, *overrides: str) -> Disturbed:
        (tmp_path / "run").mkdir()
        start = starter([*COMMAND, str(tmp_path), *overrides], tmp_path / "said", dict(os.environ))
        return Disturbed(start, tmp_path / "run", tmp_path / "said", random.Random(seed))

    return make


def test_kills_at_random_moments_change_no_result(undisturbed, disturbed):
    run = disturbed(1)
    for kind in ("all", "sequence", "task", "all", "task"):
        run.end_somewhere(kind, most_events=15, most_seconds=0.1)
    assert run.finish(60) == 0, run.log.read_text()[-3000:]
    assert sum(run.moments.values()) >= 3
    assert results(run.run) == undisturbed
    assert "was ended by SIGKILL, as a system does that runs out of memory; its output is in " in run.log.read_text()


def test_kills_change_no_result_where_earlier_merged_models_are_removed(undisturbed, disturbed):
    run = disturbed(3, "keep_merged=last")
    for kind in ("all", "task", "sequence"):
        run.end_somewhere(kind, most_events=15, most_seconds=0.1)
    assert run.finish(60) == 0, run.log.read_text()[-3000:]
    gone = {"1_A/merged/model.safetensors", "2_B/merged/model.safetensors"}
    assert results(run.run) == {file: digest for file, digest in undisturbed.items() if file not in gone}
    assert not list(run.run.glob("*/.merged*"))


@pytest.mark.parametrize(("kind", "said"), [("SIGTERM", "Stopped by SIGTERM."), ("SIGINT", "Stopped by Ctrl-C.")])
def test_an_end_that_is_asked_for_is_one_line(undisturbed, disturbed, kind, said):
    run = disturbed(2)
    process = run.start()
    log = run.run / "1_A" / "log.txt"
    while not log.is_file() or not any(run.run.glob("1_A/checkpoint-2")):
        assert process.poll() is None
    if kind == "SIGINT":
        os.killpg(process.pid, 2)
    else:
        process.terminate()
    assert process.wait(30) == {"SIGTERM": 143, "SIGINT": 130}[kind]
    assert run.log.read_text() == (
        f"{said} The same command continues after the last step that is whole. What the task said is in {log}.\n"
    )
    assert run.finish(60) == 0
    assert results(run.run) == undisturbed


def test_a_full_disk_is_told_and_the_run_goes_on(undisturbed, tmp_path):
    """No file may grow beyond a few bytes, as on a disk that is full."""
    command = [*COMMAND, str(tmp_path)]
    (tmp_path / "run").mkdir()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.RLIM_INFINITY))

    failed = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert failed.returncode == 1
    assert "File too large" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "the same command continues" in failed.stderr
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert results(tmp_path / "run") == undisturbed


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "run").touch()
    failed = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "See that the folder can be written" in failed.stderr
    assert "Traceback" not in failed.stderr
