"""From published files to the report on the tiny LLaVA: a mini-UCIT of three tasks, and the shipped recipes."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from published_files import DCL_QUESTIONS, UCIT_QUESTIONS, write_shards, write_ucit

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.cli import main


ROOT = Path(__file__).parents[3]
TRAIN, TEST = 8, 3
MINI = {"ImageNet-R": "class_name", "IconQA": "mixed", "VizWiz": "caption"}
#: Of the shipped recipes, what 7B parameters and 80 GB differ in from a tiny model and a CPU.
SIZES = {
    "model_name_or_path": str(BASE),
    "default_system": "",
    "lora_rank": 4,
    "lora_alpha": 8,
    "cutoff_len": 384,
    "preprocessing_num_workers": 1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "bf16": False,
    "disable_gradient_checkpointing": True,
    "max_new_tokens": 40,
    "logging_steps": 1,
    "save_strategy": "no",
}


def read(file: Path):
    return json.loads(file.read_text())


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def train(environment, *arguments) -> None:
    command = [shutil.which("llamafactory-cli", path=environment["PATH"]), "train", *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


@pytest.fixture(scope="module")
def ucit(tmp_path_factory) -> Path:
    """UCIT's datasets, by the command."""
    folder = tmp_path_factory.mktemp("ucit")
    write_ucit(folder / "in", TRAIN, TEST)
    assert main(["prepare", "ucit", str(folder / "in"), "--out", str(folder / "ucit")]) == 0
    return folder / "ucit"


@pytest.fixture(scope="module")
def mini_recipe(ucit) -> Path:
    """Three tasks, captions last: the prepared folder is a dataset folder like any other."""
    tasks = [
        {"name": task, "dataset": f"ucit_{task.lower()}_train", "test_dataset": f"ucit_{task.lower()}_test"}
        | {"scorer": scorer}
        for task, scorer in MINI.items()
    ]
    tasks[2]["asd_ratio"] = 0
    keys = {
        **SIZES,
        "template": "llava",
        "cl_method": "reglora",
        "asd_ratio": 0.25,
        "pad_images": True,
        "dataset_dir": str(ucit),
        "media_dir": read(ucit / "manifest.json")["images"],
        "learning_rate": 1e-3,
        "report_to": "none",
        "tasks": tasks,
        "output_dir": str(ucit.parent / "mini"),
    }
    file = ucit.parent / "mini.yaml"
    file.write_text(yaml.safe_dump(keys))
    return file


def test_a_mini_ucit_of_three_tasks(mini_recipe, ucit, warm, capsys):
    assert main(["plan", str(mini_recipe), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [task["steps"] for task in plan["tasks"]] == [6, 6, 6]
    train(warm, mini_recipe)
    run = ucit.parent / "mini"
    report = read(run / "report.json")
    assert report["tasks"] == list(MINI)
    for row in range(3):
        assert [value is None for value in report["accuracy_matrix"][row]] == [column > row for column in range(3)]
    # captions have no format apart from their content
    assert report["accuracy_matrix"][2][2] >= 0
    assert [*report["parts"]] == ["VizWiz"]
    of_captions = report["parts"]["VizWiz"]["end"]
    assert report["accuracy_matrix"][2][2] == pytest.approx(sum(of_captions.values()) / len(of_captions))
    answers = lines_of(run / "3_VizWiz" / "predictions" / "VizWiz.jsonl")
    assert [len(row["captions"]) for row in answers] == [5] * TEST
    earlier = [report["accuracy_matrix"][2][i] - report["accuracy_matrix"][i][i] for i in range(2)]
    assert report["bwt_earlier"] == pytest.approx(sum(earlier) / 2)
    assert report["bwt"] == pytest.approx(sum(earlier) / 3)
    assert "BWT (T-1)" in (run / "report.md").read_text()
    # a quarter of eight samples in other styles, of IconQA's options numbered from 0, too; of captions none
    styles = {task: lines_of(run / f"{i}_{task}" / "asd.jsonl") for i, task in ((1, "ImageNet-R"), (2, "IconQA"))}
    assert {task: [row["native_style"] for row in rows] for task, rows in styles.items()} == {
        "ImageNet-R": ["short_answer"] * 2,
        "IconQA": ["multiple_choice"] * 2,
    }
    assert not (run / "3_VizWiz" / "asd.jsonl").exists()


def run_shipped(recipe: str, data: Path, run: Path, environment) -> dict:
    overrides = {**SIZES, "asd_ratio": 0.25, "dataset_dir": data, "output_dir": run}
    given = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in overrides.items()]
    train(environment, ROOT / "recipes" / recipe, *given)
    return read(run / "report.json")


@pytest.mark.slow
def test_the_shipped_recipe_of_ucit(ucit, warm, tmp_path):
    report = run_shipped("ucit_sefe.yaml", ucit, tmp_path / "run", warm)
    assert report["tasks"] == list(UCIT_QUESTIONS)
    last = read(tmp_path / "run" / "6_Flickr30k" / "scores.json")
    for task in ("ImageNet-R", "ArxivQA", "IconQA", "CLEVR-Math"):
        assert last[task]["official"] is not None
    assert report["official"]["bwt_earlier"] is None or shutil.which("java")


@pytest.mark.slow
def test_the_shipped_recipe_of_dcl_from_parquet(warm, tmp_path):
    for task in DCL_QUESTIONS:
        write_shards(tmp_path / "in", task)
    assert main(["prepare", "dcl", str(tmp_path / "in"), "--out", str(tmp_path / "dcl")]) == 0
    report = run_shipped("dcl_reglora.yaml", tmp_path / "dcl", tmp_path / "run", warm)
    assert report["tasks"] == list(DCL_QUESTIONS)
    states = [read(tmp_path / "run" / f"{i}_{task}" / "trainer_state.json") for i, task in enumerate(DCL_QUESTIONS, 1)]
    # six samples in batches of four, and as many epochs as MCITlib has for each
    assert [state["global_step"] for state in states] == [2, 6, 2, 4, 2]
    assert report["official"]["mfn"] is not None
    assert report["official"]["bwt_earlier"] == pytest.approx(report["official"]["bwt"] * 5 / 4)
