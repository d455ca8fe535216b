"""The member REGLORA of `peft.PeftType`, a closed enum that PEFT offers no way to extend."""

from peft.utils import PeftType


def _add_member() -> None:
    member = str.__new__(PeftType, "REGLORA")
    member._name_ = member._value_ = "REGLORA"
    PeftType._member_names_.append("REGLORA")
    PeftType._member_map_["REGLORA"] = member
    PeftType._value2member_map_["REGLORA"] = member
    type.__setattr__(PeftType, "REGLORA", member)  # from Python 3.12 on, members are looked up as class attributes


if "REGLORA" not in PeftType.__members__:
    _add_member()

REGLORA = PeftType.REGLORA
