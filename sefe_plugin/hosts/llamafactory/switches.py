"""LLaMA-Factory's switches, variables and keys, that decide by what a recipe is trained."""

import os
from collections.abc import Mapping
from typing import Any


#: Key of a recipe -> what the host trains with where it is set, in place of what this plugin extends.
SWITCH_KEYS = {"use_hyper_parallel": "HyperParallel", "use_kt": "KTransformers"}

#: Environment variable -> the same.
_SWITCHES = {
    "USE_V1": "its second code base",
    "USE_MCA": "Megatron-Core, through mcore_adapter",
    "USE_MEGATRON_BRIDGE": "Megatron-Core, through Megatron Bridge",
    "USE_KT": "KTransformers",
    "USE_RAY": "Ray",
}

_REASON = "LLaMA-Factory then trains with {}, which sefe-plugin does not extend."

#: What the host takes for true.
_ON = ("true", "y", "1")


def is_on(name: str) -> bool:
    """Return whether a variable is on, as the host reads it."""
    return os.environ.get(name, "0").lower() in _ON


def switch_errors(arguments: Mapping[str, Any] | None = None) -> list[str]:
    """List what switches to a training on which the plugin's keys would have no effect, one sentence for each.

    Args:
        arguments: Keys of the host; only the variables are looked at without them.
    """
    errors = [
        f"{name} is set: {_REASON.format(training)} Unset it." for name, training in _SWITCHES.items() if is_on(name)
    ]
    return errors + [
        f"`{key}` is set: {_REASON.format(training)} Remove it."
        for key, training in SWITCH_KEYS.items()
        if arguments and arguments.get(key)
    ]
