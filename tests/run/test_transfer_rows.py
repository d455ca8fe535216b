"""The row of the base, unseen tasks, retention sets and tasks trained alone, with a host of a few lines of Python."""

import doctest
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from same_report import without_times
from script_host import ScriptHost, write_three_tasks

from sefe_plugin.cli import main
from sefe_plugin.files import read_json, write_json
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run import stages
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.inputs import TEST, read_inputs
from sefe_plugin.run.job import TaskFailedError, base_arguments, task_arguments
from sefe_plugin.run.rescoring import rescore_run
from sefe_plugin.run.runner import run_sequence
from sefe_plugin.run.stages import BASE, scored_after
from sefe_plugin.run.steps import SCORED, steps_of
from sefe_plugin.run.verify import input_changes, verify_run
from sefe_plugin.run.whole import require_whole


TASKS = tuple(Task(name, f"{name}_train", f"{name}_test", "short_answer", {}) for name in "ABC")
RETENTION = [{"name": "general", "dataset": "general_test", "scorer": "short_answer"}]

#: Trains nothing; answers a test set rightly once its task was trained, and half of it before.
HOST = """
import json, pathlib, sys, yaml
import numpy as np
from safetensors.numpy import save_file
from sefe_plugin.data.test_sets import read_test_set
from sefe_plugin.evaluation.results import predictions_file, write_predictions, write_scores
from sefe_plugin.evaluation.scorers import SCORERS
from sefe_plugin.run.steps import SCORED, record_step
keys = yaml.safe_load(open(sys.argv[1]))
folder = pathlib.Path(keys["output_dir"])
with open(folder.parent / "calls", "a") as calls:
    calls.write(folder.name + "\\n")
stop = folder.parent / "stop"
stop = stop.read_text() if stop.is_file() else ""
if stop == folder.name:
    sys.exit(3)
if keys["do_train"]:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    key = "base_model.model.q_proj.lora_{}.weight"
    save_file({key.format(m): np.ones((2, 2), np.float32) for m in "AB"}, folder / "adapter_model.safetensors")
    if keys["merge_adapter"]:
        (folder / "merged").mkdir()
        (folder / "merged/config.json").write_text("{}")
        save_file({"x": np.ones(2)}, folder / "merged/model.safetensors")
learned = int(folder.name[0])
for test_set in keys["test_sets"]:
    name = test_set["name"]
    if predictions_file(folder, name).is_file():
        continue
    records = read_test_set(test_set["dataset"], keys["dataset_dir"], SCORERS[test_set["scorer"]])
    known = "ABC".find(name) < learned if name in "ABC" else learned == 0
    replies = [record["answer"] if known or i % 2 == 0 else "wrong" for i, record in enumerate(records)]
    write_predictions(folder, name, records, replies)
    with open(folder.parent / "calls", "a") as calls:
        calls.write(f"{folder.name}:{name}\\n")
    if stop == f"{folder.name}:{name}":
        sys.exit(3)
write_scores(folder, keys["test_sets"], None)
record_step(folder, SCORED)
"""


class FakeHost(ScriptHost):
    """Writes the keys as YAML and runs the script of `HOST`."""

    score = score_base = ScriptHost.train


@pytest.fixture
def data(tmp_path):
    return write_three_tasks(tmp_path)


@pytest.fixture
def run(tmp_path, data):
    """Runs the sequence and returns what it said; `calls` are the folders of its processes and what they answered."""
    script = tmp_path / "host.py"
    script.write_text(HOST)
    keys = {"cl_method": "lora", "carry": "merge", "finetuning_type": "lora", "dataset_dir": str(data)}
    keys |= {"model_name_or_path": str(tmp_path / "base"), "score_unseen": True, "retention_sets": RETENTION}

    def start(tasks=TASKS, accept=False, stop=None, name="run", **changes):
        lines, folder = [], tmp_path / name
        arguments = {key: value for key, value in (keys | changes).items() if value is not None}
        recipe = Recipe("test.yaml", arguments, tasks, folder, None)
        if stop is not None:
            RunFolder(folder).path.mkdir(exist_ok=True)
            RunFolder(folder).open_run(recipe.to_dict(), host_keys())
            (folder / "stop").write_text(stop)
        elif (folder / "stop").is_file():
            (folder / "stop").unlink()
        require_whole(recipe)
        run_sequence(recipe, FakeHost(script), host_keys(), lines.append, accept)
        return lines

    start.recipe = keys
    start.calls = lambda: (tmp_path / "run/calls").read_text().split()
    return start


