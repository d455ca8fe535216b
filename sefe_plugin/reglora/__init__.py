"""RegLoRA (SEFE, arXiv 2505.02486): LoRA with a penalty on the key elements of earlier tasks, as a tuner type of PEFT.

Importing this package adds the type ``REGLORA`` to PEFT. It touches nothing that exists there: adapters of every
other type load, train and save as before.
"""

from peft.utils import PeftType, register_peft_method

from .config import RegLoraConfig
from .key_elements import find_key_elements
from .model import RegLoraModel, find_reglora_model


__all__ = ["RegLoraConfig", "RegLoraModel", "find_key_elements", "find_reglora_model"]


def _register_reglora() -> None:
    """Add the member REGLORA to the closed enum `peft.PeftType`, then register the method under it."""
    member = str.__new__(PeftType, "REGLORA")
    member._name_ = member._value_ = "REGLORA"
    PeftType._member_names_.append("REGLORA")
    PeftType._member_map_["REGLORA"] = member
    PeftType._value2member_map_["REGLORA"] = member
    type.__setattr__(PeftType, "REGLORA", member)  # from Python 3.12 on, members are looked up as class attributes
    register_peft_method(name="reglora", config_cls=RegLoraConfig, model_cls=RegLoraModel, prefix="lora_")


if "REGLORA" not in PeftType.__members__:
    _register_reglora()
