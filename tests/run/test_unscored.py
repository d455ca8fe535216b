"""Tasks that are answered but not scored, tasks that are only trained, and test sets of which a part is answered."""

import pytest
import yaml
from script_host import ScriptHost, write_three_tasks

from sefe_plugin.cli import main
from sefe_plugin.evaluation.report import load_report
from sefe_plugin.files import read_json, write_json
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.json_lines import read_json_lines
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.place import place_of
from sefe_plugin.run.rescoring import rescore_run
from sefe_plugin.run.runner import run_sequence
from sefe_plugin.run.status import format_status, run_status
from sefe_plugin.run.steps import CARRIED, SCORED, TRAINED, steps_of
from sefe_plugin.run.verify import verify_run
from sefe_plugin.run.whole import require_whole


#: Trains nothing. A task's own answers are right, those of earlier tasks to every second question, if they are scored.
HOST = """
import json, pathlib, sys, yaml
import numpy as np
from safetensors.numpy import save_file
from sefe_plugin.data.test_sets import read_test_set
from sefe_plugin.evaluation.results import predictions_file, write_predictions, write_scores
from sefe_plugin.evaluation.scorers import SCORERS
from sefe_plugin.run.steps import SCORED, TRAINED, record_step
keys = yaml.safe_load(open(sys.argv[1]))
folder = pathlib.Path(keys["output_dir"])
with open(folder.parent / "calls", "a") as calls:
    calls.write(pathlib.Path(sys.argv[1]).name + "\\n")
if keys["do_train"]:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    key = "base_model.model.q_proj.lora_{}.weight"
    save_file({key.format(m): np.ones((2, 2), np.float32) for m in "AB"}, folder / "adapter_model.safetensors")
    (folder / "merged").mkdir()
    (folder / "merged/config.json").write_text("{}")
    save_file({"x": np.ones(2)}, folder / "merged/model.safetensors")
for one in keys["test_sets"]:
    if predictions_file(folder, one["name"]).is_file():
        continue
    records = read_test_set(one["dataset"], keys["dataset_dir"], SCORERS[one["scorer"]], one.get("max_samples"))
    replies = ["red" if one.get("own") or i % 2 == 0 else "wrong" for i, record in enumerate(records)]
    write_predictions(folder, one["name"], records, replies)
if keys["test_sets"]:
    write_scores(folder, keys["test_sets"], None)
    record_step(folder, SCORED)
"""


class FakeHost(ScriptHost):
    """Writes the keys as YAML and runs the script of `HOST`."""

    def score(self, file, keys):
        return self.train(file, {**keys, "do_train": False})

    score_base = score


def task(name, scorer="short_answer", **overrides):
    return Task(name, f"{name}_train", None if scorer is None else f"{name}_test", scorer, overrides)


@pytest.fixture
def data(tmp_path):
    return write_three_tasks(tmp_path)


@pytest.fixture
def run(tmp_path, data):
    """Runs a sequence of these tasks and returns what it said."""
    script = tmp_path / "host.py"
    script.write_text(HOST)
    keys = {"cl_method": "lora", "carry": "merge", "finetuning_type": "lora", "dataset_dir": str(data)}
    keys["model_name_or_path"] = str(tmp_path / "base")

    def start(*tasks, accept=False, **changes):
        lines = []
        recipe = Recipe("test.yaml", keys | changes, tasks, tmp_path / "run", None)
        require_whole(recipe)
        run_sequence(recipe, FakeHost(script), host_keys(), lines.append, accept)
        return lines

    return start


def failed(tmp_path) -> list[str]:
    found = verify_run(tmp_path / "run", lambda keys, folder: iter(()))
    return [f"{finding.where} {finding.what}" for finding in found if finding.state is False]