def failed(tmp_path) -> list[str]:
    found = verify_run(tmp_path / "run", lambda keys, folder: iter(()))
    return [f"{finding.where} {finding.what}" for finding in found if finding.state is False]


def test_the_base_is_scored_first_and_all_tasks_after_each(run, tmp_path):
    lines = run()
    assert [call for call in run.calls() if ":" not in call] == ["0_base", "1_A", "2_B", "3_C"]
    assert lines[0].startswith("[0/3] base scored in ")
    assert lines[0].endswith(" s | A 50.0  B 50.0  C 50.0  general 100.0")
    assert lines[1].endswith(" s | A 100.0 | mean 100.0 | general 50.0")
    report = read_json(tmp_path / "run/report.json")
    assert report["zero_shot"] == {
        "accuracy": [50.0] * 3,
        "format": [100.0] * 3,
        "stderr": [25.0] * 3,
        "lenient": [50.0] * 3,
    }
    assert report["retention"]["stderr_matrix"] == [[0.0], [25.0], [25.0], [25.0]]
    assert report["accuracy_matrix"] == [[100, 50, 50], [100, 100, 50], [100, 100, 100]]
    assert report["forward_transfer"] == {"unseen": [0.0, 0.0], "unseen_mean": 0.0}
    assert report["retention"]["accuracy_matrix"] == [[100.0], [50.0], [50.0], [50.0]]
    assert report["retention"]["losses"] == [{"drop": 50.0, "superficial": 0.0, "essential": 50.0}]
    keys = yaml.safe_load((tmp_path / "run/0_base/score.yaml").read_text())
    assert (keys["do_train"], keys["model_name_or_path"]) == (False, str(tmp_path / "base"))
    assert not {"cl_method", "carry", "score_unseen", "retention_sets", "merge_adapter"} & keys.keys()
    assert (
        not {"carry", "score_unseen", "retention_sets"}
        & yaml.safe_load((tmp_path / "run/1_A/task.yaml").read_text()).keys()
    )
    assert failed(tmp_path) == []
    before = (tmp_path / "run/report.json").read_bytes()
    assert run() == ["Continuing after 3 of 3 tasks: A, B, C."]
    assert (tmp_path / "run/report.json").read_bytes() == before


def test_retention_sets_alone_leave_the_tasks_as_they_are(run, tmp_path):
    lines = run(score_unseen=None)
    assert lines[0].endswith("| general 100.0")
    assert [call for call in run.calls() if call.startswith("1_A:")] == ["1_A:general", "1_A:A"]
    report = read_json(tmp_path / "run/report.json")
    assert report["accuracy_matrix"] == [[100, None, None], [100, 100, None], [100, 100, 100]]
    assert "zero_shot" not in report and "forward_transfer" not in report
    assert [row[0] for row in report["retention"]["accuracy_matrix"]] == [100, 50, 50, 50]
    assert failed(tmp_path) == []


def test_without_the_keys_there_is_no_base_row(run, tmp_path):
    run(score_unseen=None, retention_sets=None)
    assert not (tmp_path / "run/0_base").exists()
    report = read_json(tmp_path / "run/report.json")
    assert not {"zero_shot", "forward_transfer", "retention", "trained_alone"} & report.keys()


