"""The member REGLORA of `peft.PeftType`, a closed enum that PEFT offers no way to extend.

Remove this once PEFT has a public way to add a type.
"""

from peft.utils import PeftType

from sefe_plugin.methods.reglora.method import PEFT_TYPE
from sefe_plugin.patching import VARIABLE, PatchOffError, is_on


def add_member() -> PeftType:
    """Add the member, once, and return it.

    Raises:
        PatchOffError: If the patch is switched off.
    """
    if not is_on(PEFT_TYPE):
        raise PatchOffError(f"RegLoRA needs the patch {PEFT_TYPE.name}, which {VARIABLE} switches off. Drop it there.")
    if "REGLORA" not in PeftType.__members__:
        PeftType._member_names_.append("REGLORA")
        PeftType._member_map_["REGLORA"] = _member
        PeftType._value2member_map_["REGLORA"] = _member
        type.__setattr__(PeftType, "REGLORA", _member)  # from Python 3.12 on, members are found as class attributes
    return _member


def remove_member() -> None:
    """Take the member out again."""
    if "REGLORA" in PeftType.__members__:
        PeftType._member_names_.remove("REGLORA")
        del PeftType._member_map_["REGLORA"], PeftType._value2member_map_["REGLORA"]
        type.__delattr__(PeftType, "REGLORA")


_member = str.__new__(PeftType, "REGLORA")
_member._name_ = _member._value_ = "REGLORA"

REGLORA = add_member()
