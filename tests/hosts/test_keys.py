"""The keys read from the host's source are exactly those its parser accepts."""

import dataclasses

import pytest

from sefe_plugin.hosts.llamafactory.keys import host_keys


@pytest.fixture(scope="module")
def host_fields():
    from llamafactory.hparams import data_args, finetuning_args, generating_args, model_args, training_args

    classes = (
        model_args.ModelArguments,
        data_args.DataArguments,
        training_args.TrainingArguments,
        finetuning_args.FinetuningArguments,
        generating_args.GeneratingArguments,
    )
    return {field.name: field for cls in classes for field in dataclasses.fields(cls) if field.init}


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
    from sefe_plugin.recipe.keys import _matches

    for name, key in host_keys().keys.items():
        default = host_fields[name].default
        if key.types is not None and default is not dataclasses.MISSING and default is not None:
            assert _matches(default.value if hasattr(default, "value") else default, key.types), name
