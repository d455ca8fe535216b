"""RegLoRA's options, written once: the recipe's keys, and the fields of `RegLoraConfig`."""

from dataclasses import dataclass
from typing import Literal

from sefe_plugin.options import option


@dataclass
class AdapterOptions:
    """What belongs to the adapter itself and is saved beside it."""

    reglora_weight: float = option(
        2500.0,
        "Weight lambda of the RegLoRA penalty, at least 0. SEFE uses 2500 for a 7B model.",
        symbol="lambda",
        rule="a number of at least 0 (SEFE: 2500)",
        holds=lambda value: value >= 0,
    )
    reglora_key_ratio: float = option(
        0.02,
        "Share M in (0, 1] of each |dW| = |B A| that becomes key elements. SEFE uses 0.02. With 1.0, a control, the "
        "penalty is plain L1 on the whole of dW.",
        symbol="M",
        rule="a share in (0, 1] (SEFE: 0.02)",
        holds=lambda value: 0 < value <= 1,
        scope="sequence",
    )
    reglora_reduction: Literal["official_mean", "per_task_sum"] = option(
        "official_mean",
        "official_mean: mean over the key elements of all earlier tasks, as in the official code. per_task_sum: the "
        "paper's sum over earlier tasks of each task's mean.",
    )
    reglora_selection: Literal["top", "random"] = option(
        "top",
        "top: the key elements are the largest of |dW|, as in SEFE. random: a control, as many elements of each "
        "matrix, drawn uniformly from a stream for each seed, task and matrix.",
        scope="sequence",
    )


@dataclass
class RegLoraOptions(AdapterOptions):
    """All recipe keys of RegLoRA."""

    reglora_offload: Literal["none", "cpu"] = option(
        "none",
        "Where the key elements of earlier tasks stay: none, on the device of the model, one byte per element and "
        "task; cpu, in host memory, brought to the device matrix by matrix.",
        scope="computing",
    )
    reglora_key_elements: list[str] | None = option(
        None,
        "Key element files of earlier tasks, oldest first, as a list or separated by commas. A sequence fills this "
        "in.",
        scope="filled_in",
    )