def test_metrics_are_of_the_tasks_with_scores_alone(run, tmp_path, capsys):
    lines = run(task("A"), task("B", "none"), task("C", None))
    assert [line.split(" s | ")[1] for line in lines] == [
        "A 100.0 | mean 100.0",
        "A 50.0  B - | mean 50.0",
        "A 50.0  B -  C - | mean 50.0",
    ]
    folder = tmp_path / "run"
    report = load_report(folder)
    assert report["accuracy_matrix"] == [[100, None, None], [50, None, None], [50, None, None]]
    assert [report[key] for key in ("mft", "mfn", "bwt", "forgetting")] == [100, 50, -50, 50]
    assert report["maa"] == pytest.approx(200 / 3, abs=1e-12)
    assert (report["num_scored_tasks"], report["unscored"]) == (3, ["B", "C"])
    text = (folder / "report.md").read_text()
    assert "Nobody scores B, C: without a test set, or with `scorer: none`. Metrics and means are over the" in text
    assert "Unfinished" not in text
    # B is answered after itself and after C, and C never
    answered = [len(read_json_lines(folder / place / "predictions/B.jsonl")) for place in ("2_B", "3_C")]
    assert answered == [4, 4] and not list(folder.glob("*/predictions/C.jsonl"))
    assert (folder / "calls").read_text().split() == ["task.yaml"] * 3
    assert failed(tmp_path) == []
    status = run_status(folder)
    assert status["mean"] == 50
    assert format_status(status).splitlines()[1] == "after C: A 50.0  B - | mean 50.0"
    place, scores = place_of(folder / "3_C"), read_json(folder / "3_C/scores.json")
    assert place.mean_accuracy(scores) == 50
    main(["report", str(folder)])
    assert "| C     |  50.00 |   - |   - |\n" in capsys.readouterr().out


def test_a_sequence_that_nobody_scores_has_a_report_without_metrics(run, tmp_path):
    lines = run(task("A", None), task("B", "none"))
    assert [line.split(" s | ")[1] for line in lines] == ["A -", "A -  B -"]
    folder = tmp_path / "run"
    assert read_json(folder / "1_A/scores.json") == {}
    assert steps_of(folder / "1_A") == [TRAINED, SCORED, CARRIED]
    scores = read_json(folder / "2_B/scores.json")["B"]
    assert (scores["accuracy"], scores["format"], scores["count"]) == (None, None, 4)
    report = load_report(folder)
    assert [report[key] for key in ("mft", "mfn", "maa", "bwt", "forgetting")] == [None] * 5
    assert report["num_scored_tasks"] == 2
    text = (folder / "report.md").read_text()
    assert "So there are no metrics." in text
    assert "## Metrics" not in text and "Unfinished" not in text
    assert failed(tmp_path) == []
    # a further task continues it, and an unfinished sequence says that it is one
    assert run(task("A", None), task("B", "none"), task("C"))[0].startswith("Continuing after 2 of 3 tasks: A, B.")
    assert load_report(folder)["mft"] == 100


def test_an_unfinished_sequence_that_nobody_scores_is_told_from_a_finished_one(run, tmp_path, capsys):
    run(task("A", None))
    folder = RunFolder(tmp_path / "run")
    manifest = folder.read_manifest()
    more = {"name": "B", "dataset": "B_train", "test_dataset": None, "scorer": None}
    folder.complete_task({**manifest["recipe"], "tasks": [*manifest["recipe"]["tasks"], more]}, manifest["complete"])
    (folder.path / "report.json").unlink()
    main(["report", str(folder.path)])
    assert "Unfinished: 1 of 2 tasks are scored" in capsys.readouterr().out


def test_answers_get_a_scorer_later_if_their_records_have_gold_answers(run, data, tmp_path):
    write_json(data / "B_test.json", [{"text": "What?"}, {"text": "What?", "answer": "red"}])
    run(task("A", "none"), task("B", "none"), task("C", None))
    folder = tmp_path / "run"
    with pytest.raises(RunFolderError, match=r"'C' of .* has no `test_dataset`, so there are no answers to score"):
        rescore_run(folder, {"C": "short_answer"})
    with pytest.raises(RunFolderError, match=r"B.jsonl cannot be scored by 'short_answer': record 1: "):
        rescore_run(folder, {"B": "short_answer"})
    assert load_report(folder)["unscored"] == ["A", "B", "C"]
    report = rescore_run(folder, {"A": "short_answer"})
    assert report == load_report(folder)
    assert report["accuracy_matrix"] == [[100, None, None], [50, None, None], [50, None, None]]
    assert report["unscored"] == ["B", "C"]
    assert (report["mft"], report["mfn"]) == (100, 50)
    assert rescore_run(folder, {"A": "none"})["unscored"] == ["A", "B", "C"]


def test_the_recipe_of_a_continued_run_may_give_a_task_a_scorer(run, tmp_path):
    run(task("A", "none"))
    said = run(task("A"), task("B"))
    assert "Scored the answers of 1 complete tasks again, from their predictions." in said
    assert load_report(tmp_path / "run")["accuracy_matrix"] == [[100, None], [50, 100]]


