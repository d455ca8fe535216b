"""A method's options reach the adapter that the host builds."""

from types import SimpleNamespace

from peft import LoraConfig, PeftModel

from sefe_plugin.hosts.llamafactory.adapter import adapted_by
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
