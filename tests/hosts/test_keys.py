"""The keys read from the host's source are exactly those its parser accepts."""

import dataclasses
import enum
import typing

import pytest

from sefe_plugin.hosts.llamafactory.keys import host_keys


@pytest.fixture(scope="module")
def host_classes():
    from llamafactory.hparams import data_args, finetuning_args, generating_args, model_args, training_args

    return (
        model_args.ModelArguments,
        data_args.DataArguments,
        training_args.TrainingArguments,
        finetuning_args.FinetuningArguments,
        generating_args.GeneratingArguments,
    )


@pytest.fixture(scope="module")
def host_fields(host_classes):
    return {field.name: field for cls in host_classes for field in dataclasses.fields(cls) if field.init}


def test_same_names_as_the_parser(host_fields):
    from sefe_plugin.recipe.options import plugin_keys

    assert set(host_keys().keys) == set(host_fields) - set(plugin_keys())


def test_types_of_well_known_keys():
    keys = host_keys().keys
    assert set(keys["lora_rank"].types) == {"int"}
    assert set(keys["bf16"].types) == {"bool"}
    assert "float" in keys["num_train_epochs"].types
    assert ("literal", "lora") in keys["finetuning_type"].types
    assert keys["model_name_or_path"].section == "model"
    assert keys["cutoff_len"].section == "dataset"
    assert keys["output_dir"].section == "output"


def test_defaults_fit_their_own_types(host_fields):
    """The type rules never refuse what the host itself sets."""
    from sefe_plugin.recipe.keys import _fits

    for name, key in host_keys().keys.items():
        default = host_fields[name].default
        if key.types is not None and default is not dataclasses.MISSING and default is not None:
            assert _fits(default.value if hasattr(default, "value") else default, key.types), name


def test_the_host_reads_no_number_out_of_a_text(host_classes, tmp_path):
    """So a number in quotes is refused: it would break the run at the first sum with it."""
    needed = {"model_name_or_path": "owner/name", "output_dir": str(tmp_path)}
    asked = 0
    for cls in host_classes:
        names = {field.name for field in dataclasses.fields(cls) if field.init}
        needs = {name: value for name, value in needed.items() if name in names}
        for name in names & host_keys().keys.keys():
            types = host_keys().keys[name].types
            if "str" not in types and {"int", "float"} & {*types}:
                try:
                    value = getattr(cls(**needs | {name: "2"}), name)
                except (TypeError, ValueError, AssertionError, ImportError):
                    continue
                asked += 1
                assert isinstance(value, str), name
    assert asked > 80


def test_words_of_an_enumeration_are_those_of_the_host(host_classes):
    found = 0
    for cls in host_classes:
        hints = typing.get_type_hints(cls)
        for name in hints.keys() & host_keys().keys.keys():
            members = typing.get_args(hints[name]) or (hints[name],)
            if enums := [member for member in members if isinstance(member, type) and issubclass(member, enum.Enum)]:
                found += 1
                literals = {item[1] for item in host_keys().keys[name].types if isinstance(item, tuple)}
                assert literals == {word.value for word in enums[0]}, name
                if enums[0].__module__.startswith("transformers"):
                    with pytest.raises(ValueError):
                        enums[0]("no such word")
    assert found >= 10


@pytest.mark.parametrize("key", ["fsdp", "resume_from_checkpoint"])
def test_switches_take_true_and_false_beside_their_annotation(key):
    assert "bool" in host_keys().keys[key].types


def test_mappings_as_text_are_json_for_the_host(host_classes):
    """Any other text stays text in the host, which needs a mapping later; but some keys may name a file."""
    for name, key in host_keys().keys.items():
        if "dict" in key.types:
            assert ("json" in key.types) != (name in ("accelerator_config", "deepspeed", "fsdp_config")) or (
                name == "liger_kernel_config"
            ), name
    training = host_classes[2]
    for text, made in (('{"a": 1}', {"a": 1}), ("a", "a")):
        assert training(output_dir="x", gradient_checkpointing_kwargs=text).gradient_checkpointing_kwargs == made
