"""MoELoRA as a method of a recipe (`cl_method: moelora`), and its options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sefe_plugin.methods.base import Method
from sefe_plugin.methods.peft_types import PEFT_TYPE
from sefe_plugin.options import option


if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig
    from torch import nn


#: Keys of the host that MoELoRA cannot work with, and why.
_REFUSED = {
    "use_dora": "DoRA rescales a weight, and there is no one weight that the experts change",
    "use_rslora": "MoELoRA's scale is alpha / r",
    "pissa_init": "PiSSA draws A and B from the base weight, as one pair of factors",
    "use_unsloth": "Unsloth has layers of its own",
}


@dataclass
class MoeLoraOptions:
    """All recipe keys of MoELoRA."""

    moelora_experts: int = option(
        8,
        "Experts N of every adapted matrix, at least 1; they share `lora_rank`, which N must divide. CoIN has 8 in a "
        "rank of 128.",
        symbol="N",
        rule="a whole number of at least 1 (CoIN: 8)",
        holds=lambda value: value >= 1,
        scope="sequence",
    )


class MoeLora(Method):
    """LoRA of several experts with a router; adapter and router go on from task to task (CoIN, arXiv 2403.08350).

    ``y = W x + alpha / r * sum_e softmax(G x)_e B_e A_e dropout(x)``, for every token by itself. What the experts
    change depends on the token, so there is no weight that they could be merged into: `carry: continue` alone.
    """

    Options = MoeLoraOptions
    carries = ("continue",)
    peft_type = "MOELORA"
    patches = (PEFT_TYPE,)

    @classmethod
    def errors(cls, arguments: Mapping[str, Any]) -> list[str]:
        """List which other keys MoELoRA cannot work with."""
        errors = [
            f"`{key}` cannot be combined with `cl_method: moelora`: {reason}. Drop one."
            for key, reason in _REFUSED.items()
            if arguments.get(key)
        ]
        rank, experts = arguments.get("lora_rank", 8), cls(arguments).options.moelora_experts
        if isinstance(rank, int) and rank % experts:
            errors.append(
                f"`lora_rank` must be a multiple of `moelora_experts`, {experts}, which share it; got {rank}."
            )
        if arguments.get("merge_adapter"):
            errors.append(
                "`merge_adapter` cannot be combined with `cl_method: moelora`: what the experts change depends on the "
                "token, so no weight can take it in. Remove it."
            )
        if arguments.get("scoring_backend") == "vllm":
            errors.append(
                "`scoring_backend: vllm` cannot be combined with `cl_method: moelora`: vLLM has no such adapter. Set "
                "`scoring_backend: generate`."
            )
        return errors

    def adapt(self, config: LoraConfig) -> PeftConfig:
        """Return the same adapter as MoELoRA's tuner type.

        Raises:
            ValueError: If a saved adapter has another number of experts than the recipe.
        """
        from peft import LoraConfig

        from sefe_plugin.methods.moelora import MoeLoraConfig

        experts = self.options.moelora_experts
        saved = getattr(config, "moelora_experts", experts)
        if saved != experts:
            raise ValueError(f"`moelora_experts` must be {saved}, as in the adapter that goes on; got {experts}.")
        lora = {f.name: vars(config)[f.name] for f in fields(LoraConfig)}
        return MoeLoraConfig(**lora, moelora_experts=experts)

    @contextmanager
    def building(self, base: nn.Module) -> Iterator[None]:
        """Make the type known to PEFT before a saved adapter is read."""
        from sefe_plugin.methods.moelora import MoeLoraConfig  # noqa: F401 - registers the type

        yield
