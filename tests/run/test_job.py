"""The steps of one task: what failed is done again, what is whole is not; with a host of a few lines."""

from pathlib import Path

import pytest
import script_host
import yaml

from sefe_plugin import methods
from sefe_plugin.methods.base import Method, Phase
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run import job
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.job import Job, TaskFailedError
from sefe_plugin.run.process import spawn
from sefe_plugin.run.steps import CARRIED, SCORED, TRAINED, steps_of
from sefe_plugin.run.view import View


TASKS = (Task("A", "a_train", "a_test", "short_answer", {}),)

#: Notes the call, leaves what a step leaves, and stops half way if the file "fail" names the step.
HOST = """
import pathlib, sys
import numpy as np
from safetensors.numpy import save_file
from whole_checkpoint import write_checkpoint
step, folder = sys.argv[1], pathlib.Path(sys.argv[2])
run = next(parent for parent in folder.parents if (parent / "calls").is_file())
with (run / "calls").open("a") as calls:
    calls.write(f"{step} {folder.name}\\n")

def leave(name, content=""):
    (folder / name).parent.mkdir(exist_ok=True)
    if name.endswith(".safetensors"):
        save_file({"x": np.ones(2)}, folder / name)
        return
    with (folder / name).open("a") as file:
        file.write(content)

half, whole = {
    "train": ([], ["adapter_config.json", "adapter_model.safetensors"]),
    "score": (["predictions/A.jsonl"], ["scores.json"]),
    "merge": (["half"], ["config.json"]),
}[step]
if step == "train" and not (folder / "checkpoint-1").is_dir():
    write_checkpoint(folder / "checkpoint-1")
for name in half:
    leave(name, "answered\\n" if step == "score" else "")
if f"{step} {folder.name}" == (run / "fail").read_text():
    sys.exit(3)
for name in whole:
    leave(name)
"""


class FakeHost:
    """Every step is the script of `HOST`."""

    start = staticmethod(spawn)

    def __init__(self, script):
        self.script = script

    def train(self, file, keys):
        file.write_text(yaml.safe_dump(dict(keys)))
        return [script_host.PYTHON, str(self.script), "train", keys["output_dir"]]

    def score(self, file, keys):
        return [script_host.PYTHON, str(self.script), "score", keys["output_dir"]]

    def merge(self, file, keys, adapter, folder):
        folder.mkdir()
        return [script_host.PYTHON, str(self.script), "merge", str(folder)]


class TwoPhases(Method):
    """A method that trains twice."""

    @classmethod
    def phases(cls, arguments):
        return [Phase("first", {"learning_rate": 1.0}), Phase()]


