"""The plugin's recipe keys say the same as the method they configure."""

import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from sefe_plugin.methods.reglora.config import RegLoraConfig
from sefe_plugin.methods.reglora.model import OFFLOADS
from sefe_plugin.options import choices_of, option_types
from sefe_plugin.recipe import combinations
from sefe_plugin.recipe.combinations import key_value_errors
from sefe_plugin.recipe.options import SEQUENCE_KEYS, all_keys_of_scope, plugin_keys


def test_choices_are_those_of_reglora():
    found = {name: choices_of(key.type) for name, key in plugin_keys().items() if key.method == "reglora"}
    assert {name: choices for name, choices in found.items() if choices} == {
        "reglora_reduction": ("official_mean", "per_task_sum"),
        "reglora_selection": ("top", "random"),
        "reglora_offload": OFFLOADS,
    }
    config = option_types(RegLoraConfig)
    assert {name: plugin_keys()[name].type for name in config} == config


def test_defaults_are_those_of_reglora():
    keys, config = {name: key.option.default for name, key in plugin_keys().items()}, RegLoraConfig()
    assert (
        (keys["reglora_weight"], keys["reglora_key_ratio"])
        == (config.reglora_weight, config.reglora_key_ratio)
        == (2500.0, 0.02)
    )
    assert (keys["reglora_reduction"], keys["reglora_selection"]) == (
        config.reglora_reduction,
        config.reglora_selection,
    )


def test_every_key_is_known_and_the_defaults_are_sound():
    assert {*SEQUENCE_KEYS, *all_keys_of_scope("filled_in")} <= plugin_keys().keys()
    assert all_keys_of_scope("filled_in")
    assert key_value_errors({name: key.option.default for name, key in plugin_keys().items()}) == []


def test_every_option_of_a_method_begins_with_its_name():
    owned = {name: key for name, key in plugin_keys().items() if key.method}
    assert owned
    assert all(name.startswith(f"{key.method}_") for name, key in owned.items())


def test_what_has_a_default_cannot_be_left_empty():
    keys = {"reglora_weight": None, "reglora_key_ratio": None, "asd_ratio": None, "projector_learning_rate": None}
    assert [error.split()[0] for error in key_value_errors(keys)] == ["`reglora_weight`", "`reglora_key_ratio`"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"projector_learning_rate": 0}, ["must be a number above 0"]),
        ({"additional_target": None}, ["add its module's name"]),
        ({"quantization_bit": 4}, ["a quantized projector cannot be trained"]),
        ({"loraplus_lr_ratio": 16.0, "use_muon": True}, ["`loraplus_lr_ratio` cannot", "`use_muon` cannot"]),
    ],
)
def test_what_a_projector_of_its_own_rate_needs(changes, expected):
    keys = {"projector_learning_rate": 2e-5, "additional_target": "multi_modal_projector", **changes}
    errors = key_value_errors(keys)
    assert len(errors) == len(expected)
    assert all(part in error for part, error in zip(expected, errors, strict=True))


def test_stacked_adapter_must_be_there(tmp_path):
    (error,) = key_value_errors({"stacked_adapter": str(tmp_path)})
    assert "holds no adapter" in error
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    (error,) = key_value_errors({"stacked_adapter": str(tmp_path)})
    assert "adapter_model.safetensors: absent, damaged, or not a safetensors file" in error
    factors = {f"q_proj.lora_{side}.weight": np.ones((2, 2), np.float32) for side in "AB"}
    save_file(factors, tmp_path / "adapter_model.safetensors")
    assert key_value_errors({"stacked_adapter": str(tmp_path)}) == []


def test_vllm_is_asked_for_only_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(combinations, "find_spec", lambda name: None)
    (error,) = key_value_errors({"scoring_backend": "vllm"})
    assert "needs vLLM, which is not installed here" in error
    assert "`scoring_python: PATH`" in error
    assert key_value_errors({"scoring_backend": "vllm", "scoring_python": sys.executable}) == []
    monkeypatch.setattr(combinations, "find_spec", lambda name: name)
    assert key_value_errors({"scoring_backend": "vllm"}) == []
    (error,) = key_value_errors({"scoring_backend": "vlm"})
    assert "must be one of ('generate', 'vllm'); got 'vlm'" in error


@pytest.mark.parametrize("path", ["no/such/python", ".", "data.txt"])
def test_the_interpreter_that_scores_is_a_file_that_can_be_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.txt").touch(mode=0o644)
    (error,) = key_value_errors({"scoring_backend": "vllm", "scoring_python": path})
    assert error.startswith("`scoring_python` must be the path of a Python interpreter")
    assert f"got '{path}', which is no file that can be run" in error
