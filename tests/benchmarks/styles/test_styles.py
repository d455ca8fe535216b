"""`styles`: seven tasks on text, disjoint parts, answers that their scorers read and ASD can rewrite."""

import json
from itertools import islice
from pathlib import Path

import pytest

from sefe_plugin.answers.styles import FORMAT_LINES, SHORT_ANSWER
from sefe_plugin.asd.diversify import diversify
from sefe_plugin.asd.rules import native_style
from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.styles.data import TEST_SIZE, VALIDATION_SEEDS, items, part_of, write_data
from sefe_plugin.benchmarks.styles.tasks import TASKS
from sefe_plugin.benchmarks.styles.words import COUNTRIES, KINDS, NICKNAMES
from sefe_plugin.data.sample import Sample
from sefe_plugin.data.test_sets import read_test_set
from sefe_plugin.evaluation.scorers import SCORERS, score_predictions
from sefe_plugin.hosts.llamafactory.host import read_recipe
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe


ROOT = Path(__file__).resolve().parents[3]
BY_NAME = {task.name: task for task in TASKS}
STYLE = {"Choices": "multiple_choice", "Reasons": "brief_explanation", "Boxes": "box"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("styles") / "data"
    write_data(folder, 42)
    return folder


def read(folder: Path, name: str, split: str) -> list[dict]:
    return json.loads((folder / name / f"{split}.json").read_text(encoding="utf-8"))


def test_sizes(folder):
    assert len(TASKS) >= 6
    for task in TASKS:
        assert (len(read(folder, task.name, "train")), len(read(folder, task.name, "test"))) == (
            task.train_size,
            TEST_SIZE,
        )


@pytest.mark.parametrize("name", BY_NAME)
def test_parts_share_nothing(name):
    """What an item is about is the country, the list of things and so on, whatever the question."""
    owners = {
        part: {item.owner for seed in (1, 2) for item in islice(items(BY_NAME[name], part, seed), 60)}
        for part in ("train", "validation", "test")
    }
    assert all(part_of(owner) == part for part, found in owners.items() for owner in found)
    assert not owners["train"] & owners["test"]


@pytest.mark.parametrize("name", BY_NAME)
def test_questions_of_a_run_differ(folder, name):
    for split in ("train", "test"):
        texts = [record["instruction"] for record in read(folder, name, split)]
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("seed", [42, VALIDATION_SEEDS])
def test_equal_seeds_give_equal_files_and_others_do_not(folder, tmp_path, seed):
    write_data(tmp_path / "again", seed)
    same = [read(folder, name, "train") == read(tmp_path / "again", name, "train") for name in BY_NAME]
    assert set(same) == {seed == 42}


def test_a_folder_of_other_sizes_is_written_anew(tmp_path):
    write_data(tmp_path / "data", 1, train_size=3, test_size=2)
    write_data(tmp_path / "data", 1, train_size=4, test_size=2)
    assert len(read(tmp_path / "data", "Boxes", "train")) == 4


@pytest.mark.parametrize("name", BY_NAME)
def test_gold_answers_score_full(folder, name):
    records = read_test_set(f"styles_{name.lower()}_test", folder, SCORERS[BY_NAME[name].scorer])
    golds = [record[SCORERS[BY_NAME[name].scorer].gold] for record in records]
    score = score_predictions(BY_NAME[name].scorer, golds, records)
    assert (score.accuracy, score.format, score.count) == (100.0, 100.0, TEST_SIZE)


@pytest.mark.parametrize("name", BY_NAME)
def test_golds_of_other_formats_are_wrong_formats(folder, name):
    """A style that is lost can be seen: sentences and boxes are no short answers, letters are no boxes."""
    scorer = BY_NAME[name].scorer
    records = read_test_set(f"styles_{name.lower()}_test", folder, SCORERS[scorer])
    for other in BY_NAME.values():
        if {other.scorer, scorer} <= {"short_answer", "class_name"} or other.scorer == scorer:
            continue
        answers = [record["output"] for record in read(folder, other.name, "test")]
        assert score_predictions(scorer, answers, records).format == 0.0, other.name


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "Reasons"])
def test_asd_rewrites_every_sample(folder, name):
    samples = [Sample(record["instruction"], record["output"]) for record in read(folder, name, "train")]
    assert native_style(samples, SCORERS[BY_NAME[name].scorer].style) == STYLE.get(name, SHORT_ANSWER)
    assert len(diversify(samples, 1.0, 0)[1]) == len(samples)


