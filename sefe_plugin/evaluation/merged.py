"""LoRA adapters that are part of their base while a model answers, and beside it again afterwards, to the bit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import nn


@contextmanager
def merged_where_exact(model: nn.Module) -> Iterator[bool]:
    """Let plain LoRA adapters of weights in full precision be part of these weights while the context lasts.

    A layer then takes one product in place of three. What it computes differs by the rounding of fp32 alone. The
    weights are put aside, and back afterwards: they are the very same as before. That takes as much memory as the
    adapted weights.

    A model stays as it is where one of its adapters is no plain LoRA (experts with a router, DoRA, modules other than
    linear ones), or one of the weights is not in fp32 or not whole here: it is quantized, or lies in parts on several
    processes.

    Args:
        model: Any model; one without adapters stays as it is.

    Yields:
        Whether the adapters are merged.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers or not all(map(_is_plain, layers)):
        yield False
        return
    weights = [layer.get_base_layer().weight for layer in layers]
    kept = [weight.data for weight in weights]
    try:
        for layer, weight in zip(layers, weights, strict=True):
            weight.data = weight.data.clone()
            layer.merge()
        yield True
    finally:
        for layer, weight, own in zip(layers, weights, kept, strict=True):
            weight.data = own
            layer.merged_adapters.clear()


def _is_plain(layer: LoraLayer) -> bool:
    """Tell whether a layer is a linear one in fp32 with nothing but A and B of the active adapters beside it."""
    if type(layer) is not Linear or type(layer.get_base_layer()) is not nn.Linear:
        return False
    if layer.merged_adapters or layer.disable_adapters or layer.lora_variant or any(layer.lora_bias.values()):
        return False
    factors = [part[name].weight for part in (layer.lora_A, layer.lora_B) for name in layer.active_adapters]
    weights = [layer.get_base_layer().weight, *factors]
    return all(weight.dtype == torch.float32 and weight.dim() == 2 for weight in weights)
