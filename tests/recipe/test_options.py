"""The plugin's recipe keys say the same as the method they configure."""

from dataclasses import fields
from typing import get_args

import pytest

from sefe_plugin import options
from sefe_plugin.methods.reglora.config import REDUCTIONS, SELECTIONS, RegLoraConfig
from sefe_plugin.methods.reglora.model import OFFLOADS
from sefe_plugin.recipe.options import (
    CHOICES,
    FILLED_IN_KEYS,
    PLUGIN_KEYS,
    SEQUENCE_KEYS,
    MethodArguments,
    option_faults,
)


def test_choices_are_those_of_reglora():
    assert {key: choices for key, choices in CHOICES.items() if key.startswith("reglora_")} == {
        "reglora_reduction": REDUCTIONS,
        "reglora_selection": SELECTIONS,
        "reglora_offload": OFFLOADS,
    }
    types = {field.name: field.type for field in fields(MethodArguments)}
    assert {key: get_args(types[key]) for key in CHOICES} == CHOICES


def test_defaults_are_those_of_reglora():
    keys, config = MethodArguments(), RegLoraConfig()
    assert (keys.reglora_weight, keys.reglora_key_ratio) == (config.reglora_weight, config.reglora_key_ratio) == (2500.0, 0.02)
    assert (keys.reglora_reduction, keys.reglora_selection) == (config.reglora_reduction, config.reglora_selection)


def test_every_key_is_known_and_the_defaults_are_sound():
    assert set(SEQUENCE_KEYS) | set(FILLED_IN_KEYS) <= set(PLUGIN_KEYS)
    assert option_faults(vars(MethodArguments())) == []


def test_what_has_a_default_cannot_be_left_empty():
    keys = {"reglora_weight": None, "reglora_key_ratio": None, "asd_ratio": None, "projector_learning_rate": None}
    assert [fault.split()[0] for fault in option_faults(keys)] == ["`reglora_weight`", "`reglora_key_ratio`"]


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
    faults = option_faults(keys)
    assert len(faults) == len(expected)
    assert all(part in fault for part, fault in zip(expected, faults, strict=True))


def test_stacked_adapter_must_be_there(tmp_path):
    (fault,) = option_faults({"stacked_adapter": str(tmp_path)})
    assert "holds no adapter" in fault
    (tmp_path / "adapter_config.json").write_text("{}")
    assert option_faults({"stacked_adapter": str(tmp_path)}) == []


def test_vllm_is_asked_for_only_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    (fault,) = option_faults({"scoring_backend": "vllm"})
    assert "needs vLLM, which is not installed: pip install 'sefe-plugin[vllm]'" in fault
    monkeypatch.setattr(options, "find_spec", lambda name: name)
    assert option_faults({"scoring_backend": "vllm"}) == []
    (fault,) = option_faults({"scoring_backend": "vlm"})
    assert "must be one of ('generate', 'vllm'); got 'vlm'" in fault
