"""The plugin's recipe keys say the same as the method they configure."""

from dataclasses import fields
from typing import get_args

from sefe_plugin.options import CHOICES, FILLED_IN_KEYS, PLUGIN_KEYS, SEQUENCE_KEYS, MethodArguments, option_faults
from sefe_plugin.reglora.config import REDUCTIONS, RegLoraConfig
from sefe_plugin.reglora.model import OFFLOADS


def test_choices_are_those_of_reglora():
    assert CHOICES["reglora_reduction"] == REDUCTIONS
    assert CHOICES["reglora_offload"] == OFFLOADS
    types = {field.name: field.type for field in fields(MethodArguments)}
    assert {key: get_args(types[key]) for key in CHOICES} == CHOICES


def test_defaults_are_those_of_reglora():
    keys, config = MethodArguments(), RegLoraConfig()
    assert (keys.reglora_weight, keys.reglora_key_ratio) == (config.reg_weight, config.key_ratio) == (2500.0, 0.02)
    assert keys.reglora_reduction == config.reduction


def test_every_key_is_known_and_the_defaults_are_sound():
    assert set(SEQUENCE_KEYS) | set(FILLED_IN_KEYS) <= set(PLUGIN_KEYS)
    assert option_faults(vars(MethodArguments())) == []
