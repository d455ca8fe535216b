"""The arms of mini-CoIN's table: a shipped recipe and what differs from it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sefe_plugin.words import near


class Arm(NamedTuple):
    """One way to train.

    Attributes:
        recipe: file name of a shipped recipe.
        overrides: recipe keys and their other values.
    """

    recipe: str
    overrides: dict[str, Any]


_LORA, _LORA_ASD = "minicoin_lora.yaml", "minicoin_lora_asd.yaml"
_FULL, _FULL_ASD = "minicoin_full.yaml", "minicoin_full_asd.yaml"
_REGLORA, _SEFE = "minicoin_reglora.yaml", "minicoin_sefe.yaml"

#: lambda at which plain L1 makes |B A| as small on average as RegLoRA does with its recipe's lambda.
_L1_WEIGHT = 45.0

#: The method and its parts, the controls of RegLoRA's choice of elements, ways to carry tasks on, and sweeps of one
#: setting of SEFE around the values of its recipe.
ARMS: dict[str, Arm] = {
    "lora": Arm(_LORA, {}),
    "lora_asd": Arm(_LORA_ASD, {}),
    "lora_continue": Arm(_LORA, {"carry": "continue"}),
    "lora_continue_asd": Arm(_LORA_ASD, {"carry": "continue"}),
    "full": Arm(_FULL, {}),
    "full_asd": Arm(_FULL_ASD, {}),
    "reglora": Arm(_REGLORA, {}),
    "sefe": Arm(_SEFE, {}),
    "reglora_random": Arm(_REGLORA, {"reglora_selection": "random"}),
    "l1": Arm(_REGLORA, {"reglora_key_ratio": 1.0, "reglora_weight": _L1_WEIGHT}),
    "sefe_stack": Arm(_SEFE, {"carry": "stack"}),
    "sefe_4bit_stack": Arm(_SEFE, {"carry": "stack", "quantization_bit": 4}),
    "sefe_4bit_merge": Arm(_SEFE, {"carry": "merge", "quantization_bit": 4}),
    **{f"asd_{percent}": Arm(_SEFE, {"asd_ratio": percent / 100}) for percent in (10, 40)},
    **{f"m_{percent:g}": Arm(_SEFE, {"reglora_key_ratio": percent / 100}) for percent in (0.5, 1, 5)},
    **{f"lambda_{weight}": Arm(_SEFE, {"reglora_weight": weight}) for weight in (100, 1000, 2500, 10000)},
    **{f"rank_{rank}": Arm(_SEFE, {"lora_rank": rank, "lora_alpha": 2 * rank}) for rank in (4, 8, 32, 64)},
}


#: The arms of the shipped table.
DEFAULT_ARMS = ("lora", "lora_asd", "reglora", "sefe")


def choose_arms(names: Sequence[str]) -> dict[str, Arm]:
    """Return the arms called `names`.

    Raises:
        ValueError: if there is no such arm, or one is named twice.
    """
    errors = [
        f"`--arms`: {name!r} is no arm.{near(name, ARMS)} There are {', '.join(ARMS)}."
        for name in names
        if name not in ARMS
    ]
    if len(set(names)) < len(names):
        errors.append(f"`--arms` must name each arm once; got {' '.join(names)}.")
    if errors:
        raise ValueError("\n".join(errors))
    return {name: ARMS[name] for name in names}