@pytest.mark.parametrize("stop", ["0_base", "0_base:B", "1_A", "2_B:general"])
def test_a_run_that_was_stopped_anywhere_ends_the_same(run, tmp_path, stop):
    run(name="undisturbed")
    with pytest.raises(TaskFailedError, match="scoring of the base" if stop[0] == "0" else "Task"):
        run(stop=stop)
    run()
    first, second = (without_times(tmp_path / name / "report.json") for name in ("run", "undisturbed"))
    assert first == second
    for name in ("0_base/scores.json", "0_base/predictions/B.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    answered = [call for call in run.calls() if call.startswith("0_base:")]
    assert len(answered) == len(set(answered)) == 4  # what was answered stays
    assert [call for call in run.calls() if call == "0_base"] == ["0_base"] * (1 + stop.startswith("0_base"))


def test_inputs_of_all_rows_are_recorded_and_a_change_is_refused(run, tmp_path, data):
    run(TASKS[:2])
    inputs = read_inputs(tmp_path / "run/0_base")
    assert {name for name, record in inputs.items() if record["for"] == TEST and "sha256" in record} == {
        "A_test",
        "B_test",
        "general_test",
    }
    assert inputs["base: config.json"]["for"] == "scoring"
    assert read_inputs(tmp_path / "run/1_A")["general_test"]["for"] == TEST
    write_json(data / "general_test.json", [{"text": "another", "answer": "red"}])
    with pytest.raises(RunFolderError) as caught:
        run()
    assert "the base before the first task: general_test (for test, " in str(caught.value)
    assert "task A: general_test (for test, " in str(caught.value)
    assert len(input_changes(tmp_path / "run")) == 1
    assert any("0_base input changed: general_test" in line for line in failed(tmp_path))
    lines = run(accept=True)
    assert sum(line.startswith("Accepted as changed: the base before") for line in lines) == 1
    assert run() == ["Continuing after 3 of 3 tasks: A, B, C."]
    assert failed(tmp_path) == []


def test_the_base_is_scored_anew_as_long_as_no_task_is_complete(run, tmp_path, data):
    with pytest.raises(TaskFailedError):
        run(stop="1_A")
    write_json(data / "B_test.json", [{"text": "another", "answer": "red"}])
    lines = run()
    assert lines[0].startswith("The base is scored anew: B_test (for test, ")
    assert len([call for call in run.calls() if call == "0_base"]) == 2
    assert read_json(tmp_path / "run/0_base/scores.json")["B"]["count"] == 1


def test_a_further_task_is_scored_on_the_base_and_unknown_to_earlier_rows(run, tmp_path):
    run(TASKS[:2])
    lines = run()
    assert lines[0] == "Continuing after 2 of 3 tasks: A, B."
    assert lines[1].startswith("[0/3] base scored in ")
    assert [call for call in run.calls() if call.startswith("0_base:")][-1] == "0_base:C"
    assert SCORED in steps_of(tmp_path / "run/0_base")
    assert "C_test" in read_inputs(tmp_path / "run/0_base")
    report = read_json(tmp_path / "run/report.json")
    assert report["accuracy_matrix"] == [[100, 50, None], [100, 100, None], [100, 100, 100]]
    assert report["zero_shot"]["accuracy"] == [50.0] * 3
    assert report["forward_transfer"] == {"unseen": [None, None], "unseen_mean": None}
    assert failed(tmp_path) == []
    assert rescore_run(tmp_path / "run", {}) == report
    assert run() == ["Continuing after 3 of 3 tasks: A, B, C."]


def test_other_scorers_reach_every_row(run, tmp_path, capsys):
    run()
    calls = run.calls()
    other = [{**RETENTION[0], "scorer": "class_name"}]
    tasks = (replace(TASKS[0], scorer="class_name"), *TASKS[1:])
    lines = run(tasks, retention_sets=other)
    assert lines[0] == "Scored the answers of 3 complete tasks and of the base again, from their predictions."
    assert run.calls() == calls
    assert failed(tmp_path) == []
    assert main(["score", str(tmp_path / "run"), "--scorer", "general=short_answer"]) == 0
    assert "## Retention" in capsys.readouterr().out
    stored = read_json(tmp_path / "run/manifest.json")["recipe"]
    assert stored["retention_sets"] == RETENTION
    assert failed(tmp_path) == []
    assert main(["score", str(tmp_path / "run"), "--scorer", "generl=short_answer"]) == 1
    assert "'generl' is no task or retention set" in capsys.readouterr().err
    with pytest.raises(RunFolderError, match="another recipe"):
        run(tasks, retention_sets=None)


def test_scores_of_the_base_that_are_lost_or_damaged_are_told(run, tmp_path):
    run()
    scores = tmp_path / "run/0_base/scores.json"
    before = scores.read_bytes()
    scores.unlink()
    assert run()[0] == "Scored the answers of the base again, from their predictions."
    assert scores.read_bytes() == before
    scores.write_text("{")
    assert any(line.startswith("0_base scores") for line in failed(tmp_path))
    with pytest.raises(RunFolderError, match="0_base"):
        run()
    scores.write_bytes(before)
    (tmp_path / "run/0_base/predictions/general.jsonl").unlink()
    assert any("0_base scores" in line for line in failed(tmp_path))


def test_tasks_trained_alone_and_the_run_that_names_them(run, tmp_path):
    run(name="alone", carry="none", score_unseen=None, retention_sets=None)
    reference = read_json(tmp_path / "alone/report.json")
    assert reference["trained_alone"] is True
    starts = [yaml.safe_load(file.read_text()) for file in sorted((tmp_path / "alone").glob("*/task.yaml"))]
    assert {keys["model_name_or_path"] for keys in starts} == {str(tmp_path / "base")}
    assert not any(keys["merge_adapter"] or "adapter_name_or_path" in keys for keys in starts)
    run(single_task_run=str(tmp_path / "alone"))
    report = read_json(tmp_path / "run/report.json")
    assert report["forward_transfer"]["single_task"] == [100.0] * 3
    assert report["forward_transfer"]["learning"] == [0.0] * 3
    assert failed(tmp_path) == []
    run()
    assert "learning" not in read_json(tmp_path / "run/report.json")["forward_transfer"]


@pytest.mark.parametrize("method", ["lora", "reglora", "full", "lota"])
def test_a_task_alone_knows_of_no_earlier_one(run, tmp_path, method):
    keys = run.recipe | {"cl_method": method, "carry": "none"}
    third = task_arguments(keys, TASKS, 2, RunFolder(tmp_path))
    assert third["model_name_or_path"] == str(tmp_path / "base")
    assert not any(str(tmp_path / "2_B") in str(value) for value in third.values())
    base = base_arguments(keys | {"reglora_weight": 3.0, "asd_ratio": 0.2}, TASKS, RunFolder(tmp_path))
    assert not [key for key in base if key.startswith(("reglora", "lota", "asd", "cl_"))]


def test_the_last_test_set_of_a_task_is_its_own(run):
    assert doctest.testmod(stages).failed == 0
    recipe = Recipe("x", run.recipe, TASKS, Path("run"), None).to_dict()
    names = [[one["name"] for one in scored_after(recipe, index)] for index in (BASE, 0, 1)]
    assert names == [["A", "B", "C", "general"], ["B", "C", "general", "A"], ["A", "C", "general", "B"]]


def test_before_any_task_is_complete_a_retention_set_may_be_another(run, data, tmp_path):
    """Its old answers are not scored by the new scorer: they are of other questions."""
    with pytest.raises(TaskFailedError):
        run(stop="1_A", score_unseen=None)
    write_json(
        data / "other.json",
        [{"text": "other", "answer": "[0.1, 0.2, 0.3, 0.4]", "answer_bbox": "[0.1, 0.2, 0.3, 0.4]"}],
    )
    info = read_json(data / "dataset_info.json")
    write_json(data / "dataset_info.json", {**info, "other_test": {"file_name": "other.json"}})
    other = [{"name": "general", "dataset": "other_test", "scorer": "box"}]
    run(score_unseen=None, retention_sets=other)
    assert read_json(tmp_path / "run" / "0_base" / "scores.json")["general"]["count"] == 1


def test_the_base_is_scored_by_the_keys_of_the_whole_sequence(run, tmp_path):
    tasks = (replace(TASKS[0], overrides={"cutoff_len": 100}), *TASKS[1:])
    run(tasks=tasks)
    base, first = (
        yaml.safe_load((tmp_path / "run" / file).read_text()) for file in ("0_base/score.yaml", "1_A/task.yaml")
    )
    assert first["cutoff_len"] == 100 and "cutoff_len" not in base


@pytest.mark.parametrize("changes", [{"score_unseen": False}, {"asd_ratio": None}])
def test_a_default_that_is_written_out_is_the_same_recipe(run, changes):
    plain = {"score_unseen": None, "retention_sets": None}
    run(tasks=TASKS[:2], **plain)
    run(**{**plain, **changes})


def test_verify_takes_an_unfinished_base_of_a_longer_sequence_for_what_it_is(run, tmp_path):
    run(tasks=TASKS[:2])
    with pytest.raises(TaskFailedError):
        run(stop="0_base")
    (finding,) = [one for one in verify_run(tmp_path / "run", lambda keys, place: iter(())) if one.where == "0_base"]
    assert finding.state is None


def test_verify_sees_a_part_of_the_report_that_should_be_gone(run, tmp_path):
    run(score_unseen=None, retention_sets=None)
    file = tmp_path / "run" / "report.json"
    write_json(file, {**read_json(file), "retention": {"sets": []}})
    findings = {one.where: one for one in verify_run(tmp_path / "run", lambda keys, place: iter(()))}
    assert findings["report.json"].state is False and "retention" in findings["report.json"].what
