"""MoELoRA as a tuner type of PEFT; importing this registers it."""

from dataclasses import dataclass
from functools import partial

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant
from torch import nn

from sefe_plugin.methods import peft_types
from sefe_plugin.methods.moelora.method import MoeLoraOptions
from sefe_plugin.options import option_errors


MOELORA = peft_types.add_type("MOELORA")

#: Options of LoRA that are of no use to experts: key -> (what it must be, why).
_FIXED = {
    "use_dora": (False, "DoRA rescales a weight, and there is no one weight that the experts change"),
    "use_rslora": (False, "the scale is alpha / r"),
    "use_qalora": (False, "QA-LoRA pools the input in front of A"),
    "lora_bias": (False, "a bias of B belongs to no expert"),
    "bias": ("none", "MoELoRA trains no biases"),
    "init_lora_weights": (True, "A is drawn from N(0, 0.01^2), and B is 0"),
    "alora_invocation_tokens": (None, "activated LoRA changes the weight for some tokens only"),
    "arrow_config": (None, "Arrow has a router of its own"),
    "target_parameters": (None, "bare parameters are no layers that see a token"),
}

#: Layers of PEFT's LoRA whose forward pass has room for a variant, and what quantizes their bases.
_LAYERS = ("Linear", "Linear4bit", "Linear8bitLt", "GPTQLoraLinear", "HqqLoraLinear")
_QUANTIZERS = "bitsandbytes, GPTQ or HQQ"

_A_STD = 0.01

_NO_MERGE = (
    "A MoELoRA adapter cannot be merged: what its experts change depends on the token, so no weight can take it in. "
    "Load it beside its base with `PeftModel.from_pretrained`."
)


@dataclass
class MoeLoraConfig(MoeLoraOptions, LoraConfig):
    """Configure MoELoRA (CoIN, arXiv 2403.08350, section on MoELoRA).

    Its options are those of `LoraConfig` and ``moelora_experts``, the number N of experts, which share the rank r.

    Raises:
        ValueError: If an option is outside its range, if N does not divide r, or if an option of LoRA has no meaning
            for experts.

    Example:
        >>> config = MoeLoraConfig(r=16, target_modules=["q_proj", "v_proj"], moelora_experts=4)
        >>> config.peft_type.value, config.r // config.moelora_experts
        ('MOELORA', 4)
    """

    def __post_init__(self):
        """Check every option; mark the configuration as MoELoRA's."""
        super().__post_init__()
        self.peft_type = MOELORA
        if errors := option_errors(MoeLoraOptions, vars(self)):
            raise ValueError(" ".join(errors.values()))
        for key, (value, reason) in _FIXED.items():
            if (vars(self)[key] or None) != (value or None):
                raise ValueError(f"`{key}` must be {value!r} with MoELoRA: {reason}; got {vars(self)[key]!r}.")
        for rank in (self.r, *self.rank_pattern.values()):
            if rank % self.moelora_experts:
                raise ValueError(
                    f"`r` must be a multiple of `moelora_experts`, {self.moelora_experts}, which share it; got {rank}."
                )


class Experts(LoraVariant):
    """The experts of one adapted layer: PEFT's A and B of rank r in N blocks, and the router ``lora_router``.

    Expert e has the rows of A and the columns of B from e r / N on. With z = A dropout(x), the sum over the experts of
    softmax(G x)_e B_e A_e dropout(x) is B applied to z, whose blocks are scaled by softmax(G x).

    PEFT calls the interface of variants private. It is used all the same, because it brings every kind of quantized
    layer with it; a test against a loop over the experts tells when it has changed.
    """

    @staticmethod
    def init(module: LoraLayer, adapter_name: str, experts: int) -> None:
        """Draw A and the router, and set B to 0.

        A is drawn from N(0, 0.01^2), as in the official code, and the router as `nn.Linear` is by default.

        Args:
            module: Adapted by plain LoRA.
            adapter_name: Its adapter.
            experts: N.
        """
        A, B = module.lora_A[adapter_name].weight, module.lora_B[adapter_name].weight
        if not hasattr(module, "lora_router"):
            module.lora_router = nn.ModuleDict()
            module.adapter_layer_names = (*module.adapter_layer_names, "lora_router")
        router = nn.Linear(module.in_features, experts, bias=False, device=A.device, dtype=A.dtype)
        module.lora_router[adapter_name] = router.requires_grad_(A.requires_grad)
        nn.init.normal_(A, std=_A_STD)
        nn.init.zeros_(B)
        module.lora_variant[adapter_name] = Experts()

    @staticmethod
    def forward(
        module: LoraLayer, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs
    ) -> torch.Tensor:
        """Add what the experts make of the layer's input.

        Args:
            module: The adapted layer.
            active_adapter: Its adapter.
            x: Shape (..., in_features), in the precision of the adapter.
            result: The base layer's output, shape (..., out_features).
            **kwargs: Of other variants.

        Returns:
            Shape of `result`.
        """
        gates = module.lora_router[active_adapter](x).softmax(-1)
        narrow = module.lora_A[active_adapter](module.lora_dropout[active_adapter](x))
        blocks = narrow.unflatten(-1, (gates.shape[-1], -1)) * gates.unsqueeze(-1).to(narrow.dtype)
        return result + module.lora_B[active_adapter](blocks.flatten(-2)) * module.scaling[active_adapter]

    @staticmethod
    def merge_safe(module: LoraLayer, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        """Refuse it.

        Raises:
            ValueError: Always.
        """
        raise ValueError(_NO_MERGE)

    merge_unsafe = unmerge = merge_safe


class MoeLoraModel(LoraModel):
    """Adapt a model with MoELoRA; made by `peft.get_peft_model` from a `MoeLoraConfig`.

    One deviation from the official code: dropout draws one mask per adapted layer, not one per expert.
    """

    def _check_merge_allowed(self) -> None:
        raise ValueError(_NO_MERGE)

    def _create_and_replace(self, lora_config, adapter_name, target, target_name, parent, current_key, **kwargs):
        """Adapt one module as LoRA does, and give it experts.

        Raises:
            ValueError: If it is no linear layer.
        """
        super()._create_and_replace(
            lora_config, adapter_name, target, target_name, parent, current_key=current_key, **kwargs
        )
        layer = parent.get_submodule(target_name)
        if type(layer).__name__ not in _LAYERS:
            raise ValueError(
                f"MoELoRA adapts linear layers, in full precision or quantized by {_QUANTIZERS}; '{current_key}' is "
                f"{type(target).__name__}. Take it out of `target_modules`, or list it in `exclude_modules`."
            )
        Experts.init(layer, adapter_name, lora_config.moelora_experts)


#: Add the type to PEFT, once.
register = partial(peft_types.register, MOELORA.value, MoeLoraConfig, MoeLoraModel)

register()
