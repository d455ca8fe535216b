"""How a sequence carries tasks on: merged or stacked, on a 16-bit and a 4-bit base, under ZeRO and over nodes."""

import json
import socket
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration
from transformers.integrations.deepspeed import is_deepspeed_available

from sefe_plugin.benchmarks.minicoin import BASE


needs_deepspeed = pytest.mark.skipif(not is_deepspeed_available(), reason="needs deepspeed")
TASKS = ["1_ScienceQA", "2_TextVQA", "3_ImageNet"]
TEXT = torch.arange(10, 60)[None]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TEXT).logits


def base(folder: Path | str = BASE):
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def run(train, recipe: Path, folder: Path, *overrides: str, **environment: str) -> dict:
    """Runs the recipe and returns its report."""
    result = train(recipe, f"output_dir={folder}", *overrides, **environment)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-30000:]
    return json.loads((folder / "report.json").read_text())


def updates(folder: Path) -> dict[str, torch.Tensor]:
    """The change that the adapter in `folder` makes to each matrix."""
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    return {
        key: weights[key.replace("lora_A", "lora_B")] @ value * (config["lora_alpha"] / config["r"])
        for key, value in weights.items()
        if "lora_A" in key
    }


@pytest.fixture(scope="module")
def merged(train, recipe, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("merge") / "run"
    return folder, run(train, recipe, folder)


def test_stacking_is_merging_in_full_precision(train, recipe, merged, tmp_path):
    folder, report = merged
    stacked_report = run(train, recipe, tmp_path / "run", "carry=stack")
    assert not list((tmp_path / "run").rglob("merged"))
    one, two = (json.loads((tmp_path / "run" / f / "stacked/adapter_config.json").read_text())["r"] for f in TASKS[:2])
    assert (one, two) == (4, 8)
    expected = logits(base(folder / TASKS[1] / "merged"))
    ours = logits(PeftModel.from_pretrained(base(), tmp_path / "run" / TASKS[1] / "stacked"))
    untouched = logits(base())
    # rounding differs by the order of sums; Adam's division by small gradients amplifies it over the task's steps
    assert (ours - expected).abs().max() < 2e-2 * (expected - untouched).abs().max()
    for ours, theirs in zip(stacked_report["accuracy_matrix"], report["accuracy_matrix"], strict=True):
        assert all(a == b or abs(a - b) <= 100 / 16 for a, b in zip(ours, theirs, strict=True))  # one answer may flip


def test_four_bit_sequence_of_three_tasks_leaves_its_base_alone(train, small_recipe, tmp_path):
    recipe = small_recipe(tmp_path, 3)
    folder = tmp_path / "run"
    report = run(train, recipe, folder, "carry=stack", "quantization_bit=4")
    assert report["tasks"] == ["ScienceQA", "TextVQA", "ImageNet"]
    for number, name in enumerate(TASKS, start=1):
        keys = yaml.safe_load((folder / name / "task.yaml").read_text())
        assert (keys["model_name_or_path"], keys["quantization_bit"]) == (str(BASE), 4)
        assert json.loads((folder / name / "stacked/adapter_config.json").read_text())["r"] == 4 * number
    first, last = (load_file(folder / name / "stacked/adapter_model.safetensors") for name in (TASKS[0], TASKS[2]))
    key = next(key for key in first if key.endswith("lora_A.weight"))
    assert torch.equal(last[key][:4], first[key])
    assert not list(folder.rglob("merged"))


def test_four_bit_merge_is_into_the_base_of_full_precision(train, recipe, tmp_path):
    folder = tmp_path / "run"
    run(train, recipe, folder, "quantization_bit=4")
    start = BASE
    for name in TASKS[:2]:
        assert yaml.safe_load((folder / name / "task.yaml").read_text())["model_name_or_path"] == str(start)
        start_model = base(start)
        expected = PeftModel.from_pretrained(start_model, folder / name).merge_and_unload()
        ours = base(folder / name / "merged")
        for (key, value), (_, theirs) in zip(ours.state_dict().items(), expected.state_dict().items(), strict=True):
            assert torch.allclose(value, theirs, atol=1e-6), key
        assert not (folder / name / ".merged.tmp").exists()
        start = folder / name / "merged"


@pytest.mark.parametrize("carry", ["merge", "stack"])
def test_sequence_of_a_16_bit_base_whose_projector_is_trained(train, recipe, tmp_path, carry):
    """The projector is trained in fp32 beside 16-bit weights, and the model must still answer."""
    folder = tmp_path / "base"
    model = LlavaForConditionalGeneration.from_pretrained(BASE, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for file in BASE.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    keys = [
        f"model_name_or_path={folder}",
        "bf16=true",
        "use_cpu=true",
        "additional_target=multi_modal_projector",
        f"carry={carry}",
    ]
    run(train, recipe, tmp_path / "run", *keys, "projector_learning_rate=1e-3", "max_steps=2")
    weights = load_file(tmp_path / "run" / TASKS[0] / "adapter_model.safetensors")
    before = model.state_dict()
    moved = [
        (value.float() - before[name].float()).abs().max()
        for key, value in weights.items()
        if "lora" not in key and (name := key.removeprefix("base_model.model."))
    ]
    assert len(moved) == 4
    assert min(moved) > 1e-4


def test_incomplete_base_is_refused(train, recipe, tmp_path):
    from safetensors.torch import save_file

    weights = load_file(BASE / "model.safetensors")
    removed = next(key for key in weights if "vision_tower" in key and key.endswith("q_proj.weight"))
    del weights[removed]
    folder = tmp_path / "base"
    folder.mkdir()
    for file in BASE.iterdir():
        if file.is_file() and file.name != "model.safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = train(recipe, f"output_dir={tmp_path / 'run'}", f"model_name_or_path={folder}")
    assert result.returncode == 1
    assert "lacks 1 weights of the model, such as model.vision_tower" in result.stderr
    assert not list((tmp_path / "run").rglob("adapter_model.safetensors"))


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("carry", ["merge", "stack"])
def test_zero_sequence_is_that_of_one_process(train, recipe, merged, tmp_path, stage, carry):
    config = Path(__file__).parents[1] / "deepspeed" / f"zero{stage}.json"
    report = run(
        train,
        recipe,
        tmp_path / "run",
        f"deepspeed={config}",
        f"carry={carry}",
        "gradient_accumulation_steps=1",
        FORCE_TORCHRUN="1",
        NPROC_PER_NODE="2",
        OMP_NUM_THREADS="1",
    )
    ours, theirs = (load_file(f / TASKS[0] / "adapter_model.safetensors") for f in (tmp_path / "run", merged[0]))
    assert ours.keys() == theirs.keys()
    if stage == 2:  # ZeRO-3 draws other initial values, so only what it carries can be checked
        for key, value in theirs.items():
            assert (value - ours[key]).abs().max() <= 2e-3 * value.abs().max(), key
        for i, row in enumerate(merged[1]["accuracy_matrix"]):
            for j in range(i + 1):
                assert abs(report["accuracy_matrix"][i][j] - row[j]) <= 200 / 16  # two answers may flip
    if carry == "merge":
        expected = PeftModel.from_pretrained(base(), tmp_path / "run" / TASKS[0]).merge_and_unload()
        assert torch.allclose(logits(expected), logits(base(tmp_path / "run" / TASKS[0] / "merged")), atol=1e-4)
    else:
        first, second, stacked = (updates(tmp_path / "run" / f) for f in (*TASKS[:2], f"{TASKS[1]}/stacked"))
        for key, value in stacked.items():
            assert torch.allclose(value, first[key] + second[key], atol=1e-6), key


@pytest.mark.slow
def test_two_nodes_train_one_sequence(environment, recipe, merged, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        f"{sysconfig.get_paths()['scripts']}/llamafactory-cli",
        "train",
        str(recipe),
        f"output_dir={tmp_path / 'run'}",
        "gradient_accumulation_steps=1",
    ]
    shared = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NPROC_PER_NODE": "1"}
    nodes = []
    for rank in (1, 0):
        variables = environment | shared | {"NODE_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        with (tmp_path / f"log{rank}").open("w") as log:
            nodes.append(subprocess.Popen(command, env=variables, stdout=log, stderr=log))
    assert [node.wait(900) for node in nodes] == [0, 0], (tmp_path / "log0").read_text()[-3000:]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for i, row in enumerate(merged[1]["accuracy_matrix"]):
        for j in range(i + 1):
            assert abs(report["accuracy_matrix"][i][j] - row[j]) <= 100 / 16  # one answer may flip
