"""Row 0, unseen tasks, retention sets and tasks trained alone, in a real short sequence through LLaMA-Factory."""

import os
from pathlib import Path

import pytest
import yaml

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.data import TASKS
from sefe_plugin.benchmarks.minicoin.general import GENERAL, add_general
from sefe_plugin.cli import main
from sefe_plugin.files import read_json
from sefe_plugin.hosts.llamafactory.watch import RUNNER_PID
from sefe_plugin.json_lines import read_json_lines
from sefe_plugin.run.view import View


NAMES = [task.name for task in TASKS[:2]]
SHORT = {"cl_method": "lora", "asd_ratio": 0.0, "num_train_epochs": 1, "max_samples": 16}


@pytest.fixture
def sequence(train_here, small_recipe, tmp_path, monkeypatch):
    """Runs the two tasks with other keys, as a sequence does; returns the report and the run folder."""
    monkeypatch.setenv(RUNNER_PID, str(os.getpid()))  # its own runs may do what a run by hand may not

    def run(name: str, **changes) -> tuple[dict, Path]:
        recipe = small_recipe(tmp_path, 2, **SHORT, output_dir=str(tmp_path / name), **changes)
        add_general(tmp_path / "data", 1000, 12)
        return train_here(recipe), tmp_path / name

    return run


def alone_answers(rows: list[dict], dataset: str, keys: dict) -> list[str]:
    """The answers of the base to the records of predictions: loaded by Transformers alone, one question at a time."""
    import torch
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import HfArgumentParser, LlavaForConditionalGeneration

    from sefe_plugin.evaluation.results import without_prediction
    from sefe_plugin.hosts.llamafactory.questions import QuestionReader

    parser = HfArgumentParser((ModelArguments, DataArguments))
    reader = QuestionReader(*parser.parse_dict(keys, allow_extra_keys=True))
    model, collate, answers = LlavaForConditionalGeneration.from_pretrained(BASE).eval(), reader.collate(), []
    for question in reader.questions(dataset, [without_prediction(row) for row in rows]):
        batch = {key: value for key, value in collate([question]).items() if key != "labels"}
        with torch.no_grad():
            tokens = model.generate(**batch, max_new_tokens=keys["max_new_tokens"], do_sample=False)
        text = reader.tokenizer.decode(tokens[0][batch["input_ids"].shape[1] :], skip_special_tokens=True)
        answers.append(text.strip())
    return answers


def test_a_sequence_with_all_rows(sequence, train_here, capsys):
    reference, alone = sequence("alone", carry="none")
    assert reference["trained_alone"]
    assert "Each task was trained alone" in (alone / "report.md").read_text()
    keys = [yaml.safe_load((alone / f"{i}_{name}/task.yaml").read_text()) for i, name in enumerate(NAMES, 1)]
    assert [one["model_name_or_path"] for one in keys] == [str(BASE)] * 2
    assert not any("adapter_name_or_path" in one or "stacked_adapter" in one or one["merge_adapter"] for one in keys)

    retention = [{"name": "general", "dataset": GENERAL, "scorer": "short_answer"}]
    added = {"score_unseen": True, "retention_sets": retention, "single_task_run": str(alone)}
    report, run = sequence("run", **added)
    assert [(verb, file.parent.name, file.name) for verb, file in train_here.commands] == [
        ("train", "0_base", "score.yaml"),
        ("train", "1_ScienceQA", "task.yaml"),
        ("train", "2_TextVQA", "task.yaml"),
    ]
    assert not list((run / "0_base").glob("*.safetensors"))
    assert set(read_json(run / "0_base/scores.json")) == {*NAMES, "general"}
    assert None not in [*report["accuracy_matrix"][0], *report["zero_shot"]["accuracy"]]
    # every first task starts from the same base, on the same data
    assert report["forward_transfer"]["single_task"][0] == report["accuracy_matrix"][0][0]
    assert report["forward_transfer"]["learning"][0] == 0
    assert report["forward_transfer"]["unseen"] == [
        report["accuracy_matrix"][0][1] - report["zero_shot"]["accuracy"][1]
    ]
    assert len(report["retention"]["accuracy_matrix"]) == 3
    assert report["retention"]["accuracy_matrix"][0][0] >= 75  # what the base was pre-trained on
    assert {"0_base", "1_ScienceQA", "2_TextVQA"} <= {path.name for path in run.iterdir()}

    asked = yaml.safe_load((run / "0_base/score.yaml").read_text())
    for name, dataset in (("general", GENERAL), ("TextVQA", "minicoin_textvqa_test")):
        rows = read_json_lines(run / f"0_base/predictions/{name}.jsonl")
        assert [row["prediction"] for row in rows] == alone_answers(rows, dataset, asked)

    capsys.readouterr()
    assert main(["verify", str(run)]) == 0
    said = capsys.readouterr().out
    assert "ok   0_base scores: 3 test sets with 44 predictions scored again" in said
    before = (run / "report.json").read_bytes()
    assert main(["score", str(run)]) == 0
    assert (run / "report.json").read_bytes() == before


@pytest.mark.parametrize("changes", [{"cl_method": "full"}, {"cl_method": "lora", "quantization_bit": 4}])
def test_the_base_is_scored_whatever_is_trained(train_here, small_recipe, tmp_path, monkeypatch, changes):
    """Without an adapter, and before anything is trained: full fine-tuning, and a base in 4 bit."""
    from sefe_plugin.hosts.llamafactory.host import LlamaFactory, read_recipe
    from sefe_plugin.hosts.llamafactory.keys import host_keys
    from sefe_plugin.recipe.load import load_recipe
    from sefe_plugin.run.folder import RunFolder
    from sefe_plugin.run.job import BaseJob

    monkeypatch.setenv(RUNNER_PID, str(os.getpid()))
    built = []
    monkeypatch.setattr("llamafactory.model.adapter.get_peft_model", lambda *args, **kwargs: built.append(args))
    recipe = small_recipe(tmp_path, 1, **{**SHORT, **changes}, score_unseen=True)
    loaded = load_recipe(read_recipe(recipe, []), str(recipe), host_keys())
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    train_here.commands = []
    job = BaseJob(LlamaFactory(), folder, loaded.arguments, loaded.tasks, View(print))
    job.run()
    assert job.is_whole()
    assert not built
    rows = read_json_lines(folder.base_folder / "predictions/ScienceQA.jsonl")
    asked = yaml.safe_load((folder.base_folder / "score.yaml").read_text())
    assert len(rows) == 16
    if "quantization_bit" not in changes:
        assert [row["prediction"] for row in rows] == alone_answers(rows, "minicoin_scienceqa_test", asked)
