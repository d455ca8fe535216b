"""A model's sizes without its weights: built on the meta device, adapted by the host's own code, and counted."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from llamafactory.hparams import FinetuningArguments, ModelArguments
from llamafactory.model.adapter import init_adapter
from llamafactory.model.loader import load_config
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    HfArgumentParser,
    PreTrainedConfig,
)
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from sefe_plugin.plan.memory import is_autocast
from sefe_plugin.plan.sizes import Architecture, PlanError


#: Tokens of the sequence on which a layer is measured; what it keeps grows in proportion to them.
_TOKENS = 64

_KEEP_INPUTS = "sefe_plan_attention"


def measure_architecture(arguments: Mapping[str, Any]) -> Architecture:
    """Builds the model and the adapter of a recipe without any weights, and measures them.

    Args:
        arguments: the recipe's keys.

    Raises:
        PlanError: if the model's configuration is not on this machine, or no such model can be adapted.
    """
    parser = HfArgumentParser([ModelArguments, FinetuningArguments])
    try:
        model_args, finetuning_args = parser.parse_dict(dict(arguments), allow_extra_keys=True)
        config = load_config(model_args)
    except (OSError, ValueError) as error:
        raise PlanError(
            f"`model_name_or_path`: the configuration of {arguments['model_name_or_path']} cannot be read ({error}). "
            "Download the model, or only its config.json, or give the path of a folder that holds it."
        ) from error
    automatic = (
        AutoModelForImageTextToText
        if type(config) in AutoModelForImageTextToText._model_mapping
        else AutoModelForCausalLM
    )
    dtype = config.dtype or torch.float32
    compute_dtype = torch.bfloat16 if is_autocast(arguments) else dtype
    with torch.device("meta"):
        base = automatic.from_config(config, dtype=dtype)
        quantized = _quantized_linears(base, model_args.quantization_bit)
        saved = _bytes(base.parameters())
        weights = saved - sum(module.weight.nbytes for module in quantized)
        quantized_bytes = sum(_quantized_bytes(module.weight.numel(), model_args) for module in quantized)
        parameters = sum(p.numel() for p in base.parameters())
        try:
            model = init_adapter(config, base, model_args, finetuning_args, is_trainable=True)
        except ValueError as error:
            raise PlanError(f"the adapter cannot be built: {error}") from error
        trainable = [p for p in model.parameters() if p.requires_grad]
        adapted = [module for module in model.modules() if isinstance(module, LoraLayer)]
        factors = [p for name, p in model.named_parameters() if p.requires_grad and "lora_" in name]
        # a fully trained module is a copy beside the base model's own
        layer_parameters = sum(p.numel() for p in base.get_decoder().layers[0].parameters() if not p.requires_grad)
        sizes = {
            "trainable_parameters": sum(p.numel() for p in trainable),
            "trainable_bytes": _bytes(trainable),
            "lora_bytes": _bytes(factors),
            "matrices": tuple((module.out_features, module.in_features) for module in adapted),
        }
        layer_bytes = _layer_bytes_per_token(base, compute_dtype, finetuning_args.lora_dropout)
    text = config.get_text_config()
    return Architecture(
        model_type=config.model_type,
        parameters=parameters,
        weight_bytes=weights + quantized_bytes,
        quantized_bytes=quantized_bytes,
        saved_bytes=saved,
        **sizes,
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocabulary=text.vocab_size,
        layer_parameters=layer_parameters,
        layer_bytes_per_token=layer_bytes,
        weight_type=str(dtype).removeprefix("torch."),
        image_tokens=_image_tokens(config, model_args),
    )


def _bytes(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _quantized_linears(model: nn.Module, bits: int | None) -> list[nn.Linear]:
    """The modules that Transformers gives to bitsandbytes: all linear ones but the output layer."""
    if bits is None:
        return []
    skipped = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    return [
        module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and should_convert_module(name, skipped)
    ]


def _quantized_bytes(numel: int, model_args: ModelArguments) -> int:
    """Bytes of a weight in bitsandbytes.

    In 4 bit: two elements to a byte, one scale for every 64 of them, in fp32, or, quantized doubly, in 8 bit with an
    fp32 scale for every 256 scales; and the tables of the two codes. In 8 bit: one byte each and a scale for a row.
    """
    if model_args.quantization_bit == 8:
        return numel
    scales = math.ceil(numel / 64)
    doubly = scales + 4 * math.ceil(scales / 256) + 4 * 256 + 4
    return math.ceil(numel / 2) + (doubly if model_args.double_quantization else 4 * scales) + 4 * 16


def _image_tokens(config: PreTrainedConfig, model_args: ModelArguments) -> int:
    """Tokens of one image: fixed by the architecture, or by the recipe's limit of pixels."""
    keys = config.to_dict()
    for fixed in ("mm_tokens_per_image", "image_seq_length"):
        if fixed in keys:
            return keys[fixed]
    vision = keys.get("vision_config") or {}
    if "spatial_merge_size" not in vision:
        return 0
    return model_args.image_max_pixels // (vision["patch_size"] * vision["spatial_merge_size"]) ** 2


class _Attention(torch.autograd.Function):
    """Keeps what a fused attention kernel keeps: its inputs and its output, never the scores."""

    @staticmethod
    def forward(ctx, query, key, value):
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError("only what it keeps is measured")


def _attention(module, query, key, value, attention_mask, **kwargs):
    return _Attention.apply(query, key, value).transpose(1, 2).contiguous(), None


class _OwnCopy(nn.Module):
    """Autocast gives every fp32 adapter an input of its own in 16 bit."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def _layer_bytes_per_token(model: nn.Module, dtype: torch.dtype, dropout: float) -> int:
    """Measures what one layer of the language model keeps for its backward pass, adapter included.

    The layers are turned into `dtype`, as autocast has it; afterwards the model is of no other use.
    """
    AttentionInterface.register(_KEEP_INPUTS, _attention)
    model.set_attn_implementation(_KEEP_INPUTS)
    decoder = model.get_decoder()
    layers, decoder.layers = decoder.layers, decoder.layers[:2]
    decoder.to(dtype).eval()
    masks = 0
    adapted = [module for module in decoder.layers[1].modules() if isinstance(module, LoraLayer)]
    for module in (module for module in decoder.modules() if isinstance(module, LoraLayer)):
        for name in module.lora_dropout if dtype != torch.float32 else ():
            module.lora_dropout[name] = _OwnCopy()
    if dropout:
        masks = sum(module.in_features * (1 if dtype != torch.float32 else 4) for module in adapted)
    kept = []
    for count in (1, 2):
        decoder.layers = layers[:count]
        kept.append(_kept_bytes(decoder, dtype))
    decoder.layers = layers
    return (kept[1] - kept[0]) // _TOKENS + masks


def _kept_bytes(decoder: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of all tensors kept for the backward pass, each storage counted once, weights not."""
    kept = {}
    weights = {p.untyped_storage()._cdata for p in decoder.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    inputs = torch.empty(1, _TOKENS, decoder.config.hidden_size, dtype=dtype, requires_grad=True)
    mask = torch.ones(1, 1, _TOKENS, _TOKENS, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        decoder(inputs_embeds=inputs, attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())
