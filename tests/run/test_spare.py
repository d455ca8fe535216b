"""Merged models that no later task needs: removed during a run, afterwards, after a kill; and never the last one."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from same_report import without_times
from script_host import ScriptHost

import sefe_plugin.run.runner as runner
import sefe_plugin.run.spare as spare
from sefe_plugin.cli import main
from sefe_plugin.files import read_json
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.job import TaskFailedError
from sefe_plugin.run.runner import run_sequence
from sefe_plugin.run.verify import verify_run
from sefe_plugin.run.whole import require_whole


KEYS = {"cl_method": "lora", "carry": "merge", "model_name_or_path": "base"}

TASKS = tuple(Task(name, f"{name}_train", f"{name}_test", "short_answer", {}) for name in "ABC")

HOST = """
import json, pathlib, sys, yaml
import numpy as np
from safetensors.numpy import save_file
from sefe_plugin.run.steps import SCORED, record_step
keys = yaml.safe_load(open(sys.argv[1]))
folder, base = pathlib.Path(keys["output_dir"]), pathlib.Path(keys["model_name_or_path"])
if (folder.parent / "fail").is_file() and folder.name == (folder.parent / "fail").read_text():
    sys.exit(3)
if base.is_absolute() and not (base / "model.safetensors").is_file():
    sys.exit("no base " + str(base))
with open(folder.parent / "calls", "a") as calls:
    calls.write(folder.name + "\\n")
for checkpoint in (folder / "checkpoint-4", folder / "first/checkpoint-2"):
    checkpoint.mkdir(parents=True)
    (checkpoint / "optimizer.pt").touch()
