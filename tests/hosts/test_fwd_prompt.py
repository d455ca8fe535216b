"""Fwd-Prompt in sequences of two tasks by the host: LLaVA, Qwen2.5-VL and Qwen3-VL."""

import os
from functools import partial

import pytest
import torch
import yaml
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_qwen_vl import write_tiny_qwen2_5_vl, write_tiny_qwen3_vl
from transformers import AutoModelForImageTextToText

import sefe_plugin
from sefe_plugin import FwdPromptConfig
from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.hosts.llamafactory.host import read_recipe
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.watch import RUNNER_PID
from sefe_plugin.json_lines import read_json_lines
from sefe_plugin.methods.left_file import read_left
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe
from sefe_plugin.run.inputs import task_inputs
from sefe_plugin.run.verify import verify_run


TASKS = ("1_ScienceQA", "2_TextVQA")
KEYS = {
    "cl_method": "fwd_prompt",
    "fwd_prompt_pool": 4,
    "fwd_prompt_length": 2,
    "fwd_prompt_top": 2,
    "fwd_prompt_energy": 0.9,
    "fwd_prompt_samples": 16,
    "learning_rate": 5e-2,
    "num_train_epochs": 1,
}


@pytest.fixture(autouse=True)
def known():
    """Make the type known to PEFT again, if another test has taken it back."""
    assert sefe_plugin.FwdPromptConfig is FwdPromptConfig


