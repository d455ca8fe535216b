"""A wrong scorer is mended afterwards: from the predictions, without the model, in every complete task or in none."""

import json

import pytest

import sefe_plugin.run.rescoring
from sefe_plugin.cli import main
from sefe_plugin.evaluation.report import load_report, write_report
from sefe_plugin.evaluation.report_data import build_report
from sefe_plugin.evaluation.results import write_predictions, write_scores
from sefe_plugin.files import read_json, write_json
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.rescoring import rescore_run, scores_to_mend
from sefe_plugin.run.rescoring import write_scores as write_mended
from sefe_plugin.run.scores import Scores
from sefe_plugin.run.steps import CARRIED, SCORED, TRAINED, record_step, steps_of


ANSWERS = {"A": ["white shark", "a white shark", "cat"], "B": ["B. Leaves", "C", "B"]}
GOLDS = {"A": ["White-Shark", "white shark", "dog"], "B": ["B. Leaves", "B", "B"]}


def recipe_of(**scorers):
    tasks = [{"name": name, "test_dataset": "x", "scorer": scorer} for name, scorer in scorers.items()]
    return {"learning_rate": 1e-4, "benchmark": None, "tasks": tasks}


WRONG, RIGHT = recipe_of(A="short_answer", B="short_answer"), recipe_of(A="class_name", B="multiple_choice")


