"""`sefe verify` finds every kind of damage in a run folder, and none in a whole one."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from sefe_plugin.cli import main
from sefe_plugin.files import read_json, write_json
from sefe_plugin.hosts.llamafactory.verify import check_models
from sefe_plugin.run.verify import verify_run


def change_json(file: Path, change) -> None:
    content = read_json(file)
    change(content)
    write_json(file, content)


def change_tensor(file: Path, part: str) -> None:
    """Add a little to the first tensor whose name holds `part`."""
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if part in name)
    tensors[name] = tensors[name] + 0.01
    save_file(tensors, file, metadata={"format": "pt"})


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def answer_otherwise(file: Path) -> None:
    """Change one answer to the right one, or the right one to another."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["prediction"] = "?" if rows[0]["prediction"] == rows[0]["answer"] else rows[0]["answer"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


#: Damage -> what the line of its check begins with. The models need not be loaded for these.
DAMAGES = {
    "key elements": (lambda run: flip(run / "1_ScienceQA/key_elements.safetensors"), "left behind: "),
    "adapter cut short": (lambda run: cut(run / "2_TextVQA/adapter_model.safetensors"), "weights: adapter_model"),
    "another adapter": (
        lambda run: shutil.copy(run / "2_TextVQA/adapter_model.safetensors", run / "1_ScienceQA"),
        "left behind: ",
    ),
    "predictions": (
        lambda run: answer_otherwise(run / "2_TextVQA/predictions/ScienceQA.jsonl"),
        "scores of ScienceQA",
    ),
    "scores": (
        lambda run: change_json(run / "1_ScienceQA/scores.json", lambda s: s["ScienceQA"].update(accuracy=99.0)),
        "scores of ScienceQA",
    ),
    "missing predictions": (lambda run: shutil.rmtree(run / "1_ScienceQA/predictions"), "scores: "),
    "report": (lambda run: change_json(run / "report.json", lambda r: r.update(mfn=99.0)), "differs from the scores"),
    "data": (
        lambda run: change_json(run.parent / "data/TextVQA/train.json", lambda rows: rows.pop()),
        "input changed: minicoin_textvqa_train",
    ),
    "task": (lambda run: (run / "1_ScienceQA/task.yaml").unlink(), "task.yaml is missing"),
}


@pytest.fixture(scope="module")
def whole(finished):
    """The run folder of two tasks."""
    return finished[0]


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def failures(run: Path, check=lambda keys, folder: iter(())) -> list[str]:
    return [finding.what for finding in verify_run(run, check) if finding.state is False]


def test_a_whole_run_passes_every_check(whole, capsys):
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()}
    assert main(["verify", str(whole)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{whole}: 13 checks passed."
    assert all(line.startswith("ok  ") for line in lines[:-1])
    assert sum("merged: the same when merged again" in line for line in lines) == 2
    assert sum("loads in plain PEFT, 35 matrices" in line for line in lines) == 2
    assert any(line.startswith("ok   1_") and "scores: 1 test set with " in line for line in lines)
    assert {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(copy, name):
    damage, said = DAMAGES[name]
    if name == "data":
        keys = read_json(copy / "2_TextVQA/inputs.json")
        source = Path(keys["minicoin_textvqa_train"]["file"]).parents[1]
        shutil.copytree(source, copy.parent / "data")
        for folder in ("1_ScienceQA", "2_TextVQA"):
            task = copy / folder / "task.yaml"
            task.write_text(task.read_text().replace(str(source), str(copy.parent / "data")))
    assert failures(copy) == []
    damage(copy)
    found = failures(copy)
    assert found
    assert found[0].startswith(said)


@pytest.mark.parametrize(
    ("part", "said"),
    [("q_proj", "off what base and adapter make"), ("norm", "which is not adapted")],
)
def test_a_merged_model_that_is_not_base_and_adapter_is_found(copy, part, said):
    change_tensor(copy / "2_TextVQA/merged/model.safetensors", part)
    (found,) = failures(copy, check_models)
    assert found.startswith("merged: ")
    assert said in found


def test_an_adapter_that_peft_does_not_fill_is_found(copy):
    file = copy / "2_TextVQA/adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, file, metadata={"format": "pt"})
    assert any("does not load in plain PEFT" in what for what in failures(copy, check_models))


def test_a_base_that_is_gone_cannot_be_checked_and_is_no_failure(copy):
    shutil.rmtree(copy / "1_ScienceQA/merged")
    task = copy / "2_TextVQA/task.yaml"
    lines = [f"model_name_or_path: {copy}/none" if "model_name" in line else line for line in task.open()]
    task.write_text("\n".join(line.rstrip("\n") for line in lines))
    findings = list(verify_run(copy, check_models))
    assert [finding.what[:34] for finding in findings if finding.state is None] == [
        "merged: not there, and no record s",
        "adapter and merged model: not chec",
    ]
    assert not [finding for finding in findings if finding.state is False]


def test_stacked_adapters_are_stacked_again(train_here, small_recipe, tmp_path):
    train_here(small_recipe(tmp_path, 2, carry="stack", num_train_epochs=1))
    run = tmp_path / "run"
    said = [finding.what for finding in verify_run(run, check_models)]
    assert said.count("stacked: the same when the adapters are stacked again") == 2
    assert failures(run, check_models) == []
    change_tensor(run / "2_TextVQA/stacked/adapter_model.safetensors", "lora_B")
    assert failures(run) == ["stacked: not the same when the adapters are stacked again"]


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err


def test_failures_make_the_exit_status(copy, capsys, monkeypatch):
    monkeypatch.setattr("sefe_plugin.hosts.llamafactory.verify.check_models", lambda keys, folder: iter(()))
    (copy / "report.json").write_text("{}")
    assert main(["verify", str(copy)]) == 1
    said = capsys.readouterr()
    assert "FAIL report.json" in said.out
    assert said.err.strip() == f"{copy}: 1 of 9 checks failed."
