"""A model's sizes without its weights: built on the meta device, adapted by the host's own code, and counted."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from llamafactory.hparams import FinetuningArguments, ModelArguments
from llamafactory.model.adapter import init_adapter
from llamafactory.model.loader import load_config
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
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


#: Tokens of the shorter of two sequences on which a layer is measured; what it keeps grows with them.
_TOKENS = 64

_KEEP_INPUTS = "sefe_plan_attention"


def measure_architecture(arguments: Mapping[str, Any]) -> Architecture:
    """Build the model and the adapter of a recipe without any weights, and measures them.

    Args:
        arguments: the recipe's keys.

    Raises:
        PlanError: if the model's configuration is not on this machine, if the model cannot be adapted as the recipe
            says, or if its layers are not laid out as those of Transformers' decoders are.
    """
    model_args, finetuning_args, config = _read(arguments)
    dtype = config.dtype or torch.float32
    text = config.get_text_config()
    try:
        with torch.device("meta"):
            base = build_base(config)
            weights = _weight_sizes(base, model_args)
            trained = _trained_sizes(adapt(config, base, model_args, finetuning_args))
            if finetuning_args.finetuning_type == "full":
                frozen = [parameter for parameter in base.parameters() if not parameter.requires_grad]
                weights["frozen_parameters"] = sum(parameter.numel() for parameter in frozen)
                weights["weight_bytes"] = _bytes(frozen)
            layers = _layer_sizes(
                base, torch.bfloat16 if is_autocast(arguments) else dtype, finetuning_args.lora_dropout
            )
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise PlanError(f"{config.model_type} cannot be built or adapted as the recipe says: {error}") from error
    return Architecture(
        model_type=config.model_type,
        **weights,
        **trained,
        **layers,
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocabulary=text.vocab_size,
        weight_type=str(dtype).removeprefix("torch."),
        image_tokens=_image_tokens(config, model_args),
    )


def build_base(config: PreTrainedConfig) -> nn.Module:
    """Build a model without weights, through the class by which the host loads it."""
    with torch.device("meta"):
        return _automatic_class(config).from_config(config, dtype=config.dtype or torch.float32)


def adapt(
    config: PreTrainedConfig, base: nn.Module, model_args: ModelArguments, finetuning_args: FinetuningArguments
) -> nn.Module:
    """Let the host ready a model without weights for training: with its adapter, or with what of it is frozen."""
    with torch.device("meta"):
        return init_adapter(config, base, model_args, finetuning_args, is_trainable=True)


def _read(arguments: Mapping[str, Any]) -> tuple[ModelArguments, FinetuningArguments, PreTrainedConfig]:
    """Return the host's arguments and the model's configuration."""
    parser = HfArgumentParser([ModelArguments, FinetuningArguments])
    try:
        model_args, finetuning_args = parser.parse_dict(dict(arguments), allow_extra_keys=True)
        return model_args, finetuning_args, load_config(model_args)
    except (OSError, ValueError) as error:
        raise PlanError(
            f"`model_name_or_path`: the configuration of {arguments['model_name_or_path']} cannot be read ({error}). "
            "Download the model, or only its config.json, or give the path of a folder that holds it."
        ) from error


def _automatic_class(config: PreTrainedConfig) -> type:
    """Return the class through which the host loads such a model."""
    is_multimodal = type(config) in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if is_multimodal else AutoModelForCausalLM


def _weight_sizes(base: nn.Module, model_args: ModelArguments) -> dict[str, int]:
    linears = _quantized_linears(base, model_args.quantization_bit)
    quantized = sum(_quantized_bytes(module.weight.numel(), model_args) for module in linears)
    saved = _bytes(base.parameters())
    parameters = sum(parameter.numel() for parameter in base.parameters())
    return {
        "parameters": parameters,
        "frozen_parameters": parameters,
        "weight_bytes": saved - _bytes(module.weight for module in linears) + quantized,
        "quantized_bytes": quantized,
        "saved_bytes": saved,
    }


def _trained_sizes(model: nn.Module) -> dict[str, Any]:
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapted = [module for module in _tuner_layers(model) if _is_matrix(module)]
    return {
        "trainable_parameters": sum(parameter.numel() for parameter in trainable.values()),
        "trainable_bytes": _bytes(trainable.values()),
        "lora_bytes": _bytes(parameter for name, parameter in trainable.items() if "lora_" in name),
        "matrices": tuple((module.out_features, module.in_features) for module in adapted),
    }


def _tuner_layers(model: nn.Module) -> list[BaseTunerLayer]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _is_matrix(module: BaseTunerLayer) -> bool:
    """Tell whether an adapter is that of a matrix; a pool of prompts is none."""
    return hasattr(module, "out_features")


def _bytes(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _quantized_linears(model: nn.Module, bits: int | None) -> list[nn.Linear]:
    """Return the modules that Transformers gives to bitsandbytes: all linear ones but the output layer."""
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


def _layer_sizes(model: nn.Module, dtype: torch.dtype, dropout: float) -> dict[str, int]:
    """Measure one layer of the language model: its weights, and what it keeps for its backward pass with its adapter.

    The layers are turned into `dtype`, as autocast has it; afterwards the model is of no other use.
    """
    AttentionInterface.register(_KEEP_INPUTS, _attention)
    model.set_attn_implementation(_KEEP_INPUTS)
    decoder = model.get_decoder()
    layers, decoder.layers = decoder.layers, decoder.layers[:1]
    decoder.to(dtype).eval()
    for module in _tuner_layers(decoder):
        if not _is_matrix(module):
            module.enable_adapters(False)  # what it does is in no layer
    added = {id(parameter) for parameter in _adapter_parameters(layers[0])}
    own = [parameter for parameter in layers[0].parameters() if id(parameter) not in added]
    half = dtype != torch.float32
    for module in (module for module in decoder.modules() if half and isinstance(module, LoraLayer)):
        for name in module.lora_dropout:
            module.lora_dropout[name] = _OwnCopy()
    adapted = [module for module in layers[0].modules() if isinstance(module, LoraLayer)]
    # dropout keeps a mask: of bytes in 16 bit, as GPUs have it, of numbers in fp32, as CPUs have it
    masks = sum(module.in_features * (1 if half else 4) for module in adapted) if dropout else 0
    kept = {}
    for tokens in (_TOKENS, 2 * _TOKENS):
        for count in (0, 1):
            decoder.layers = layers[:count]
            kept[tokens, count] = _kept_bytes(decoder, dtype, tokens)
    decoder.layers = layers
    # what a layer keeps whatever the tokens, such as a weight that its adapter puts together, is no part of this
    of_tokens = {count: kept[2 * _TOKENS, count] - kept[_TOKENS, count] for count in (0, 1)}
    return {
        "layer_parameters": sum(parameter.numel() for parameter in own),
        "layer_bytes_per_token": (of_tokens[1] - of_tokens[0]) // _TOKENS + masks,
        "layer_width": max(max(parameter.shape) for parameter in own),
    }


def _adapter_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that adapters have added."""
    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):
            for name in layer.adapter_layer_names:
                yield from getattr(layer, name).parameters()


def _kept_bytes(decoder: nn.Module, dtype: torch.dtype, tokens: int) -> int:
    """Bytes of all tensors kept for the backward pass, each storage counted once, weights not."""
    kept = {}
    weights = {p.untyped_storage()._cdata for p in decoder.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    inputs = torch.empty(1, tokens, decoder.config.hidden_size, dtype=dtype, requires_grad=True)
    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        decoder(inputs_embeds=inputs, attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())
