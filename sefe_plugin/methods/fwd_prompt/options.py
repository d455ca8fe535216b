"""The recipe keys of Fwd-Prompt. Where the paper leaves a value or a choice open, the help says so."""

from dataclasses import dataclass
from typing import Literal

from sefe_plugin.options import option


def _is_count(value: int) -> bool:
    return value >= 1


@dataclass
class PoolOptions:
    """The options of the pool itself, which are saved beside it."""

    fwd_prompt_pool: int = option(
        10,
        "Prompts M of the pool, at least 1. Inferred: the paper says that more help, and not how many; L2P has 10.",
        symbol="M",
        rule="a whole number of at least 1",
        holds=_is_count,
        scope="sequence",
    )
    fwd_prompt_length: int = option(
        5,
        "Vectors n_p of each prompt, at least 1. Inferred: the paper says that more do not help; L2P has 5.",
        symbol="n_p",
        rule="a whole number of at least 1",
        holds=_is_count,
        scope="sequence",
    )
    fwd_prompt_top: int = option(
        5,
        "Prompts n that are put before each input, at least 1 and at most `fwd_prompt_pool`. Inferred; L2P has 5.",
        symbol="n",
        rule="a whole number of at least 1",
        holds=_is_count,
        scope="sequence",
    )


@dataclass
class FwdPromptOptions(PoolOptions):
    """All recipe keys of Fwd-Prompt."""

    fwd_prompt_key_weight: float = option(
        0.5,
        "Weight c, at least 0, of the loss that draws the keys of chosen prompts to the queries. Inferred: the loss "
        "is that of L2P, which has 0.5.",
        symbol="c",
        rule="a number of at least 0",
        holds=lambda value: value >= 0,
    )
    fwd_prompt_energy: float = option(
        0.99,
        "Share in (0, 1] of the energy of input embeddings that the core space holds. The paper thresholds it; its "
        "value is inferred, of 0.95, 0.99 and 0.999.",
        symbol="epsilon",
        rule="a share in (0, 1]",
        holds=lambda value: 0 < value <= 1,
        scope="sequence",
    )
    fwd_prompt_samples: int = option(
        512,
        "Samples, at least 1, whose input embeddings give a space. Inferred.",
        rule="a whole number of at least 1",
        holds=_is_count,
    )
    fwd_prompt_projection: Literal["conflict", "residual", "pretrained", "random", "none"] = option(
        "conflict",
        "Where prompts may move from the second task on. conflict: anywhere but in the conflicting space, so in the "
        "pre-trained and the residual space, as in the paper. residual, pretrained: in one of these two only. random: "
        "anywhere but in a random space as large as the conflicting one. none: anywhere, a plain pool of prompts.",
        scope="sequence",
    )
    fwd_prompt_pretrained: list[str] | None = option(
        None,
        "Datasets whose input embeddings give the pre-trained space, as a list or separated by commas. Inferred: the "
        "paper does not say which data do. The datasets of `retention_sets` when absent, and without those the first "
        "task's own.",
        scope="sequence",
    )
    fwd_prompt_spaces: list[str] | None = option(
        None,
        "The spaces that the earlier tasks have left, oldest first. A sequence fills this in.",
        scope="filled_in",
    )
