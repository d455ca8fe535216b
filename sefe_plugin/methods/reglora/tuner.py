"""RegLoRA as a tuner type of PEFT; importing this registers it."""

from functools import partial

from sefe_plugin.methods import peft_types
from sefe_plugin.methods.reglora.config import REGLORA, RegLoraConfig
from sefe_plugin.methods.reglora.model import RegLoraModel, find_reglora_model


__all__ = ["RegLoraConfig", "RegLoraModel", "find_reglora_model"]

#: Add the type to PEFT, once.
register = partial(peft_types.register, REGLORA.value, RegLoraConfig, RegLoraModel)

register()
