"""A run folder notices other recipes, other runs and unfinished work."""

import shutil
import subprocess
import sys

import pytest
from whole_checkpoint import write_checkpoint

from sefe_plugin.files import write_json
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.scores import Scores
from sefe_plugin.run.steps import TRAINED, record_step


RECIPE = {"learning_rate": 1e-4, "benchmark": None, "tasks": [{"name": "A"}, {"name": "B"}]}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    return folder


def open_run(folder, recipe):
    return folder.open_run(recipe, host_keys())


def test_a_run_is_continued_by_the_same_recipe_only(folder):
    assert open_run(folder, RECIPE) == []
    done = [{"name": "A", "folder": "1_A", "seconds": 1.0}]
    folder.complete_task(RECIPE, done)
    assert open_run(folder, RECIPE) == done
    with pytest.raises(RunFolderError, match="another recipe") as caught:
        open_run(folder, RECIPE | {"learning_rate": 2e-4})
    assert "-learning_rate: 0.0001" in str(caught.value)
    assert "+learning_rate: 0.0002" in str(caught.value)
    assert "tasks" not in str(caught.value).split("\n", 1)[1]


def test_a_run_takes_further_tasks_and_keeps_the_complete_ones(folder):
    done = [{"name": name, "folder": f"{i}_{name}", "seconds": 1.0} for i, name in ((1, "A"), (2, "B"))]
    open_run(folder, RECIPE)
    folder.complete_task(RECIPE, done)
    longer = RECIPE | {"tasks": [*RECIPE["tasks"], {"name": "C"}]}
    assert open_run(folder, longer) == done
    assert folder.read_manifest()["recipe"] == longer
    for tasks in ([{"name": "A"}], [{"name": "B"}, {"name": "A"}], [{"name": "A"}, {"name": "B", "seed": 1}]):
        with pytest.raises(RunFolderError, match="Only tasks that are not complete may change"):
            open_run(folder, RECIPE | {"tasks": tasks})
    with pytest.raises(RunFolderError, match="learning_rate"):
        open_run(folder, longer | {"learning_rate": 2e-4})
    assert folder.read_manifest() == {"version": 2, "recipe": longer, "complete": done}


def test_an_unfinished_task_that_differs_starts_anew(folder):
    recipe = RECIPE | {"tasks": [{"name": "A"}, {"name": "B"}, {"name": "C"}]}
    open_run(folder, recipe)
    folder.complete_task(recipe, [{"name": "A", "folder": "1_A", "seconds": 1.0}])
    for index, name in enumerate("ABC"):
        write_checkpoint(folder.task_folder(index, name) / "checkpoint-3")
    open_run(folder, RECIPE | {"tasks": [{"name": "A"}, {"name": "B", "learning_rate": 1e-5}, {"name": "C"}]})
    assert sorted(entry.name for entry in folder.path.iterdir()) == ["1_A", "3_C", "manifest.json"]


def test_keys_that_change_no_result_may_differ(folder):
    recipe = RECIPE | {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "logging_steps": 1}
    done = [{"name": "A", "folder": "1_A", "seconds": 1.0}]
    open_run(folder, recipe)
    folder.complete_task(recipe, done)
    for changes in (
        {"logging_steps": 5, "per_device_eval_batch_size": 1},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8},
        {"per_device_train_batch_size": 16, "gradient_accumulation_steps": None},
    ):
        assert open_run(folder, recipe | changes) == done
        assert folder.read_manifest() == {"version": 2, "recipe": recipe | changes, "complete": done}
    with pytest.raises(RunFolderError, match="another recipe") as caught:
        open_run(folder, recipe | {"per_device_train_batch_size": 4})
    assert "+per_device_train_batch_size x gradient_accumulation_steps: 8" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 2e-4},
        {"cl_method": "full"},
        {"benchmark": "minicoin"},
        {"tasks": [{"name": "X"}]},
        {"model_name_or_path": "another"},
    ],
)
def test_everything_may_change_as_long_as_no_task_is_complete(folder, changes):
    open_run(folder, RECIPE)
    write_checkpoint(folder.task_folder(0, "A") / "checkpoint-3")
    folder.data.mkdir()
    said = []
    assert folder.open_run(RECIPE | changes, host_keys(), said.append) == []
    assert folder.read_manifest()["recipe"] == RECIPE | changes
    assert not folder.task_folder(0, "A").exists()
    assert said == ["A starts anew: its recipe is another than before."]


def test_a_checkpoint_stays_where_the_recipe_of_its_task_is_the_same(folder):
    open_run(folder, RECIPE)
    checkpoint = write_checkpoint(folder.task_folder(0, "A") / "checkpoint-3")
    open_run(folder, RECIPE | {"logging_steps": 7, "tasks": [RECIPE["tasks"][0], {"name": "X"}]})
    assert checkpoint.is_dir()


def test_what_was_half_removed_is_not_taken_for_whole(folder, monkeypatch):
    open_run(folder, RECIPE)
    write_checkpoint(folder.task_folder(0, "A") / "checkpoint-3")

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", killed)
        open_run(folder, RECIPE | {"learning_rate": 2e-4})
    assert not folder.task_folder(0, "A").exists()
    open_run(folder, RECIPE)
    assert sorted(path.name for path in folder.path.iterdir()) == ["manifest.json"]


def test_a_damaged_manifest_is_told(folder):
    folder.manifest_file.write_text('{"version": 2,')
    with pytest.raises(RunFolderError, match=r"manifest\.json is damaged"):
        open_run(folder, RECIPE)


