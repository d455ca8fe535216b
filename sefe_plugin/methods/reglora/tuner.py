"""RegLoRA as a tuner type of PEFT; importing this registers it."""

from peft import mapping
from peft.utils import register_peft_method

from sefe_plugin.methods.reglora.config import RegLoraConfig
from sefe_plugin.methods.reglora.model import RegLoraModel, find_reglora_model
from sefe_plugin.methods.reglora.peft_type import REGLORA, add_member, remove_member


__all__ = ["RegLoraConfig", "RegLoraModel", "find_reglora_model"]


def register() -> None:
    """Add the type to PEFT, once."""
    add_member()
    if REGLORA not in mapping.PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(name="reglora", config_cls=RegLoraConfig, model_cls=RegLoraModel, prefix="lora_")


def unregister() -> None:
    """Take the type out of PEFT again."""
    for table in (
        mapping.PEFT_TYPE_TO_CONFIG_MAPPING,
        mapping.PEFT_TYPE_TO_MIXED_MODEL_MAPPING,
        mapping.PEFT_TYPE_TO_PREFIX_MAPPING,
        mapping.PEFT_TYPE_TO_TUNER_MAPPING,
    ):
        table.pop(REGLORA, None)
    remove_member()


register()