def test_asd_on_explanations_is_refused_with_the_remedy_that_the_recipes_have(folder):
    samples = [Sample(record["instruction"], record["output"]) for record in read(folder, "Reasons", "train")]
    assert native_style(samples) == STYLE["Reasons"]
    assert [task.name for task in load_benchmark("styles").tasks if not task.asd_by_rule] == ["Reasons"]
    keys = read_recipe(ROOT / "recipes" / "styles_sefe.yaml", [])
    assert keys.pop("task_keys") == [{"name": "Reasons", "asd_ratio": 0.0}]
    with pytest.raises(RecipeError, match=r"answers of Reasons are free texts.*name: Reasons, asd_ratio: 0"):
        load_recipe(keys | {"model_name_or_path": str(BASE)}, "mine.yaml", host_keys(), check_data=False)


def test_choices_give_the_right_letter(folder):
    for record in read(folder, "Choices", "train"):
        question, *options = record["instruction"].split("\n")[:-1]
        word = question.removesuffix("?").split()[-1]
        (right,) = (option for option in options if word in KINDS[option[3:]])
        assert right.startswith(f"{record['output']}. ")


def test_boxes_are_those_of_the_thing_that_is_asked_for(folder):
    for record in read(folder, "Boxes", "test"):
        lines = dict(line.split(": ") for line in record["instruction"].split("\n")[:2])
        name = next(name for name in lines if f"'the {NICKNAMES[name]}'" in record["instruction"])
        numbers = [int(part.split()[1]) for part in lines[name].split(", ")]
        assert record["output"] == "[" + ", ".join(f"{number / 100:.2f}" for number in numbers) + "]"


def test_counts_are_right(folder):
    for record in read(folder, "Counting", "train"):
        text, question, line = record["instruction"].split("\n")
        color = question.removesuffix("?").split()[-1]
        count = text.replace(",", " ").split().count(color)
        assert line == FORMAT_LINES[SHORT_ANSWER]
        assert record["output"] == (str(count) if question.startswith("How") else "yes" if count else "no")


def test_facts_are_those_of_the_table(folder):
    rows = {value: row for row in COUNTRIES for value in row[:2]}
    assert len({row[0] for row in COUNTRIES}) == len(COUNTRIES)
    for record in read(folder, "Facts", "test"):
        question = record["instruction"].split("\n")[0]
        named = max((value for value in rows if value in question), key=len)
        assert record["output"] in rows[named]
        assert record["output"] not in question


@pytest.mark.parametrize(
    ("answer", "correct", "formatted"),
    [
        ("The vase stands in the attic because wool smells of smoke.", 1.0, True),
        ("It stands there, since wool SMELLS of  smoke!", 1.0, True),
        ("The vase stands in the attic because wool smells of smoked fish.", 0.0, True),
        ("smells of smoke", 0.0, False),
        ("Because it\nsmells of smoke and nothing else.", 0.0, False),
        ("", 0.0, False),
    ],
)
def test_explanations_are_scored_by_their_key(answer, correct, formatted):
    record = {"answer": "The vase stands in the attic because wool smells of smoke.", "key": "smells of smoke"}
    score = score_predictions("explanation", [answer], [record])
    assert (score.accuracy, score.format) == (100 * correct, 100 * formatted)


def test_an_explanation_without_a_key_is_compared_as_a_whole():
    record = {"answer": "It rolls because it is round."}
    scores = [score_predictions("explanation", [a], [record]).accuracy for a in ("it rolls because it is round", "It")]
    assert scores == [100.0, 0.0]
    with pytest.raises(ValueError, match="'key' must hold words"):
        score_predictions("explanation", ["one two three four five six"], [record | {"key": "..."}])


def test_a_trial_sees_the_first_samples_of_a_run(folder, tmp_path):
    load_benchmark("styles").draw(tmp_path / "few", {"seed": 42}, for_trial=True)
    for name in BY_NAME:
        few = read(tmp_path / "few", name, "train")
        assert len(few) < 50 and few == read(folder, name, "train")[: len(few)]
        assert read(tmp_path / "few", name, "test") == read(folder, name, "test")
    files = [part / "dataset_info.json" for part in (tmp_path / "few", folder)]
    assert files[0].read_bytes() == files[1].read_bytes()
