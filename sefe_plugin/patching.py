"""What this package changes in others while it works: every change has a name and can be switched off by it.

Example: with ``SEFE_PLUGIN_DISABLE=asd,projector`` these two changes are not made. A recipe that needs one of them is
refused. ``SEFE_PLUGIN_DISABLE=1`` switches the start-up hook off, and with it all that changes LLaMA-Factory.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass


#: Environment variable: "1" for the start-up hook, or names of patches with commas between them.
VARIABLE = "SEFE_PLUGIN_DISABLE"

#: Values of the variable that are no names: nothing is off, or the hook as a whole.
NOTHING, ALL = ("", "0"), ("1", "true", "yes", "y", "on")


class PatchOffError(RuntimeError):
    """What was asked for needs a patch that is switched off."""


@dataclass(frozen=True)
class Patch:
    """One change in another package. Patches that belong together have one name.

    Attributes:
        name: By which it is switched off.
        module: Whose names it exchanges.
        anchors: These names.
        purpose: What it is for, in a few words.
        lasts: From when to when.
        keys: Recipe keys that have no effect without it.
        needs: Names of patches without which it is not applied.
        undo: Takes it back, where it outlasts what needs it and is no exchange of a name.
    """

    name: str
    module: str
    anchors: tuple[str, ...]
    purpose: str
    lasts: str = "from the import on"
    keys: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    undo: Callable[[], None] | None = None


def switched_off() -> frozenset[str]:
    """Return the names in the environment variable; none where it holds no names."""
    value = os.environ.get(VARIABLE, "").strip()
    if value.lower() in (*NOTHING, *ALL):
        return frozenset()
    return frozenset(word.strip() for word in value.split(",") if word.strip())


def is_on(patch: Patch) -> bool:
    """Tell whether neither a patch nor one that it needs is switched off."""
    return switched_off().isdisjoint((patch.name, *patch.needs))
