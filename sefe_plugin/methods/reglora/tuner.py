"""RegLoRA as a tuner type of PEFT; importing this registers it."""

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import register_peft_method

from sefe_plugin.methods.reglora.config import RegLoraConfig
from sefe_plugin.methods.reglora.model import RegLoraModel, find_reglora_model
from sefe_plugin.methods.reglora.peft_type import REGLORA


__all__ = ["RegLoraConfig", "RegLoraModel", "find_reglora_model"]


if REGLORA not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name="reglora", config_cls=RegLoraConfig, model_cls=RegLoraModel, prefix="lora_")