def test_the_report_of_a_shorter_sequence_goes(folder):
    open_run(folder, RECIPE)
    write_json(folder.path / "report.json", {})
    open_run(folder, RECIPE)
    assert (folder.path / "report.json").is_file()
    open_run(folder, RECIPE | {"tasks": [*RECIPE["tasks"], {"name": "C"}]})
    assert not (folder.path / "report.json").exists()


def test_foreign_files_are_left_alone(folder):
    (folder.path / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match=r"thesis\.tex"):
        open_run(folder, RECIPE)


def test_what_the_hosts_web_page_has_written_is_not_foreign(folder):
    """LlamaBoard writes two files into the output folder, then starts `llamafactory-cli train`."""
    from llamafactory.extras.constants import LLAMABOARD_CONFIG, TRAINING_ARGS

    for name in (LLAMABOARD_CONFIG, TRAINING_ARGS):
        (folder.path / name).touch()
    assert open_run(folder, RECIPE) == []


@pytest.mark.parametrize("version", [1, 99])
def test_another_version_is_refused(folder, version):
    write_json(folder.manifest_file, {"version": version})
    with pytest.raises(RunFolderError, match=f"version {version}, this plugin reads 2"):
        folder.read_manifest()


TRY_LOCK = """
import sys
from pathlib import Path
from sefe_plugin.run import folder
from sefe_plugin.run.folder import RunFolder, RunFolderError
folder._PATIENCE = float(sys.argv[2])
try:
    with RunFolder(Path(sys.argv[1])).lock():
        print("locked")
except RunFolderError as error:
    print(error)
"""


def test_two_processes_cannot_share_a_folder(folder):
    command = [sys.executable, "-c", TRY_LOCK, str(folder.path), "0.5"]
    with folder.lock():
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "in use by another run" in said
        left_behind = subprocess.Popen(["sleep", "1"], pass_fds=folder.held)
    with folder.lock():  # waits for what a killed run has left behind
        assert left_behind.poll() == 0
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "locked\n"


def test_unfinished_work_is_cleared_but_whole_checkpoints_stay(folder):
    task = folder.task_folder(0, "A")
    for step in (10, 20):
        write_checkpoint(task / f"checkpoint-{step}")
    (task / "checkpoint-20" / "optimizer.pt").unlink()
    for name in ("adapter_model.safetensors", "inputs.json", "log.txt"):
        (task / name).touch()
    (task / "runs").mkdir()
    folder.clear_unfinished(task)
    kept = sorted(entry.name for entry in task.iterdir())
    assert kept == ["checkpoint-10", "inputs.json", "log.txt", "runs"]  # with what TensorBoard was told
    shutil.rmtree(task / "checkpoint-10")
    folder.clear_unfinished(task)
    assert sorted(entry.name for entry in task.iterdir()) == ["inputs.json", "log.txt"]


def test_a_phase_that_is_trained_or_has_whole_checkpoints_is_not_cleared(folder):
    task = folder.task_folder(0, "A")
    for name in ("first", "second", "third"):
        (task / name / "checkpoint-5").mkdir(parents=True)
        (task / name / "adapter_model.safetensors").touch()
    record_step(task / "first", TRAINED)
    write_checkpoint(task / "second/checkpoint-10")
    folder.clear_unfinished(task)
    assert sorted(entry.name for entry in task.iterdir()) == ["first", "second"]
    assert (task / "first" / "adapter_model.safetensors").is_file()


TESTED = RECIPE | {"tasks": [{"name": name, "test_dataset": name, "scorer": "box"} for name in "AB"]}


def test_matrices_hold_only_complete_tasks(folder):
    for index, name in enumerate("AB"):
        scores = {other: {"accuracy": 10.0 * index, "format": 90.0, "count": 4} for other in "AB"[: index + 1]}
        folder.task_folder(index, name).mkdir()
        write_json(folder.task_folder(index, name) / "scores.json", scores)
    folder.complete_task(TESTED, [{"name": "A"}])
    assert Scores(folder, ["A", "B"]).matrices() == ([[0.0, None], [None, None]], [[90.0, None], [None, None]], None)


def test_what_a_reader_would_accept_is_read_where_it_is_known(folder):
    folder.task_folder(0, "A").mkdir()
    folder.complete_task(TESTED, [{"name": "A"}])
    for scores, lenient in (
        ({"accuracy": 10.0, "format": 90.0, "lenient": 20.0}, [[20.0, None], [None, None]]),
        ({"accuracy": 140.0, "format": None, "lenient": None, "parts": {"CIDEr": 300.0}}, None),
        ({"accuracy": 10.0, "format": 90.0}, None),
    ):
        write_json(folder.task_folder(0, "A") / "scores.json", {"A": scores})
        assert Scores(folder, ["A", "B"]).lenient() == lenient
        assert Scores(folder, ["A", "B"]).matrices()[0][0] == [scores["accuracy"], None]
    for broken in ({"accuracy": 251.0, "format": None}, {"accuracy": 1.0, "format": 101.0}, {"accuracy": 1.0}):
        write_json(folder.task_folder(0, "A") / "scores.json", {"A": broken})
        with pytest.raises(RunFolderError):
            Scores(folder, ["A", "B"]).matrices()


def test_matrices_hold_the_official_accuracy_where_there_is_one(folder):
    scores = {"A": {"accuracy": 10.0, "format": 90.0, "count": 4, "official": 20.0}}
    folder.task_folder(0, "A").mkdir()
    write_json(folder.task_folder(0, "A") / "scores.json", scores)
    folder.complete_task(TESTED, [{"name": "A"}])
    assert Scores(folder, ["A", "B"]).matrices()[2] == [[20.0, None], [None, None]]