def test_retention_sets_and_unseen_tasks_may_be_without_scores(run, tmp_path):
    retention = [{"name": name, "dataset": "general_test", "scorer": s} for name, s in (("g", "none"), ("h", "box"))]
    retention[1] |= {"scorer": "short_answer"}
    lines = run(task("A", "none"), task("B"), score_unseen=True, retention_sets=retention)
    assert lines[0].endswith(" s | A -  B 50.0  g -  h 50.0")
    assert lines[1].endswith(" s | A - | g -  h 50.0")
    report = load_report(tmp_path / "run")
    assert report["zero_shot"]["accuracy"] == [None, 50]
    assert report["forward_transfer"]["unseen"] == [0.0] and report["forward_transfer"]["unseen_mean"] == 0.0
    assert report["retention"]["accuracy_matrix"] == [[None, 50]] * 3
    assert report["unscored"] == ["A", "g"]
    text = (tmp_path / "run/report.md").read_text()
    assert "Nobody scores A, g" in text
    assert "| before |   - | 50.00 |" in text
    assert failed(tmp_path) == []


def test_a_reference_must_have_scores_of_the_tasks_that_are_scored(run, tmp_path):
    run(task("A", "none"), task("B"), carry="none")
    (tmp_path / "run").rename(tmp_path / "alone")
    run(task("A", None), task("B"), single_task_run=str(tmp_path / "alone"))
    transfer = load_report(tmp_path / "run")["forward_transfer"]
    assert transfer["learning"] == [None, 0.0]
    assert (transfer["learning_mean"], transfer["single_task"]) == (0.0, [None, 100.0])
    (tmp_path / "run").rename(tmp_path / "before")
    with pytest.raises(ValueError, match="alone has no scores of A"):
        run(task("A"), task("B"), single_task_run=str(tmp_path / "alone"))


def test_at_most_the_first_records_are_answered(run, tmp_path):
    retention = [{"name": "g", "dataset": "general_test", "scorer": "short_answer"}]
    run(task("A"), task("B", max_test_samples=1), retention_sets=retention, max_test_samples=3)
    folder = tmp_path / "run"
    for place, name, count in (("0_base", "g", 3), ("1_A", "A", 3), ("2_B", "A", 3), ("2_B", "B", 1), ("2_B", "g", 3)):
        rows = read_json_lines(folder / place / "predictions" / f"{name}.jsonl")
        expected = "general_test" if name == "g" else f"{name}_test"
        assert [row["text"] for row in rows] == [f"{expected} {i}" for i in range(count)]
        assert read_json(folder / place / "scores.json")[name]["count"] == count
    for place in ("1_A", "2_B"):
        assert "max_test_samples" not in yaml.safe_load((folder / place / "task.yaml").read_text())
    assert failed(tmp_path) == []


def test_another_number_of_records_is_another_test_set(run, tmp_path):
    run(task("A"), max_test_samples=2)
    changed = r"task A: A_test in dataset_info.json \(for test\): it was max_test_samples 2, and is max_test_samples 3"
    with pytest.raises(RunFolderError, match=changed):
        run(task("A"), task("B"), max_test_samples=3)
    with pytest.raises(RunFolderError, match="it was max_test_samples 2, and is max_test_samples not set"):
        run(task("A"), task("B"))
    said = run(task("A"), task("B"), accept=True, max_test_samples=3)
    assert any(line.startswith("Accepted as changed: task A: A_test in dataset_info.json") for line in said)
    counts = [read_json(tmp_path / f"run/{place}/scores.json")["A"]["count"] for place in ("1_A", "2_B")]
    assert counts == [2, 3]
    assert failed(tmp_path) == []


def test_a_task_that_is_trained_keeps_its_training_when_fewer_records_are_answered(run, tmp_path):
    run(task("A"))
    folder = RunFolder(tmp_path / "run")
    folder.complete_task(folder.read_manifest()["recipe"], [])
    said = run(task("A", max_test_samples=1))
    assert "A is scored anew: the test sets have changed." in said
    assert (tmp_path / "run/calls").read_text().split() == ["task.yaml", "score.yaml"]
    assert len(read_json_lines(tmp_path / "run/1_A/predictions/A.jsonl")) == 1
