"""Secrets are refused in a sequence, and no message shows one."""

import pytest

from sefe_plugin.hosts.llamafactory.keys import _SECRETS, host_keys
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.keys import key_faults
from sefe_plugin.recipe.load import load_recipe
from sefe_plugin.recipe.secrets import is_secret, secret_errors


SENTINEL = "sentinel-0123456789"


def test_every_key_of_the_host_that_holds_a_secret_has_its_advice():
    assert {key for key in host_keys().keys if is_secret(key)} == set(_SECRETS)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"hf_hub_token": SENTINEL}, "hf_hub_token"),
        ({"vllm_config": {"hf_token": SENTINEL}}, "vllm_config.hf_token"),
        ({"vllm_config": {"inner": [{"api_key": SENTINEL}]}}, "vllm_config.inner.api_key"),
        ({"swanlab_lark_secret": [SENTINEL]}, "swanlab_lark_secret"),
    ],
)
def test_secrets_are_found_at_every_depth(arguments, path):
    (error,) = secret_errors(arguments, host_keys().secrets)
    assert error.startswith(f"`{path}` is a secret")
    assert SENTINEL not in error


def test_other_keys_are_no_secrets():
    keys = {"max_new_tokens": 5, "skip_special_tokens": True, "hub_token": None, "tokenized_path": "x", "seed": 1}
    assert secret_errors(keys, {}) == []


@pytest.mark.parametrize("key", ["hf_hub_token", "hf_hubb_token", "my_password", "swanlab_api_key"])
@pytest.mark.parametrize("value", [SENTINEL, [SENTINEL], {"a": SENTINEL}])
def test_a_sequence_with_a_secret_is_refused_without_showing_it(tmp_path, key, value):
    task = {"name": "a", "dataset": "a", "test_dataset": "a", "scorer": "short_answer", key: value}
    recipe = {"model_name_or_path": "x", "template": "llava", "output_dir": str(tmp_path / "run"), key: value}
    with pytest.raises(RecipeError) as error:
        load_recipe({**recipe, "tasks": [task]}, "recipe.yaml", host_keys(), check_data=False)
    assert len([line for line in error.value.errors if f"`{key}" in line]) >= 2  # at the top and in the task
    assert SENTINEL not in str(error.value)
    assert not any(SENTINEL in line for line in key_faults({key: value}, host_keys()).values())