@pytest.fixture
def run(tmp_path):
    """A finished run of two tasks with the wrong scorers."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    done = []
    for index, task in enumerate(WRONG["tasks"]):
        path = folder.task_folder(index, task["name"])
        for other in WRONG["tasks"][: index + 1]:
            records = [{"output": gold, "answer": gold} for gold in GOLDS[other["name"]]]
            write_predictions(path, other["name"], records, ANSWERS[other["name"]])
        write_scores(path, WRONG["tasks"][: index + 1], None)
        done.append({"name": task["name"], "folder": path.name, "seconds": 1.0})
        for step in (TRAINED, SCORED, CARRIED):
            record_step(path, step)
    folder.complete_task(WRONG, done)
    report = build_report(["A", "B"], *Scores(folder, ["A", "B"]).matrices())
    write_report(folder.path, {**report, "task_order": "reversed"}, "mine.yaml: 2 tasks in the order reversed")
    return folder


def accuracies(folder):
    return [[entry and round(entry) for entry in row] for row in Scores(folder, ["A", "B"]).matrices()[0]]


def test_a_run_is_scored_again_by_other_scorers(run, capsys):
    assert accuracies(run) == [[0, None], [0, 67]]
    assert main(["score", str(run.path), "--scorer", "A=class_name", "--scorer", "B=multiple_choice"]) == 0
    assert accuracies(run) == [[67, None], [67, 67]]
    report = load_report(run.path)
    assert [[entry and round(entry) for entry in row] for row in report["accuracy_matrix"]] == accuracies(run)
    assert report["task_order"] == "reversed"
    assert (run.path / "report.md").read_text().startswith("# mine.yaml: 2 tasks in the order reversed\n")
    assert run.read_manifest()["recipe"] == RIGHT
    assert len(run.read_manifest()["complete"]) == 2
    said = capsys.readouterr()
    assert "66.67" in said.out
    assert "Change `scorer` in the recipe too" in said.err
    assert rescore_run(run.path, {}) == report


def test_a_scorer_with_options_may_take_the_place_of_one(run, capsys):
    strict, loose = ("A={name: exact_match}", "A={name: exact_match, ignore_case: true}")
    assert main(["score", str(run.path), "--scorer", strict]) == 0
    assert run.read_manifest()["recipe"]["tasks"][0]["scorer"] == "exact_match"
    assert accuracies(run) == [[0, None], [0, 67]]
    assert main(["score", str(run.path), "--scorer", loose]) == 0
    assert run.read_manifest()["recipe"]["tasks"][0]["scorer"] == {"name": "exact_match", "ignore_case": True}
    recipe = recipe_of(A={"name": "exact_match", "ignore_case": True}, B={"name": "short_answer"})
    assert scores_to_mend(run, recipe) == {}
    with pytest.raises(RunFolderError, match="`ignore` is no option of it; it has the options ignore_case"):
        rescore_run(run.path, {"A": {"name": "exact_match", "ignore": True}})
    report = load_report(run.path)
    assert report["lenient"]["accuracy_matrix"][1][1] == pytest.approx(200 / 3)
    assert "(lenient)" in capsys.readouterr().out


def test_the_recipe_may_name_other_scorers(run):
    mended = scores_to_mend(run, RIGHT)
    assert accuracies(run) == [[0, None], [0, 67]]
    assert len(run.open_run(RIGHT, host_keys())) == 2
    assert not (run.path / "report.json").exists()
    assert not (run.path / "report.md").exists()
    write_mended(mended)
    assert accuracies(run) == [[67, None], [67, 67]]
    assert scores_to_mend(run, RIGHT) == {}
    with pytest.raises(RunFolderError, match="another recipe"):
        run.open_run({**RIGHT, "learning_rate": 1.0}, host_keys())


def test_only_what_another_scorer_reaches_is_scored_again(run):
    other = recipe_of(A="short_answer", B="multiple_choice")
    assert [file.parent.name for file in scores_to_mend(run, other)] == ["2_B"]
    run.open_run(other, host_keys())
    assert (run.path / "1_A" / "scores.json").is_file()


def test_an_unfinished_task_keeps_its_training_and_is_scored_anew(run):
    run.complete_task(WRONG, run.read_manifest()["complete"][:1])
    (run.path / "2_B" / "adapter_model.safetensors").touch()
    run.open_run(RIGHT, host_keys())
    assert (run.path / "2_B" / "adapter_model.safetensors").is_file()
    assert steps_of(run.path / "2_B") == [TRAINED, CARRIED]
    assert not (run.path / "2_B" / "scores.json").exists()


@pytest.mark.parametrize("writes", range(5))
def test_a_rescoring_that_is_stopped_leaves_no_scores_of_two_scorers(run, monkeypatch, writes):
    before = accuracies(run)
    left = iter(range(writes))

    def write_few(file, content):
        if next(left, None) is None:
            raise OSError("no space left on device")
        write_json(file, content)

    monkeypatch.setattr(sefe_plugin.run.rescoring, "write_json", write_few)
    monkeypatch.setattr("sefe_plugin.run.folder.write_json", write_few)
    monkeypatch.setattr("sefe_plugin.evaluation.report.write_json", write_few)
    scorers = {"A": "class_name", "B": "multiple_choice"}
    if writes < 4:
        with pytest.raises(OSError, match="no space"):
            rescore_run(run.path, scorers)
        assert not (run.path / "report.json").exists()
        if writes < 3:
            with pytest.raises(RunFolderError, match=r"is missing\. Make it anew from the predictions: sefe score"):
                Scores(run, ["A", "B"]).matrices()
    else:
        rescore_run(run.path, scorers)
    monkeypatch.undo()
    # the same recipe as before goes on as before, the other one with all scores anew
    for recipe, expected in ((WRONG, before), (RIGHT, [[67, None], [67, 67]])):
        mended = scores_to_mend(run, recipe)
        run.open_run(recipe, host_keys())
        write_mended(mended)
        assert accuracies(run) == expected


def test_the_gold_answer_goes_along_where_the_scorer_reads_another_field(run):
    for stage in ("1_A", "2_B"):
        records = [{"where": "[0.1, 0.1, 0.5, 0.5]", "answer": "[0.1, 0.1, 0.5, 0.5]"}]
        write_predictions(run.path / stage, "A", records, ["[0.1, 0.1, 0.5, 0.45]"])
    for scorers in ({"A": "box"}, {}):
        rescore_run(run.path, scorers)
        assert accuracies(run) == [[100, None], [100, 67]]
    rescore_run(run.path, {"A": "short_answer"})
    assert accuracies(run) == [[0, None], [0, 67]]


@pytest.mark.parametrize(
    ("scorers", "expected"),
    [
        ({"A": "yes_no"}, "A.jsonl cannot be scored by 'yes_no': record 1: 'answer' must be yes or no"),
        ({"A": "class_nam"}, "got 'class_nam'. Did you mean `class_name`?"),
        ({"a": "class_name"}, "'a' is no task of"),
    ],
)
def test_what_cannot_be_scored_changes_nothing(run, capsys, scorers, expected):
    files = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    (scorer,) = (f"{task}={name}" for task, name in scorers.items())
    assert main(["score", str(run.path), "--scorer", scorer]) == 1
    assert expected in capsys.readouterr().err
    assert {file: file.read_bytes() for file in files} == files


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["A", "A.jsonl", "--scorer", "A=box"], "`--scorer` is for a run"),
        (["run", "--mode", "official"], "`--mode` is for a file"),
        (["run", "--scorer", "A"], "`--scorer` must be TASK=NAME; got 'A'"),
    ],
)
def test_options_of_the_other_form_are_refused(capsys, words, expected):
    assert main(["score", *words]) == 1
    assert expected in capsys.readouterr().err


def test_predictions_that_are_gone_are_named(run):
    (run.path / "2_B" / "predictions" / "A.jsonl").unlink()
    with pytest.raises(RunFolderError, match=r"A\.jsonl is missing"):
        rescore_run(run.path, {})
    assert json.loads((run.path / "report.json").read_text())["num_scored_tasks"] == 2


def test_a_folder_without_a_run_or_without_a_complete_task_is_refused(run, tmp_path):
    with pytest.raises(RunFolderError, match="holds no run"):
        rescore_run(tmp_path, {})
    run.complete_task(WRONG, [])
    with pytest.raises(RunFolderError, match="no complete task"):
        rescore_run(run.path, {})


def test_the_report_of_an_unfinished_run_says_that_it_is(run):
    run.complete_task(WRONG, run.read_manifest()["complete"][:1])
    report = rescore_run(run.path, {"A": "class_name"})
    assert report["num_scored_tasks"] == 1
    assert load_report(run.path) == report
    assert "Unfinished: 1 of 2 tasks" in (run.path / "report.md").read_text()
    assert read_json(run.path / "1_A" / "scores.json")["A"]["accuracy"] == pytest.approx(200 / 3)