@pytest.fixture
def two_phases(monkeypatch):
    """Its name in recipes."""
    monkeypatch.setitem(methods._OWN, "two_phases", f"{__name__}:TwoPhases")
    methods._found.cache_clear()
    yield "two_phases"
    methods._found.cache_clear()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run task A with a quantized base, where a given call fails; returns the calls."""
    (tmp_path / "host.py").write_text(HOST)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()

    def start(fail="", told=True, **changes):
        (folder.path / "calls").write_text("")
        (folder.path / "fail").write_text(fail)
        keys = {"cl_method": "lora", "carry": "merge", "model_name_or_path": "base", "quantization_bit": 4, **changes}
        task = Job(FakeHost(tmp_path / "host.py"), folder, keys, TASKS, 0, View(print))
        if fail and told:
            with pytest.raises(TaskFailedError, match="Task A failed with exit status 3"):
                task.run()
        else:
            task.run()
        return (folder.path / "calls").read_text().splitlines()

    return start


@pytest.fixture
def task(tmp_path) -> Path:
    return tmp_path / "run" / "1_A"


TRAIN, SCORE, MERGE = "train 1_A", "score 1_A", "merge .merged.tmp"


def test_every_step_is_done_once_and_recorded(run, task):
    assert run() == [TRAIN, SCORE, MERGE]
    assert steps_of(task) == [TRAINED, SCORED, CARRIED]
    assert (task / "merged/config.json").is_file()
    assert run() == []


def test_a_training_that_fails_goes_on_from_its_checkpoint(run, task):
    assert run(TRAIN) == [TRAIN]
    assert steps_of(task) == []
    (task / "half.txt").touch()
    assert run() == [TRAIN, SCORE, MERGE]
    assert (task / "checkpoint-1/trainer_state.json").is_file()
    assert not (task / "half.txt").exists()


def test_a_scoring_that_fails_leaves_the_training_and_its_answers(run, task):
    assert run(SCORE) == [TRAIN, SCORE]
    assert steps_of(task) == [TRAINED]
    adapter = (task / "adapter_model.safetensors").stat().st_mtime_ns
    assert run() == [SCORE, MERGE]
    assert (task / "adapter_model.safetensors").stat().st_mtime_ns == adapter
    assert (task / "predictions/A.jsonl").read_text() == "answered\n" * 2  # those given before are still there
    assert steps_of(task) == [TRAINED, SCORED, CARRIED]


def test_a_merge_that_fails_is_done_again_alone(run, task):
    assert run(MERGE) == [TRAIN, SCORE, MERGE]
    assert steps_of(task) == [TRAINED, SCORED]
    assert not (task / "merged").exists()
    (task / ".merged.tmp").mkdir()  # as a kill leaves it
    (task / ".merged.tmp" / "half of before").touch()
    assert run() == [MERGE]
    assert sorted(file.name for file in (task / "merged").iterdir()) == ["config.json", "half"]


def test_a_disk_that_is_nearly_full_is_named(run, monkeypatch):
    monkeypatch.setattr(job.shutil, "disk_usage", lambda path: job.shutil._ntuple_diskusage(10, 7, 3 << 20))
    with pytest.raises(TaskFailedError, match=r"log\.txt\. Only 3 MB are left on its disk\. The complete tasks"):
        run(TRAIN, told=False)


def test_another_engine_answers_with_what_is_carried_on(run, task):
    assert run(SCORE, scoring_backend="vllm") == [TRAIN, MERGE, SCORE]
    assert steps_of(task) == [TRAINED, CARRIED]
    assert run(scoring_backend="vllm") == [SCORE]


def test_every_phase_is_trained_once_in_its_own_folder(run, task, two_phases):
    assert run(cl_method=two_phases, replay_ratio=0.1) == ["train first", TRAIN, SCORE, MERGE]
    first, last = (yaml.safe_load((folder / "task.yaml").read_text()) for folder in (task / "first", task))
    assert (first["output_dir"], last["output_dir"]) == (str(task / "first"), str(task))
    assert (first["learning_rate"], first["test_sets"], first["merge_adapter"]) == (1.0, None, False)
    assert "learning_rate" not in last
    assert (first["replay_to"], last["replay_to"]) == (None, str(task / "kept_samples"))
    assert [test_set["name"] for test_set in last["test_sets"]] == ["A"]
    assert steps_of(task / "first") == [TRAINED]
    assert (task / "first/adapter_model.safetensors").is_file()
    assert run(cl_method=two_phases) == []


def test_a_second_phase_that_fails_does_not_repeat_the_first(run, task, two_phases):
    assert run(TRAIN, cl_method=two_phases) == ["train first", TRAIN]
    assert run(cl_method=two_phases) == [TRAIN, SCORE, MERGE]
    assert (task / "first/adapter_model.safetensors").is_file()


def test_a_first_phase_that_fails_goes_on_from_its_checkpoint(run, task, two_phases):
    assert run("train first", cl_method=two_phases) == ["train first"]
    (task / "first/checkpoint-1/kept").touch()
    (task / "first/half.txt").touch()
    assert run(cl_method=two_phases) == ["train first", TRAIN, SCORE, MERGE]
    assert (task / "first/checkpoint-1/kept").is_file()
    assert not (task / "first/half.txt").exists()
