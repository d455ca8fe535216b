"""Sums over samples of a task: gradients of the loss by frozen weights, and second moments of features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from accelerate.utils import reduce
from peft.tuners.lora import LoraLayer
from torch import nn

from sefe_plugin.methods.task_data import TaskData


class _Call(NamedTuple):
    name: str
    input: torch.Tensor
    output: torch.Tensor


def adapted_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Return the adapted layers of a model by their names in the base.

    Raises:
        ValueError: If one of them is no linear layer, or its weight is held in another form.
    """
    layers = {}
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer) or module.active_adapters[0] not in module.r:
            continue
        base, path = module.get_base_layer(), name.rpartition("base_model.model.")[2]
        shape = (module.out_features, module.in_features)
        if not isinstance(base, nn.Linear) or base.weight.shape != shape:
            raise ValueError(
                f"KeepLoRA adapts linear layers whose weights are whole and not quantized; {path} is a "
                f"{type(base).__name__}. Change `lora_target`, or take another base."
            )
        layers[path] = module
    return layers


def gradient_sums(
    model: nn.Module, layers: Mapping[str, LoraLayer], data: TaskData, samples: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Return the gradient of the loss by every adapted weight, summed over the answers' tokens.

    The weights stay frozen: the gradient is formed from a layer's input and the gradient by its output.

    Args:
        model: What is trained, not wrapped.
        layers: Its adapted layers.
        data: The task's.
        samples: Of the data; each process takes its share.

    Returns:
        Name -> (out_features, in_features), fp32, the same in every process.
    """
    sums = {
        name: torch.zeros(layer.out_features, layer.in_features, device=layer.get_base_layer().weight.device)
        for name, layer in layers.items()
    }
    with _calls(layers) as calls:
        for loss in data.losses(model, samples):
            if calls:  # a sample may pass by all adapted layers, as a text does by a vision tower
                grads = torch.autograd.grad(loss, [call.output for call in calls], allow_unused=True)
                for call, grad in zip(calls, grads, strict=True):
                    if grad is not None:
                        sums[call.name] += _rows(grad).T @ _rows(call.input)
            calls.clear()
    return {name: reduce(value, "sum") for name, value in sums.items()}


def feature_moments(
    model: nn.Module, layers: Mapping[str, LoraLayer], data: TaskData, samples: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Return ``X^T X`` of every adapted layer, where X are its inputs at all tokens of the samples.

    Args:
        model: As trained, not wrapped.
        layers: Its adapted layers.
        data: The task's.
        samples: Of the data; each process takes its share.

    Returns:
        Name -> (in_features, in_features), fp32, the same in every process.
    """
    sums = {
        name: torch.zeros(layer.in_features, layer.in_features, device=layer.get_base_layer().weight.device)
        for name, layer in layers.items()
    }
    with _calls(layers) as calls, torch.no_grad():
        for _ in data.losses(model, samples):
            for call in calls:
                features = _rows(call.input)
                sums[call.name] += features.T @ features
            calls.clear()
    return {name: reduce(value, "sum") for name, value in sums.items()}


@contextmanager
def _calls(layers: Mapping[str, LoraLayer]) -> Iterator[list[_Call]]:
    """Record the calls of the layers while the context lasts."""
    calls: list[_Call] = []

    def recorder(name: str):
        return lambda layer, inputs, output: calls.append(_Call(name, inputs[0].detach(), output))

    hooks = [layer.register_forward_hook(recorder(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _rows(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(0, -2).float()
