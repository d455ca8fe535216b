"""A plan reads the run folder: what is done, what is left, and how long that takes as far as it was measured."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.cli import main
from sefe_plugin.files import write_json
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.plan import done
from sefe_plugin.plan.done import Done, format_left, read_done
from sefe_plugin.recipe.load import load_recipe
from sefe_plugin.run.costs import Cost, record_cost
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.records import RunFolderError
from sefe_plugin.run.steps import TRAINED, record_step


@pytest.fixture
def recipe_file(tmp_path):
    rows = [{"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]}] * 32
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "test.json").write_text(json.dumps([{"text": "a?", "answer": "b"}] * 5))
    info = {
        "rows": {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "conversations"}},
        "test": {"file_name": "test.json", "columns": {"prompt": "text", "response": "answer"}},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    task = {"dataset": "rows", "test_dataset": "test", "scorer": "short_answer"}
    keys = {
        "model_name_or_path": str(BASE),
        "template": "llava",
        "cl_method": "reglora",
        "lora_target": "all",
        "dataset_dir": str(tmp_path),
        "output_dir": str(tmp_path / "run"),
        "preprocessing_num_workers": 1,
        "max_new_tokens": 8,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1.0,
        "tasks": [{"name": name, **task} for name in "ABC"],
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(keys))
    return file


@pytest.fixture
def recipe(recipe_file):
    return load_recipe(yaml.safe_load(recipe_file.read_text()), "mine.yaml", host_keys())


def cost(seconds: float, steps: int) -> Cost:
    return Cost(seconds, steps, 0, seconds / steps, 1, "process")


@pytest.fixture
def complete(recipe):
    """Completes the first tasks of the recipe's run, each with the costs of its trainings."""

    def make(*costs, names="ABC") -> RunFolder:
        folder = RunFolder(recipe.output_dir)
        for index, of_task in enumerate(costs):
            place = folder.task_folder(index, names[index])
            for number, one in enumerate(of_task):
                record_cost(place if number == 0 else place / f"phase{number}", one)
            place.mkdir(parents=True, exist_ok=True)
            (place / "adapter.bin").write_bytes(b"x" * 1000)
        recorded = {**recipe.to_dict(), "tasks": [{"name": name} for name in names]}
        folder.complete_task(recorded, [{"name": names[index]} for index in range(len(costs))])
        return folder

    return make


def test_before_the_first_run_all_is_left(recipe):
    state = read_done(recipe)
    assert (state.complete, state.trained, state.bytes, state.step_seconds) == ([], [], 0, None)
    assert state.free > 0
    assert state.left([4, 4, 4], 5000) == {"steps": 12, "seconds": None, "disk": 5000}
    assert not recipe.output_dir.exists()


def test_the_time_is_that_of_the_complete_tasks_steps(recipe, complete):
    complete([cost(10.0, 4), cost(2.0, 4)], [cost(12.0, 8)])
    state = read_done(recipe)
    assert state.complete == ["A", "B"]
    assert list(state.trained) == [0, 1]
    assert state.step_seconds == 1.5
    left = state.left([8, 8, 6], 10**6)
    assert (left["steps"], left["seconds"]) == (6, 9)
    assert left["disk"] == 10**6 - state.bytes < 10**6 - 2000


def test_a_task_that_is_only_to_be_scored_needs_no_training(recipe, complete):
    folder = complete([cost(10.0, 4)])
    record_step(folder.task_folder(1, "B"), TRAINED)
    assert list(read_done(recipe).trained) == [0, 1]
    assert read_done(recipe).left([4, 4, 4], 0)["steps"] == 4


def test_no_time_is_told_where_none_is_recorded(recipe, complete):
    complete([])
    state = read_done(recipe)
    assert state.step_seconds is None
    left = state.left([4, 4, 4], 0)
    assert (left["steps"], left["seconds"]) == (8, None)
    assert "not known: no complete task of this run has measured a step" in "\n".join(format_left(state, left))
    assert state.left([4, None, 4], 0) == {"steps": None, "seconds": None, "disk": 0}
    finished = replace(state, trained=[0, 1, 2])
    assert "not known" not in "\n".join(format_left(finished, finished.left([4, 4, 4], 0)))


