"""Names of saved weights: the model's own where transformers reads them back, and the host's for the host alone."""

from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from tiny_families import FAMILIES, write_family
from transformers import AutoModelForImageTextToText, MixtralConfig, MixtralForCausalLM

from sefe_plugin.hosts.llamafactory.patches import weight_names
from sefe_plugin.hosts.llamafactory.weight_names import keep_own_names, reads_own_names


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    write_family("LLaVA-1.5", folder)
    return folder


def saved_names(model, folder) -> set[str]:
    model.save_pretrained(folder)
    return set(load_file(folder / "model.safetensors"))


def of_modules(model) -> set[str]:
    return set(model.state_dict())


@pytest.mark.parametrize("asked", ["cl_method", "merge_adapter", "test_sets", None])
def test_models_of_tasks_alone_are_saved_with_their_own_names(llava, tmp_path, asked):
    """Those of a run without the plugin's keys are saved as without it."""
    finetuning = SimpleNamespace(**{"cl_method": None, "merge_adapter": False, "test_sets": None})
    if asked:
        setattr(finetuning, asked, {"cl_method": "lora", "merge_adapter": True, "test_sets": []}[asked])
    (load_model,) = weight_names(lambda *arguments: AutoModelForImageTextToText.from_pretrained(llava))
    model = load_model(None, None, finetuning)
    assert (saved_names(model, tmp_path) == of_modules(model)) == (asked is not None)


def test_tensors_that_loading_changes_are_saved_as_transformers_does(tmp_path):
    """The experts of Mixtral are one tensor in the model, and one for each expert in its files."""
    config = MixtralConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    model = MixtralForCausalLM(config)
    assert not reads_own_names(model)
    before = saved_names(model, tmp_path / "before")
    keep_own_names(model)
    assert saved_names(model, tmp_path / "after") == before != of_modules(model)


def test_a_text_model_is_saved_as_ever(tiny_llama, tmp_path):
    model = tiny_llama()
    keep_own_names(model)
    assert saved_names(model, tmp_path) == of_modules(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read_back_under_its_own_names(tmp_path, family):
    write_family(family, tmp_path / "base")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    keep_own_names(model)
    names = saved_names(model, tmp_path / "saved")
    assert names <= of_modules(model)
    _, found = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(found.values()), found
