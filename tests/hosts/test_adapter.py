"""A method's options reach the adapter that the host builds."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from sefe_plugin.hosts.llamafactory.adapter import adapted_by, merge_adapter
from sefe_plugin.hosts.llamafactory.patches import adapter
from sefe_plugin.methods import methods
from sefe_plugin.methods.lora import Lora
from sefe_plugin.methods.reglora import RegLoraConfig
from sefe_plugin.methods.reglora.method import RegLora


def test_a_new_adapter_has_every_option_of_the_recipe():
    module = SimpleNamespace(LoraConfig=LoraConfig, PeftModel=PeftModel)
    keys = {
        "reglora_weight": 7.0,
        "reglora_key_ratio": 1.0,
        "reglora_reduction": "per_task_sum",
        "reglora_selection": "random",
        "lora_rank": 3,
    }
    with adapted_by(module, RegLora(keys)):
        config = module.LoraConfig(r=5, target_modules=["q_proj"], lora_dropout=0.1)
    assert type(config) is RegLoraConfig
    assert (config.r, config.lora_dropout, config.target_modules) == (5, 0.1, {"q_proj"})
    assert (config.reglora_weight, config.reglora_key_ratio) == (7.0, 1.0)
    assert (config.reglora_reduction, config.reglora_selection) == ("per_task_sum", "random")
    assert (module.LoraConfig, module.PeftModel) == (LoraConfig, PeftModel)


def test_a_continued_adapter_takes_the_options_of_the_recipe(tiny_reglora, tiny_llama, tmp_path):
    tiny_reglora(reglora_key_ratio=0.1).save_pretrained(tmp_path)
    module = SimpleNamespace(LoraConfig=LoraConfig, PeftModel=PeftModel)
    keys = {"reglora_weight": 7.0, "reglora_key_ratio": 0.3, "reglora_selection": "random"}
    with adapted_by(module, RegLora(keys)):
        model = module.PeftModel.from_pretrained(tiny_llama(), str(tmp_path), is_trainable=True)
    config = model.peft_config["default"]
    assert (config.reglora_weight, config.reglora_key_ratio, config.reglora_selection) == (7.0, 0.3, "random")
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_plain_lora_is_the_hosts_own():
    module = SimpleNamespace(LoraConfig=LoraConfig, PeftModel=PeftModel)
    with adapted_by(module, Lora()):
        assert type(module.LoraConfig(r=5)) is LoraConfig


def export(base, folder, **keys):
    """Merge an adapter into a base as the host does for an export, a chat or a prediction."""
    from llamafactory.hparams import FinetuningArguments, ModelArguments
    from llamafactory.model import adapter as module

    model_args = ModelArguments(model_name_or_path="base", adapter_name_or_path=str(folder))
    (set_up,) = adapter(inspect.unwrap(module._setup_lora_tuning))
    return set_up(base.config, base, model_args, FinetuningArguments(**keys), False, False)


def test_an_export_merges_what_was_trained_into_a_base_in_16_bit(tiny_llama, tmp_path):
    method, base = methods()["osf"]({}), tiny_llama().bfloat16()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    with method.building(base):
        model = get_peft_model(base, method.adapt(LoraConfig(target_modules=["q_proj", "down_proj"])))
    model.save_pretrained(tmp_path)
    found = export(tiny_llama().bfloat16(), tmp_path, cl_method="osf").state_dict()
    assert found.keys() == before.keys()
    for name, value in merge_adapter(model).state_dict().items():
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name], value), name
        assert (found[name].double() - before[name].double()).norm() < 1e-4 * before[name].double().norm(), name


def test_an_export_says_which_adapters_cannot_be_merged(tiny_llama, tmp_path):
    model = get_peft_model(tiny_llama(), methods()["moelora"]().adapt(LoraConfig(target_modules=["q_proj"])))
    model.save_pretrained(tmp_path)
    from sefe_plugin.methods.peft_types import unregister_all

    unregister_all()  # as in a process that has trained none
    with pytest.raises(ValueError, match="A MoELoRA adapter cannot be merged"):
        export(tiny_llama(), tmp_path, cl_method="moelora")
