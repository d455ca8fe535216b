"""CoIN's whole path on a CPU: published files, `sefe prepare coin`, the recipe, eight trained tasks, their scores.

Mini-CoIN's pictures and questions stand in for CoIN's, laid out as CoIN is published, and the shipped tiny LLaVA for
LLaVA-1.5.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from sefe_plugin.benchmarks.coin.tasks import TASKS
from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.data import write_data


pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
CLI = Path(sysconfig.get_paths()["scripts"]) / "llamafactory-cli"
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("SEFE_")} | {
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_WAIT_POLICY": "PASSIVE",
}
NAMES = [task.name for task in TASKS]
TRAIN, TEST = 8, 3
#: Of the shipped recipe, what 7B parameters and 80 GB differ in from a tiny model and a CPU.
SIZES = {
    "model_name_or_path": BASE,
    "lora_rank": 4,
    "lora_alpha": 8,
    "asd_ratio": 0.25,
    "cutoff_len": 384,
    "preprocessing_num_workers": 1,
    "per_device_train_batch_size": 4,
    "bf16": "false",
    "disable_gradient_checkpointing": "true",
    "max_new_tokens": 10,
}


def run(*command) -> subprocess.CompletedProcess:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=ENVIRONMENT, timeout=900)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def sefe(*arguments) -> str:
    return run(sys.executable, "-c", "from sefe_plugin.cli import main; main()", *arguments).stdout


def publish(folder: Path) -> None:
    """Writes mini-CoIN as CoIN is published: no image tags in questions, validation files, TextVQA's own answers."""
    drawn = folder / "drawn"
    write_data(drawn, seed=1000, train_size=TRAIN, test_size=TEST)
    for task in NAMES:
        annotations = folder / "Instructions_Original" / task
        annotations.mkdir(parents=True)
        if (drawn / task / "images").is_dir():
            shutil.move(drawn / task / "images", folder / "images" / task / "images")
        for split in ("train", "test"):
            records = json.loads((drawn / task / f"{split}.json").read_text())
            for record in records:
                if "image" in record:
                    record["image"] = f"./{record['image']}"
                if split == "test":
                    record["question_id"] = int(record["question_id"])
                    record["text"] = record["text"].removeprefix("<image>\n")
            validation = split == "test" and task in ("TextVQA", "VizWiz", "VQAv2")
            (annotations / ("val.json" if validation else f"{split}.json")).write_text(json.dumps(records))
    questions = json.loads((folder / "Instructions_Original" / "TextVQA" / "val.json").read_text())
    answers = [{"question_id": q["question_id"], "answers": [q["answer"]] * 7 + ["other"] * 3} for q in questions]
    (folder / "images" / "TextVQA" / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": answers}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The run folder of the shipped recipe, from published files to the report."""
    folder = tmp_path_factory.mktemp("coin")
    publish(folder / "downloads")
    said = sefe(
        "prepare", "coin", folder / "downloads", "--images", folder / "downloads/images", "--out", folder / "coin"
    )
    assert "CoIN is ready" in said
    overrides = {**SIZES, "dataset_dir": folder / "coin", "output_dir": folder / "run"}
    run(CLI, "train", ROOT / "recipes" / "coin_sefe.yaml", *(f"{key}={value}" for key, value in overrides.items()))
    return folder / "run"


def read(file: Path):
    return json.loads(file.read_text())


def test_all_tasks_are_trained_with_both_methods(trained):
    for index, task in enumerate(NAMES):
        folder = trained / f"{index + 1}_{task}"
        state = read(folder / "trainer_state.json")
        assert state["global_step"] == TRAIN // 4
        assert (folder / "key_elements.safetensors").is_file()
        assert len((folder / "asd.jsonl").read_text().splitlines()) == round(0.25 * TRAIN)
        assert list(read(folder / "scores.json")) == NAMES[: index + 1]


def test_the_report_states_clean_and_official_accuracy(trained):
    report = read(trained / "report.json")
    assert report["tasks"] == NAMES
    for index, task in enumerate(NAMES):
        scores = read(trained / f"{index + 1}_{task}" / "scores.json")
        for matrix, key in (
            (report["accuracy_matrix"], "accuracy"),
            (report["format_matrix"], "format"),
            (report["official"]["accuracy_matrix"], "official"),
        ):
            assert matrix[index] == [scores.get(name, {}).get(key) for name in NAMES]
    assert report["official"]["mfn"] is not None
    assert "## Official accuracy" in (trained / "report.md").read_text()


@pytest.mark.parametrize("task", NAMES)
def test_the_command_line_scores_the_predictions_as_the_run_did(trained, task):
    last = trained / f"{len(NAMES)}_{NAMES[-1]}"
    scores = read(last / "scores.json")[task]
    assert scores["count"] == TEST
    for mode, key in (("official", "official"), ("clean", "accuracy")):
        said = sefe("score", task, last / "predictions" / f"{task}.jsonl", "--mode", mode)
        assert said == f"{scores[key]:.4f}\n"


def test_text_vqa_is_scored_by_its_ten_answers(trained):
    rows = (trained / f"8_{NAMES[-1]}" / "predictions" / "TextVQA.jsonl").read_text().splitlines()
    assert [len(json.loads(row)["answers"]) for row in rows] == [10] * TEST
