"""Adapter types of methods in PEFT, whose list of types is a closed enum with no public way to extend it.

Example: ``register("MYLORA", MyLoraConfig, MyLoraModel)`` makes `peft.get_peft_model` take a `MyLoraConfig`. All that
PEFT has itself stays as it is. Remove what extends the enum once PEFT has a public way to add a type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sefe_plugin.patching import VARIABLE, Patch, PatchOffError, is_on


if TYPE_CHECKING:
    from peft import PeftConfig, PeftType
    from peft.tuners.tuners_utils import BaseTuner


#: Every type that was ever added, by name; `unregister_all` takes them out of PEFT, not out of here.
_types: dict[str, PeftType] = {}


def add_type(name: str) -> PeftType:
    """Add a member to `peft.PeftType`, once, and return it.

    Args:
        name: In capital letters.

    Raises:
        PatchOffError: If the patch is switched off.
    """
    from peft.utils import PeftType

    if not is_on(PEFT_TYPE):
        raise PatchOffError(
            f"The adapter type {name} needs the patch {PEFT_TYPE.name}, which {VARIABLE} switches off. Drop it there."
        )
    if name not in _types:
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        _types[name] = member
    if name not in PeftType.__members__:
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = PeftType._value2member_map_[name] = _types[name]
        type.__setattr__(PeftType, name, _types[name])  # from Python 3.12 on, members are found as class attributes
    return _types[name]


def register(name: str, config: type[PeftConfig], model: type[BaseTuner]) -> None:
    """Make an adapter type known to PEFT, once.

    Args:
        name: In capital letters.
        config: Its configuration.
        model: Its tuner; the names of its parameters have the tuner's `prefix` in them.

    Raises:
        PatchOffError: If the patch is switched off.
    """
    from peft import mapping
    from peft.utils import register_peft_method

    if add_type(name) not in mapping.PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(name=name.lower(), config_cls=config, model_cls=model, prefix=model.prefix)


def added_types() -> tuple[str, ...]:
    """Return the names of the types that PEFT does not have itself, as far as they were needed."""
    return tuple(_types)


def unregister_all() -> None:
    """Take all types out of PEFT again."""
    if not _types:
        return
    from peft import mapping
    from peft.utils import PeftType

    for name, member in _types.items():
        for table in (
            mapping.PEFT_TYPE_TO_CONFIG_MAPPING,
            mapping.PEFT_TYPE_TO_MIXED_MODEL_MAPPING,
            mapping.PEFT_TYPE_TO_PREFIX_MAPPING,
            mapping.PEFT_TYPE_TO_TUNER_MAPPING,
        ):
            table.pop(member, None)
        if name in PeftType.__members__:
            PeftType._member_names_.remove(name)
            del PeftType._member_map_[name], PeftType._value2member_map_[name]
            type.__delattr__(PeftType, name)


#: What methods with an adapter type of their own change in PEFT.
PEFT_TYPE = Patch(
    "peft_type",
    "peft.utils",
    ("PeftType",),
    "members for the adapter types of methods in the list of types, which is closed",
    lasts="from the first use of such a method on",
    undo=unregister_all,
)