(folder / "merged").mkdir()
save_file({"w": np.ones(4, np.float32)}, folder / "merged/model.safetensors")
(folder / "merged/config.json").write_text("{}")
(folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
key = "base_model.model.q_proj.lora_{}.weight"
save_file({key.format(m): np.ones((2, 2), np.float32) for m in "AB"}, folder / "adapter_model.safetensors")
scores = {one["name"]: {"accuracy": 90.0, "format": 100.0, "count": 5} for one in keys["test_sets"]}
(folder / "scores.json").write_text(json.dumps(scores))
record_step(folder, SCORED)
"""


@pytest.fixture
def run(tmp_path):
    """Runs the sequence; `merged` are the tasks that have a merged model, the letters of their names."""
    (tmp_path / "host.py").write_text(HOST)

    def start(tasks=TASKS, **changes):
        recipe = Recipe("test.yaml", KEYS | changes, tasks, tmp_path / "run", None)
        require_whole(recipe)
        return run_sequence(recipe, ScriptHost(tmp_path / "host.py"), host_keys(), lambda line: None)

    start.path = tmp_path / "run"
    start.merged = lambda: "".join(sorted(place.parent.name[-1] for place in start.path.glob("*/merged")))
    start.checkpoints = lambda: sorted(str(path.relative_to(start.path)) for path in start.path.rglob("checkpoint-*"))
    start.leftovers = lambda: sorted(path.name for path in start.path.glob("*/.*"))
    return start


def failures(path) -> list[str]:
    return [
        f"{found.where} {found.what}"
        for found in verify_run(path, lambda keys, place: iter(()))
        if found.state is not True and found.what.startswith("merged")
    ]


def test_without_the_key_all_merged_models_stay(run):
    run()
    assert run.merged() == "ABC"


def test_only_the_last_merged_model_stays_and_results_are_the_same(run, tmp_path):
    run()
    kept = without_times(run.path / "report.json")
    run.path.rename(tmp_path / "all")
    run(keep_merged="last")
    assert run.merged() == "C"
    assert read_json(run.path / "1_A/removed.json")["merged"]["bytes"] > 0
    assert without_times(run.path / "report.json") == kept
    assert failures(run.path) == []


def test_what_an_unfinished_task_starts_from_stays_and_the_run_goes_on(run):
    (run.path).mkdir()
    recipe = Recipe("test.yaml", KEYS | {"keep_merged": "last"}, TASKS, run.path, None)
    RunFolder(run.path).open_run(recipe.to_dict(), host_keys())
    (run.path / "fail").write_text("3_C")
    with pytest.raises(TaskFailedError):
        run(keep_merged="last")
    assert run.merged() == "B"
    assert main(["clean", str(run.path), "--yes"]) == 0
    assert run.merged() == "B"
    (run.path / "fail").unlink()
    run(keep_merged="last")
    assert run.merged() == "C"


def test_the_key_may_change_in_a_continued_run(run):
    run(TASKS[:2])
    assert run.merged() == "AB"
    run(keep_merged="last")
    assert run.merged() == "C"
    run(keep_merged="all")
    assert run.merged() == "C"


def test_checkpoints_of_complete_tasks_go_unless_they_are_to_stay(run):
    run(TASKS[:2], keep_checkpoints=True)
    assert run.checkpoints() == ["1_A/checkpoint-4", "1_A/first/checkpoint-2", *run.checkpoints()[2:]]
    assert len(run.checkpoints()) == 4
    (run.path / "fail").write_text("3_C")
    with pytest.raises(TaskFailedError):
        run()
    assert run.checkpoints() == []
    checkpoint = run.path / "3_C/checkpoint-4"
    checkpoint.mkdir(exist_ok=True)
    with pytest.raises(TaskFailedError):
        run(TASKS)
    (run.path / "fail").unlink()
    run()
    assert run.checkpoints() == []


def test_a_start_that_is_refused_removes_nothing(run, monkeypatch):
    run(TASKS[:2])

    def refuse(*arguments):
        raise RunFolderError("the data has changed")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_compare_inputs", refuse)
        with pytest.raises(RunFolderError, match="the data has changed"):
            run(keep_merged="last")
    assert run.merged() == "AB"


def test_a_further_task_starts_from_the_model_that_stayed(run):
    run(TASKS[:2], keep_merged="last")
    run(keep_merged="last")
    assert (run.path / "calls").read_text().split() == ["1_A", "2_B", "3_C"]


@pytest.mark.parametrize("where", ["before the record", "before the removal", "within the removal"])
def test_a_kill_between_completion_and_removal_is_harmless(run, monkeypatch, where):
    def killed(*arguments):
        raise KeyboardInterrupt

    place, name = {
        "before the record": (spare, "write_json"),
        "before the removal": (spare, "remove_folder"),
        "within the removal": (sys.modules["sefe_plugin.files"].shutil, "rmtree"),
    }[where]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, name, killed)
        run(keep_merged="last", keep_checkpoints=True)
    assert [task["name"] for task in read_json(run.path / "manifest.json")["complete"]] == ["A", "B"]
    assert failures(run.path) == []
    run(keep_merged="last")
    assert run.merged() == "C"
    assert run.leftovers() == []
    assert (run.path / "calls").read_text().split() == ["1_A", "2_B", "3_C"]


def test_nothing_is_removed_while_the_model_that_would_stay_is_damaged(run):
    run()
    (run.path / "3_C/merged/model.safetensors").write_bytes(b"half")
    with pytest.raises(RunFolderError, match=r"Nothing .* was removed.*3_C/merged/model\.safetensors: absent, dam"):
        spare.remove_spare(RunFolder(run.path))
    assert run.merged() == "ABC"


def test_verify_tells_what_was_removed_from_what_is_lost(run):
    run()
    spare.remove_spare(RunFolder(run.path), [run.path / "1_A/merged"])
    assert failures(run.path) == []
    for file in (run.path / "2_B/merged").iterdir():
        file.unlink()
    (run.path / "2_B/merged").rmdir()
    assert failures(run.path) == [
        "2_B merged: not there, and no record says that it was removed; no later task needs it"
    ]
    spare.remove_folder(run.path / "3_C/merged")
    assert failures(run.path)[1:] == ["3_C merged: missing, and it is the model of all tasks so far"]


def test_clean_shows_first_and_removes_only_when_it_is_told_to(run, capsys, monkeypatch):
    run()
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main(["clean", str(run.path)]) == 1
    said = capsys.readouterr()
    assert "1_A/merged" in said.out
    assert "2_B/merged" in said.out
    assert f"{run.path}/3_C/merged stays" in said.out
    assert "Nothing was removed. Add --yes" in said.err
    assert run.merged() == "ABC"
    assert main(["clean", str(run.path), "--yes"]) == 0
    assert "Removed 2 merged models." in capsys.readouterr().out
    assert run.merged() == "C"
    assert main(["clean", str(run.path), "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    run()  # the same command does nothing but report again
    assert failures(run.path) == []


@pytest.mark.parametrize(("answer", "left"), [("y", "C"), ("", "ABC"), ("no", "ABC")])
def test_clean_asks_on_a_terminal(run, monkeypatch, capsys, answer, left):
    run()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert main(["clean", str(run.path)]) == 0
    said = capsys.readouterr()
    assert said.out.endswith("\nNothing was removed.\n") == (left == "ABC")
    assert said.err == ""
    assert run.merged() == left


def test_clean_refuses_while_a_run_is_at_work(run, monkeypatch, capsys):
    run()
    monkeypatch.setattr("sefe_plugin.run.folder._PATIENCE", 0.2)
    holder = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holder, str(run.path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert main(["clean", str(run.path), "--yes"]) == 1
        process.stdin.close()
    assert "in use by another run" in capsys.readouterr().err
    assert run.merged() == "ABC"


@pytest.mark.parametrize("carry", ["stack", "replace", "continue", "none"])
def test_clean_leaves_what_is_a_tasks_own_result(tmp_path, capsys, carry):
    """For example `carry: replace`: each model is the result of its task, and in no other file."""
    recipe = {"cl_method": "lora", "carry": carry, "tasks": [{"name": "A"}, {"name": "B"}]}
    folder = RunFolder(tmp_path)
    for index, name in enumerate("AB"):
        (folder.task_folder(index, name) / "merged").mkdir(parents=True)  # somebody's own
    folder.complete_task(recipe, recipe["tasks"])
    assert main(["clean", str(tmp_path), "--yes"]) == 0
    assert f"`carry: {carry}` leaves no merged models" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*/merged"))) == 2


def test_clean_of_a_folder_without_a_run_says_so(tmp_path, capsys):
    assert main(["clean", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err


def test_a_removed_model_is_known_by_its_record_alone(tmp_path):
    model = tmp_path / "1_A/merged"
    model.mkdir(parents=True)
    save_file({"w": np.ones(2, np.float32)}, model / "model.safetensors")
    assert not spare.was_removed(model)
    (tmp_path / "1_A/removed.json").write_text(json.dumps({"merged": {"bytes": spare.bytes_of_model(model)}}))
    assert spare.was_removed(model)
