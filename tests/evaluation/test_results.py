"""What a run keeps of its answers, and that the command line finds the same in it."""

import json
import logging

import pytest

from sefe_plugin.benchmarks import official_rule
from sefe_plugin.benchmarks.coin import TASKS
from sefe_plugin.benchmarks.score_file import score_file
from sefe_plugin.evaluation.results import score_rows, write_predictions, write_scores


RECORDS = {
    "ScienceQA": [{"answer": "B", "num_choices": 3}] * 3,
    "TextVQA": [{"answer": "stop", "answers": ["stop"] * 2 + ["go"] * 8}] * 3,
    "Grounding": [{"answer_bbox": "[0.10, 0.10, 0.90, 0.90]", "size": [64, 64]}] * 3,
    **dict.fromkeys(("ImageNet", "GQA", "VizWiz", "VQAv2", "OCRVQA"), [{"answer": "red"}] * 3),
}
PREDICTIONS = {
    "ScienceQA": ["B", "B.", "A"],
    "TextVQA": ["stop", "go", "It says to stop."],
    "Grounding": ["[0.1, 0.1, 0.9, 0.9]", "[0.10, 0.10, 0.90, 0.90]", "ü"],
    **{key: ["red", "red.", ""] for key in ("ImageNet", "GQA", "VizWiz", "VQAv2", "OCRVQA")},
}
#: In percent. Two of three right: sqrt(2/3 * 1/3 / 3); TextVQA's answers are worth 0.6, 1 and 0.
SAMPLE_ERRORS = dict.fromkeys(RECORDS, 100 * (2 / 27) ** 0.5) | {
    "TextVQA": 100 * ((1 / 15) ** 2 + (7 / 15) ** 2 + (8 / 15) ** 2) ** 0.5 / 3
}
TEST_SETS = [{"name": task.name, "scorer": task.scorer, "official": task.official} for task in TASKS]


@pytest.fixture
def written(tmp_path):
    for name, records in RECORDS.items():
        write_predictions(tmp_path, name, records, PREDICTIONS[name])
    write_scores(tmp_path, TEST_SETS, official_rule)
    return tmp_path


def test_the_command_line_scores_the_files_as_the_run_did(written):
    scores = json.loads((written / "scores.json").read_text())
    assert list(scores) == [task.name for task in TASKS]
    for task, entry in scores.items():
        file = written / "predictions" / f"{task}.jsonl"
        clean, official = (score_file(task, file, mode) for mode in ("clean", "official"))
        assert entry == {
            "accuracy": clean.accuracy,
            "format": clean.formatted,
            "count": clean.count,
            "stderr": pytest.approx(SAMPLE_ERRORS[task]),
            "lenient": entry["lenient"],
            "official": official.accuracy,
        }
        assert clean.accuracy <= entry["lenient"] <= 100
    assert scores["Grounding"]["accuracy"] > scores["Grounding"]["official"]
    assert scores["ImageNet"]["official"] > scores["ImageNet"]["accuracy"]


def test_predictions_are_the_records_with_their_answers(written):
    lines = (written / "predictions" / "Grounding.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {**record, "prediction": text}
        for record, text in zip(RECORDS["Grounding"], PREDICTIONS["Grounding"], strict=True)
    ]
    assert '"prediction": "ü"' in lines[2]


def test_tasks_without_an_official_rule_have_no_official_accuracy():
    assert set(score_rows("yes_no", [{"answer": "yes", "prediction": "yes"}])) == {
        "accuracy",
        "format",
        "count",
        "stderr",
        "lenient",
    }


def test_records_that_lack_what_the_official_rule_needs_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        scores = score_rows("text_vqa", [{"answer": "stop", "prediction": "Stop"}], official_rule("coin:TextVQA"))
    assert scores == {"accuracy": 100.0, "format": 100.0, "count": 1, "stderr": 0.0, "lenient": 100.0}
    assert (
        "No official accuracy beside the scorer 'text_vqa': a test record needs a list of 10 texts as 'answers'"
        in caplog.text
    )
