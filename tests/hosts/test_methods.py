"""Sequences of three tasks with the methods that no other test runs by `llamafactory-cli train`."""

import json
from itertools import pairwise
from pathlib import Path

import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from tiny_qwen_vl import write_tiny_qwen2_5_vl
from transformers import LlavaForConditionalGeneration, Qwen2_5_VLForConditionalGeneration

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.run.verify import verify_run


TASKS = ["1_ScienceQA", "2_TextVQA", "3_ImageNet"]
SHORT = {"max_samples": 16, "max_steps": 2, "max_new_tokens": 2, "gradient_accumulation_steps": 1}


def run(train, recipe: Path) -> Path:
    """Train and score three tasks, and check that the run folder holds what it says; returns it."""
    result = train(recipe)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-30000:]
    folder = recipe.parent / "run"
    report = json.loads((folder / "report.json").read_text())
    assert (report["num_scored_tasks"], len(report["accuracy_matrix"])) == (3, 3)
    findings = list(verify_run(folder, lambda keys, place: iter(())))
    assert all(finding.state for finding in findings), findings
    return folder


def keys_of(folder: Path, task: str) -> dict:
    return yaml.safe_load((folder / task / "task.yaml").read_text())


def test_olora_on_qwen2_5_vl(train, small_recipe, tmp_path):
    write_tiny_qwen2_5_vl(tmp_path / "base")
    keys = {"model_name_or_path": str(tmp_path / "base"), "template": "qwen2_vl", "cutoff_len": 512}
    recipe = small_recipe(tmp_path, 3, cl_method="olora", olora_weight=0.5, **keys, **SHORT)
    folder = run(train, recipe)
    files = [folder / task / "adapter_model.safetensors" for task in TASKS]
    assert keys_of(folder, TASKS[2])["olora_adapters"] == [str(file) for file in files[:2]]
    penalties = []
    for task in TASKS:
        state = json.loads((folder / task / "trainer_state.json").read_text())
        penalties.append([entry["olora_penalty"] for entry in state["log_history"] if "loss" in entry])
    assert not any(penalties[0]) and all(penalties[1]) and min(penalties[2]) > max(penalties[1])
    weights = [load_file(file) for file in files]
    for one, two in pairwise(weights):
        for name in (name for name in one if "lora_A" in name):
            assert abs(torch.cosine_similarity(one[name].flatten(), two[name].flatten(), dim=0)) < 0.5, name
    # the sum of all adapters is one that plain PEFT loads
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "base", dtype=torch.float32)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    merged = PeftModel.from_pretrained(base, folder / TASKS[2] / "stacked").merge_and_unload().state_dict()
    for name, value in before.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" in weights[0]:
            factors = [(one[f"{prefix}.lora_B.weight"], one[f"{prefix}.lora_A.weight"]) for one in weights]
            change = sum(2 * B @ A for B, A in factors)  # alpha is twice the rank
            assert change.any()
            torch.testing.assert_close(merged[name], value + change, rtol=0, atol=1e-6)
        else:
            assert torch.equal(merged[name], value), name


def test_lota_on_llava(train, small_recipe, tmp_path):
    recipe = small_recipe(tmp_path, 3, cl_method="lota", lota_ratio=0.1, learning_rate=5e-4, **SHORT)
    folder = run(train, recipe)
    third = keys_of(folder, TASKS[2])
    assert third["lota_masks"] == [str(folder / task / "mask.safetensors") for task in TASKS[:2]]
    assert third["lota_mask"] == str(folder / TASKS[2] / "calibrate" / "mask.safetensors")
    first, last = (folder / TASKS[2] / place / "task.yaml" for place in ("calibrate", ""))
    assert "only the sequence runs it" in first.read_text().partition("\n")[0]
    assert last.read_text().startswith(f"# One step of a sequence; to run it alone: llamafactory-cli train {last} ")
    weights = []
    for place in (BASE, *(folder / task for task in TASKS)):
        model, loaded = LlavaForConditionalGeneration.from_pretrained(
            place, dtype=torch.float32, output_loading_info=True
        )
        assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        weights.append(dict(model.named_parameters()))
    changed = {}
    for before, after in pairwise(weights):
        moved = {name: before[name] != after[name] for name in before}
        assert any(here.any() for here in moved.values())
        for name, here in moved.items():
            assert not here.any() or "mlp" in name or "attn" in name, name
            assert not (here & changed.get(name, torch.zeros_like(here))).any(), name
            changed[name] = here | changed.get(name, torch.zeros_like(here))
