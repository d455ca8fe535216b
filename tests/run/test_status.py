"""`sefe status`: of runs in every state, without disturbing them."""

import json
import subprocess
import sys
import time

import pytest

from sefe_plugin.cli import main
from sefe_plugin.files import write_json
from sefe_plugin.run.ending import read_ending, recorded_ending
from sefe_plugin.run.folder import MANIFEST_VERSION, RunFolder
from sefe_plugin.run.progress import PREPARING, SCORING, TRAINING, Phase, ProgressFile
from sefe_plugin.run.status import run_status
from sefe_plugin.run.steps import TRAINED, record_step


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """A run of three tasks of which the first is complete and the second has begun."""
    folder = RunFolder(tmp_path / "run")
    recipe = {"tasks": [{"name": name, "test_dataset": name, "scorer": "yes_no"} for name in "ABC"]}
    complete = [{"name": "A", "folder": "1_A", "seconds": 100.0}]
    write_json(folder.manifest_file, {"version": MANIFEST_VERSION, "recipe": recipe, "complete": complete})
    write_json(folder.path / "1_A" / "scores.json", {"A": {"accuracy": 62.5, "format": 100.0, "count": 8}})
    (folder.path / "2_B").mkdir()
    (folder.path / "2_B" / "log.txt").write_text("old\n--- 2026-01-01 00:00:00 python\nfirst\n\n\x1b[1mlast\x1b[0m\n")
    return folder


def write_phases(folder: RunFolder, *phases: Phase) -> None:
    (folder.path / "2_B" / "progress.json").write_text(json.dumps([phase._asdict() for phase in phases]))


def said(folder: RunFolder, capsys) -> str:
    assert main(["status", str(folder.path)]) == 0
    return capsys.readouterr().out


def test_a_run_at_work(folder, capsys):
    now = time.time()
    write_phases(
        folder,
        Phase(PREPARING, now - 50, now - 40),
        Phase(TRAINING, now - 40, now, before=20, done=60, total=120, samples=700),
    )
    with folder.lock():
        lines = said(folder, capsys).splitlines()
        status = run_status(folder.path)
    assert lines[0] == f"{folder.path}: running, 1 of 3 tasks complete"
    assert lines[1] == "after A: A 62.5 | mean 62.5"
    assert lines[2] == "now: B, training, 60 of 120 steps, 1 steps/s"
    assert lines[3].startswith("  training done at ")
    assert lines[4].startswith("  all tasks done at about ")
    assert lines[5:] == [f"log: {folder.path / '2_B' / 'log.txt'}", "  | first", "  | last"]
    assert status["phase_left"] == pytest.approx(60, abs=5)
    # 100 seconds for each task: 50 of this one have passed, but its steps alone take 60 more
    assert status["left"] == pytest.approx(60 + 100, abs=5)


def test_a_run_is_looked_at_without_holding_it(folder):
    ProgressFile(folder.path / "2_B").start(PREPARING)
    run_status(folder.path)
    assert not folder.is_in_use()
    with folder.lock():
        assert folder.is_in_use()
        assert run_status(folder.path)["state"] == "running"
    files = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
    run_status(folder.path)
    assert files == {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (None, "stopped", "Killed, or the machine was lost"),
        (KeyboardInterrupt(), "stopped", "Stopped by Ctrl-C."),
        (KeyboardInterrupt("Stopped by SIGTERM."), "stopped", "Stopped by SIGTERM."),
        (RuntimeError("Task B failed"), "failed", "Task B failed"),
    ],
)
def test_how_a_run_has_ended(folder, capsys, error, state, words):
    write_phases(folder, Phase(SCORING, 100.0, 110.0, done=32, total=64))
    record_step(folder.path / "2_B", TRAINED)
    if error is not None:
        with pytest.raises(type(error)), recorded_ending(folder):
            raise error
    lines = said(folder, capsys).splitlines()
    assert lines[0] == f"{folder.path}: {state}, 1 of 3 tasks complete"
    assert lines[1].startswith(f"  {words}")
    assert lines[4] == "next: B, ended in scoring, 32 of 64 answers, already trained"
    with recorded_ending(folder):
        assert read_ending(folder) is None


def test_a_finished_run(folder, capsys):
    manifest = json.loads(folder.manifest_file.read_text())
    manifest["recipe"]["tasks"] = manifest["recipe"]["tasks"][:1]
    write_json(folder.manifest_file, manifest)
    assert said(folder, capsys) == f"{folder.path}: finished, 1 of 1 tasks complete\nafter A: A 62.5 | mean 62.5\n"
    assert main(["status", "--json", str(folder.path)]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["A"]["A"]["accuracy"] == 62.5


def test_a_folder_without_a_run(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    assert said(folder, capsys) == f"{tmp_path}: not started, no run has begun in this folder\n"
    with folder.lock():
        assert said(folder, capsys) == f"{tmp_path}: running, in use, and about to begin\n"
    assert not list(tmp_path.glob("[!.]*"))


@pytest.mark.parametrize("damaged", ["manifest.json", "1_A/scores.json", "2_B/progress.json", "ending.json"])
def test_damage_is_told_in_one_line(folder, capsys, damaged):
    (folder.path / damaged).write_text("{")
    assert main(["status", str(folder.path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{folder.path / damaged} is damaged")


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert main(["status", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'none'} is no folder. Name the `output_dir` of a sequence.\n"


def test_nothing_heavy_is_imported(folder):
    code = (
        "import sys; from sefe_plugin.cli import main; main(['status', sys.argv[1]]);"
        "print({'torch', 'transformers', 'numpy', 'matplotlib', 'llamafactory'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
