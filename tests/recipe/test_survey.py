"""What a data folder offers: tasks by their names, and scorers by the gold answers."""

import doctest
import json
import re

import pytest
import yaml

from sefe_plugin.recipe import draft, survey
from sefe_plugin.recipe.draft import Draft
from sefe_plugin.recipe.survey import Candidate, candidate, candidates, declared, guess_scorer, long_answers


@pytest.fixture
def folder(tmp_path):
    """Writes test sets, by name and gold answers or whole records, into a data folder."""

    def write(**sets):
        info = {}
        for name, golds in sets.items():
            records = [gold if isinstance(gold, dict) else {"text": "What?", "answer": gold} for gold in golds]
            (tmp_path / f"{name}.json").write_text(json.dumps(records))
            info[name] = {"file_name": f"{name}.json", "columns": {"prompt": "text", "response": "answer"}}
        (tmp_path / "dataset_info.json").write_text(json.dumps(info))
        return tmp_path

    return write


def test_examples():
    assert doctest.testmod(survey).failed == 0
    assert doctest.testmod(draft).failed == 0


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a_train", "a_test"], [("a", "a_train", "a_test")]),
        (["a_val", "a_train", "a_eval"], [("a", "a_train", "a_val")]),
        (["a_test", "a_val", "a_train"], [("a", "a_train", "a_test")]),
        (["test_a", "train_a"], [("a", "train_a", "test_a")]),
        (["A-Train", "a-test"], [("A", "A-Train", "a-test")]),
        (["a", "a_test", "b"], [("a", "a", "a_test"), ("b", "b", None)]),
        (["contest", "latest_test"], [("contest", "contest", None)]),
        (["train", "test"], [("train", "train", None), ("test", "test", None)]),
        (["my data_train", "my data_test"], [("my_data", "my data_train", "my data_test")]),
    ],
)
def test_tasks_are_found_by_their_names(names, found):
    assert candidates(names) == [Candidate(*one) for one in found]


def test_a_task_may_name_its_test_set_and_scorer():
    names = ["a_train", "a_test", "other"]
    assert candidate("a_train", names) == (Candidate("a", "a_train", "a_test"), None)
    assert candidate("a_train:other", names) == (Candidate("a", "a_train", "other"), None)
    assert candidate(" a_train : other : yes_no ", names) == (Candidate("a", "a_train", "other"), "yes_no")
    assert candidate("a_train::class_name", names) == (Candidate("a", "a_train", "a_test"), "class_name")
    assert candidate("a_train:none", names) == (Candidate("a", "a_train", None), None)
    assert candidate("a_train:none", [*names, "none"])[0].test_dataset == "none"
    # what looks like a test set can be trained on where it is named
    assert candidate("a_test:other", names)[0] == Candidate("a_test", "a_test", "other")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("a_tran", "'a_tran' is not declared in dataset_info.json. Did you mean `a_train`?"),
        ("a_train:tset", "'tset' is not declared"),
        ("a_train:a_test:yes_on", "Did you mean `yes_no`?"),
        ("a_train:a_test:regex", "`scorer: regex`: `pattern` is required: a regular expression such as"),
        ("a_train:a_test:judge", "`model` is required: the name of the judge on its server. "),
        ("other", "such as other_test, says what tests 'other'. Write other:TEST"),
        ("a_train:none:yes_no", "a task without a test set has no scorer"),
        ("a_train:a_test:yes_no:more", "must be TRAIN, TRAIN:TEST or TRAIN:TEST:SCORER"),
    ],
)
def test_a_wrong_task_is_told_with_the_reason(entry, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        candidate(entry, ["a_train", "a_test", "other"])


@pytest.mark.parametrize(
    ("golds", "scorer"),
    [
        (["Yes", "no", "No."], "yes_no"),
        (["yes", "no", "two"], "short_answer"),
        (["A", "C", "(B)"], "multiple_choice"),
        (["A", "B", "cat"], "short_answer"),
        (["[0.1, 0.2, 0.5, 0.6]"] * 2, "box"),
        (["[0.1, 0.2, 0.5, 0.6]", "cat"], "short_answer"),
        ([{"text": "What?", "answers": ["stop"] * 10}] * 2, "text_vqa"),
        ([{"text": "What?", "answer_bbox": "[0.1, 0.2, 0.5, 0.6]"}], "box"),
        (["a small red cat"], "short_answer"),
        (["a small red cat on a mat"], "none"),
        ([{"text": "What?", "answers": ["a small red cat on a mat"] * 10}], "text_vqa"),
    ],
)
def test_the_scorer_follows_from_the_gold_answers(folder, golds, scorer):
    assert guess_scorer("x", folder(x=golds)) == scorer


@pytest.mark.parametrize(("golds", "reason"), [([""], "record 1"), (["a", " "], "record 2"), ([], "no records")])
def test_no_scorer_is_guessed_where_none_reads_all(folder, golds, reason):
    with pytest.raises(ValueError, match=f"no scorer can read the gold answers of 'x': .*{reason}"):
        guess_scorer("x", folder(x=golds))


@pytest.mark.parametrize("entry", [{"hf_hub_url": "a/b"}, {"file_name": "gone.json"}, {"file_name": ["a"]}, "x.json"])
def test_a_test_set_is_a_local_file(tmp_path, entry):
    (tmp_path / "dataset_info.json").write_text(json.dumps({"x": entry}))
    with pytest.raises(ValueError, match="the test set 'x' must be a local"):
        guess_scorer("x", tmp_path)


def test_long_answers_are_noticed(folder):
    text = "two dogs run over a green field"
    sets = folder(x=[text, text, "a dog"], y=["a dog", "a cat", text], z=["[0.1, 0.2, 0.5, 0.6]"])
    assert long_answers("x", sets) == 7
    assert long_answers("y", sets) is None
    assert long_answers("z", sets) is None


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "does not exist"), ("{}", "declares no dataset"), ("[", "JSON")]
)
def test_a_folder_without_datasets_is_refused(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "dataset_info.json").write_text(content)
    with pytest.raises(ValueError, match=reason):
        declared(tmp_path)


def test_the_text_of_a_recipe_holds_its_keys():
    tasks = [{"name": "no", "dataset": "a: b", "scorer": "x"}, {"name": "1_000", "dataset": "é\nf", "asd_ratio": 0.0}]
    sections = {
        "model": {"model_name_or_path": "~/a #1", "template": "null"},
        "train": {"learning_rate": 2e-5, "bf16": True, "seed": 42, "optim": None, "lora_target": ["q", "v"]},
        "dataset": {"tasks": tasks, "dataset_dir": "x" * 200},
    }
    notes = {"seed": "why " * 60, ("tasks", 1, "asd_ratio"): "because: of\u00e9", "bf16": "short"}
    made = Draft(["Mine: a recipe", ""], sections, notes)
    assert yaml.safe_load(made.text()) == made.keys()
    assert "bf16: true  # short" in made.text()
    assert "\n# why why" in made.text()
    assert all(len(line) < 120 for line in made.text().splitlines() if "xxx" not in line)