@pytest.mark.parametrize("model", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_a_sequence_of_two_tasks(train_here, small_recipe, tmp_path, model):
    base, keys = tmp_path / "base", {}
    if model == "llava":
        base, keys = BASE, {"fwd_prompt_pretrained": ["minicoin_gqa_train"]}
    else:
        {"qwen2_5_vl": write_tiny_qwen2_5_vl, "qwen3_vl": write_tiny_qwen3_vl}[model](base)
        keys = {"template": {"qwen2_5_vl": "qwen2_vl", "qwen3_vl": "qwen3_vl_nothink"}[model], "max_samples": 16}
        keys |= {"model_name_or_path": str(base), "cutoff_len": 512, "default_system": None, "max_new_tokens": 2}
    report = train_here(small_recipe(tmp_path, 2, **KEYS, **keys))
    assert report["num_scored_tasks"] == 2
    folder = tmp_path / "run"
    findings = list(verify_run(folder, lambda keys, place: iter(())))
    assert all(finding.state for finding in findings), findings
    second = yaml.safe_load((folder / TASKS[1] / "task.yaml").read_text())
    assert second["fwd_prompt_spaces"] == [str(folder / TASKS[0] / "spaces.safetensors")]
    one, two = (load_file(folder / task / "adapter_model.safetensors") for task in TASKS)
    change = {name: (two[name] - one[name]).double() for name in one}
    assert len(change) == 3 and all(value.any() for value in change.values())
    spaces = read_left(folder / TASKS[0] / "spaces.safetensors", "sefe_plugin.spaces")[0]
    moved = next(value for name, value in change.items() if name.endswith("value")).flatten(0, 1)
    assert (moved @ spaces["conflicting"].double().T).norm() < 1e-5 * moved.norm()
    # what was scored is what PEFT loads
    fresh = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(fresh, folder / TASKS[1])
    ids = torch.tensor([[300, 301, 302, 303]])
    with torch.no_grad():
        with loaded.disable_adapter():
            plain = loaded(input_ids=ids).logits
        assert not torch.allclose(loaded(input_ids=ids).logits, plain)
    assert len(read_json_lines(folder / TASKS[1] / "predictions" / "ScienceQA.jsonl")) == 16


def test_the_pretrained_space_is_that_of_the_named_data(train_here, small_recipe, tmp_path):
    """Embeddings of another dataset give another space than the task's own do; no answer is trained on."""
    spaces = {}
    for name, keys in {"own": {}, "other": {"fwd_prompt_pretrained": ["minicoin_grounding_train"]}}.items():
        recipe = small_recipe(tmp_path, 1, **KEYS, **keys, max_samples=16, output_dir=str(tmp_path / name))
        train_here(recipe)
        spaces[name] = read_left(tmp_path / name / TASKS[0] / "spaces.safetensors", "sefe_plugin.spaces")[0]
    own, other = (spaces[name]["pretrained"] for name in ("own", "other"))
    overlap = (own @ other.T).square().sum() / min(len(own), len(other))
    assert 0.1 < overlap < 0.999


def test_the_log_of_a_task_says_how_its_space_grew(train, small_recipe, tmp_path):
    result = train(small_recipe(tmp_path, 1, **KEYS, max_samples=16))
    assert result.returncode == 0, result.stderr[-3000:]
    log = (tmp_path / "run" / TASKS[0] / "log.txt").read_text()
    assert log.count("The core space of this task has ") == 1
    assert f"Left for later tasks: {tmp_path / 'run' / TASKS[0] / 'spaces.safetensors'}" in log


def test_data_of_the_pretrained_space_are_checked_and_noticed_like_a_tasks_own(small_recipe, tmp_path):
    recipe = small_recipe(tmp_path, 1, **KEYS, fwd_prompt_pretrained="minicoin_gqa_train, minicoin_gqa_tarin")
    with pytest.raises(
        RecipeError, match=r"`fwd_prompt_pretrained`: 'minicoin_gqa_tarin' is not declared in .* Did you"
    ):
        load_recipe(read_recipe(recipe, []), "recipe.yaml", host_keys())
    loaded = load_recipe(read_recipe(recipe, ["fwd_prompt_pretrained=minicoin_gqa_train"]), "recipe.yaml", host_keys())
    inputs = task_inputs(loaded.arguments, loaded.tasks[0], {})
    assert inputs["minicoin_gqa_train"]["for"] == "training"


def test_the_retention_sets_give_the_pretrained_space_to_the_first_task_alone(
    train_here, small_recipe, tmp_path, monkeypatch
):
    monkeypatch.setenv(RUNNER_PID, str(os.getpid()))  # the base is scored, which a run by hand may not do
    general = {"name": "general", "dataset": "minicoin_gqa_test", "scorer": "short_answer"}
    train_here(small_recipe(tmp_path, 2, **KEYS, max_samples=16, retention_sets=[general]))
    first, second = (yaml.safe_load((tmp_path / "run" / task / "task.yaml").read_text()) for task in TASKS)
    assert first["fwd_prompt_pretrained"] == ["minicoin_gqa_test"] and "fwd_prompt_pretrained" not in second
    assert "retention_sets" not in first


def test_a_test_set_of_a_task_gives_no_space(small_recipe, tmp_path):
    recipe = small_recipe(tmp_path, 2, **KEYS, fwd_prompt_pretrained="minicoin_textvqa_test")
    with pytest.raises(
        RecipeError, match="`fwd_prompt_pretrained`: 'minicoin_textvqa_test' is the test set of TextVQA"
    ):
        load_recipe(read_recipe(recipe, []), "recipe.yaml", host_keys())


def counted(function, calls, *args, **kwargs):
    calls.append(function)
    return function(*args, **kwargs)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_acts_on_frozen_layers(tiny_llama, monkeypatch, tmp_path, reentrant):
    """The host leaves out layers without trained parameters; the loss and its gradient stay as they are."""
    from llamafactory.model.model_utils.checkpointing import _gradient_checkpointing_enable

    ids = torch.arange(5, 25)[None]
    labels = ids.masked_fill(torch.arange(20) < 12, -100)
    found = []
    for checkpointed in (False, True):
        base = tiny_llama()
        if checkpointed:
            _gradient_checkpointing_enable(base, {"use_reentrant": reentrant})
        torch.manual_seed(0)
        model = get_peft_model(base, FwdPromptConfig(task_type="CAUSAL_LM")).train()
        pool = model.base_model.pool
        calls = []
        pool.checkpoint_layers()
        for layer in base.model.layers if checkpointed else ():
            layer._gradient_checkpointing_func = partial(counted, layer._gradient_checkpointing_func, calls)
        model(input_ids=ids, labels=labels).loss.backward()
        assert len(calls) == len(base.model.layers) * checkpointed
        found.append(pool.values.grad)
    torch.testing.assert_close(*found)
