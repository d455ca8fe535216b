"""The arms of a comparison: recipes and what differs from them; those of mini-CoIN's table by name."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sefe_plugin.files import shipped_folder
from sefe_plugin.words import near


class Arm(NamedTuple):
    """One way to train.

    Attributes:
        recipe: the file of its recipe; in `ARMS` the name of a shipped one.
        overrides: recipe keys and their other values.
    """

    recipe: Path
    overrides: dict[str, Any]


def read_arms(words: Sequence[str]) -> dict[str, Arm]:
    """Return the arms that a command line names: recipes, each with other values of keys if wanted.

    Example:
        >>> read_arms(["recipes/lora.yaml", "recipes/lora.yaml+asd_ratio=0.2"])["lora+asd_ratio=0.2"]
        Arm(recipe=PosixPath('recipes/lora.yaml'), overrides={'asd_ratio': '0.2'})

    Args:
        words: ``RECIPE`` or ``RECIPE+key=value+key=value``.

    Returns:
        Name -> arm. The name is the file's without its ending, and what is added to it; it names a folder, so that
        other signs than letters, digits and ``_.+=-`` become ``_``.

    Raises:
        ValueError: if two arms have the same name.
    """
    arms: dict[str, Arm] = {}
    errors = []
    for word in words:
        recipe, *overrides = re.split(r"\+(?=[A-Za-z_][\w.]*=)", word)
        name = re.sub(r"[^\w.+=-]", "_", "+".join([Path(recipe).stem, *overrides]))
        if name in arms:
            errors.append(f"Two recipes are called {name}: {arms[name].recipe} and {word}. Rename one of the files.")
        arms[name] = Arm(Path(recipe), dict(override.split("=", 1) for override in overrides))
    if errors:
        raise ValueError("\n".join(errors))
    return arms


_LORA, _LORA_ASD = Path("minicoin_lora.yaml"), Path("minicoin_lora_asd.yaml")
_FULL, _FULL_ASD = Path("minicoin_full.yaml"), Path("minicoin_full_asd.yaml")
_REGLORA, _SEFE = Path("minicoin_reglora.yaml"), Path("minicoin_sefe.yaml")
_ATTENTION = Path("minicoin_attention.yaml")
_OLORA, _LOTA, _EWC = Path("minicoin_olora.yaml"), Path("minicoin_lota.yaml"), Path("minicoin_ewc.yaml")
_MOELORA, _OSF = Path("minicoin_moelora.yaml"), Path("minicoin_osf.yaml")
_KEEPLORA, _REPLAY = Path("minicoin_keeplora.yaml"), Path("minicoin_replay.yaml")
_FWD_PROMPT = Path("minicoin_fwd_prompt.yaml")

#: Methods whose baseline is a shipped recipe; each also runs with ASD.
_OTHERS = {
    "olora": _OLORA,
    "lota": _LOTA,
    "ewc": _EWC,
    "moelora": _MOELORA,
    "osf": _OSF,
    "keeplora": _KEEPLORA,
    "replay": _REPLAY,
    "fwd_prompt": _FWD_PROMPT,
}

#: Controls of Fwd-Prompt's projection: one of its two spaces alone, a random space of equal size, or no projection.
_PROJECTIONS = ("residual", "pretrained", "random", "none")

#: lambda at which plain L1 makes |B A| as small on average as RegLoRA does with its recipe's lambda.
_L1_WEIGHT = 45.0

#: The method and its parts, the controls of RegLoRA's choice of elements, ways to carry tasks on, sweeps of one
#: setting of SEFE around the values of its recipe; other methods, and sweeps of one setting of each.
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
    "attention": Arm(_ATTENTION, {}),
    "mlp": Arm(_ATTENTION, {"lora_target": "gate_proj,up_proj"}),
    **{name: Arm(recipe, {}) for name, recipe in _OTHERS.items()},
    **{f"{name}_asd": Arm(recipe, {"asd_ratio": 0.2}) for name, recipe in _OTHERS.items()},
    **{f"olora_{weight}": Arm(_OLORA, {"olora_weight": weight}) for weight in (0.05, 5)},
    **{f"full_{rate}": Arm(_FULL, {"learning_rate": rate}) for rate in (0.0002, 0.002)},
    "lota_0.3": Arm(_LOTA, {"lota_ratio": 0.3}),
    "lota_rate_0.0005": Arm(_LOTA, {"learning_rate": 0.0005}),
    **{f"ewc_{weight}": Arm(_EWC, {"ewc_weight": weight}) for weight in (1, 100)},
    **{f"moelora_{experts}": Arm(_MOELORA, {"moelora_experts": experts}) for experts in (4, 16)},
    **{f"osf_{rate}": Arm(_OSF, {"learning_rate": rate}) for rate in (0.0005, 0.005)},
    **{f"keeplora_{energy}": Arm(_KEEPLORA, {"keeplora_weight_energy": energy}) for energy in (0.3, 0.9)},
    **{f"fwd_prompt_{way}": Arm(_FWD_PROMPT, {"fwd_prompt_projection": way}) for way in _PROJECTIONS},
    **{f"fwd_prompt_{energy}": Arm(_FWD_PROMPT, {"fwd_prompt_energy": energy}) for energy in (0.95, 0.999)},
    **{f"replay_{ratio}": Arm(_REPLAY, {"replay_ratio": ratio}) for ratio in (0.05, 0.2)},
}


#: The arms of the shipped table.
DEFAULT_ARMS = ("lora", "lora_asd", "reglora", "sefe")


def choose_arms(names: Sequence[str]) -> dict[str, Arm]:
    """Return the arms of mini-CoIN's table called `names`, with the paths of their recipes.

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
    return {name: Arm(shipped_folder("recipes") / ARMS[name].recipe, ARMS[name].overrides) for name in names}