def test_too_little_disk_is_told(monkeypatch):
    monkeypatch.setattr(done, "disk_usage", lambda folder: SimpleNamespace(free=10**6))
    tight = Done("run")
    assert "THIS IS NOT ENOUGH" in format_left(tight, tight.left([1], 2 * 10**6))[-1]
    assert "NOT ENOUGH" not in format_left(tight, tight.left([1], 10**6))[-1]


def test_a_damaged_run_folder_is_told(recipe, complete):
    complete([cost(10.0, 4)])
    write_json(recipe.output_dir / "1_A" / "cost.json", {"seconds": "soon"})
    with pytest.raises(RunFolderError, match=r"cost\.json"):
        read_done(recipe)


class Listed(nullcontext):
    """The entries of a folder, as `os.scandir` gives them."""

    def __next__(self):
        return next(self.enter_result)


def test_what_a_run_at_work_removes_meanwhile_counts_nothing(recipe, complete, monkeypatch):
    folder = complete([cost(10.0, 4)])
    before = read_done(recipe).bytes
    checkpoint, temporary = recipe.output_dir / "2_B/checkpoint-1", recipe.output_dir / "2_B/.progress.json.tmp"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"x" * 500)
    temporary.write_bytes(b"x" * 50)
    (recipe.output_dir / "linked").symlink_to(folder.task_folder(0, "A") / "adapter.bin")
    assert read_done(recipe).bytes == before + 550
    list_folder = os.scandir

    def listed_before_it_goes(path):
        with list_folder(path) as entries:
            found = list(entries)
        if str(path) == str(checkpoint.parent):
            shutil.rmtree(checkpoint)
            temporary.unlink()
        return Listed(iter(found))

    monkeypatch.setattr("os.scandir", listed_before_it_goes)
    assert read_done(recipe).bytes == before
    assert not checkpoint.exists()


def test_the_plan_says_what_is_done_and_left(recipe_file, recipe, complete, capsys):
    complete([cost(10.0, 4)])
    assert main(["plan", str(recipe_file), "--gpus", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{recipe_file}: 3 tasks: A, B, C; reglora, carry merge\n")
    assert f"{recipe.output_dir}: 1 of 3 tasks are complete (A)" in said
    assert "training              8 steps" in said
    assert "time                  20 s of training, at 2.5 s a step, as measured on the complete tasks" in said
    assert main(["plan", str(recipe_file), "--gpus", "1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["done"]["complete"] == ["A"]
    assert (plan["left"]["steps"], plan["left"]["seconds"]) == (8, 20)
    assert plan["left"]["disk"] == plan["disk"]["total"] - plan["done"]["bytes"]


def test_a_run_of_other_tasks_is_noticed(recipe_file, complete, capsys):
    complete([cost(10.0, 4)], names="XYZ")
    main(["plan", str(recipe_file), "--gpus", "1"])
    said = capsys.readouterr().out
    assert "holds a run of other tasks, X: choose another `output_dir`" in said
    assert "training              12 steps" in said  # none of them is done there


@pytest.mark.parametrize(("change", "told"), [("", "mine.yaml: 3 tasks: A, B, C"), ("lora_rnak=8", "`lora_rank`?")])
def test_the_first_lines_and_all_errors_of_the_recipe_need_no_host(recipe_file, change, told):
    """PyTorch and the host take seconds to load."""
    code = (
        "import sys\nfor name in ('torch', 'llamafactory.hparams'): sys.modules[name] = None\n"
        "from sefe_plugin.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "plan", str(recipe_file), *([change] if change else [])]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert told in (ended.stderr if change else ended.stdout)
    assert ("cannot be planned" in ended.stderr) == (not change)
