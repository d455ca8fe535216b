"""How a gradient reaches a parameter under the engines that train it."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled


def gathered(*parameters: nn.Parameter) -> AbstractContextManager:
    """Return a context in which the parameters are whole, also under ZeRO-3; all processes must enter it together."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(parameters))


def add_to_grad(parameter: nn.Parameter, grad: torch.Tensor) -> None:
    """Add to ``.grad`` at once; for engines that accumulate there what backward passes add.

    Args:
        parameter: A leaf.
        grad: Shape of `parameter`.
    """
    grad = grad.to(parameter.dtype)
    if parameter.grad is None:
        parameter.grad = grad.contiguous()
    else:
        parameter.grad += grad


class AddInBackward:
    """Add to what the next backward pass hands to a parameter; for engines that keep ``.grad`` to themselves.

    DeepSpeed reduces and frees, or partitions, a gradient as soon as a backward pass has formed it.
    """

    def __init__(self):
        self._waiting: dict[nn.Parameter, RemovableHandle] = {}

    def __call__(self, parameter: nn.Parameter, grad: torch.Tensor) -> None:
        """Add once.

        Args:
            parameter: A leaf.
            grad: Shape of `parameter` when whole.
        """
        grad = grad.to(parameter.dtype)

        def add(formed: torch.Tensor) -> torch.Tensor:
            self._waiting.pop(parameter).remove()
            return formed + grad

        self._waiting[parameter] = parameter.register_hook(add)

    def drop(self) -> int:
        """Give up what no backward pass has taken along, and return for how many parameters."""
        dropped = len(self._waiting)
        for handle in self._waiting.values():
            handle.remove()
        self._waiting = {}
        return dropped
