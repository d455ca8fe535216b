"""How a method adds to a gradient or transforms it, under every engine that trains the parameter."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled


class Deliver(Protocol):
    """How a gradient reaches a parameter."""

    def __call__(self, parameter: nn.Parameter, grad: torch.Tensor) -> None:
        """Add `grad`, of the shape of the whole `parameter`, to the gradient of the optimizer step."""


class Gradients:
    """What a method may do with the gradients of one training; `MethodCallback` makes it.

    Args:
        deliver: The engine's way to add.
        processes: How many train together.

    Attributes:
        scale: Factor by which the gradients of this step are too large until the optimizer unscales them (fp16); what
            is added must be multiplied by it.
        share: (process, number of processes) where processes average every gradient, also of a parameter that no step
            uses: each of n may then evaluate every n-th term, n times as large. Else (0, 1): every process adds all.
    """

    def __init__(self, deliver: Deliver, processes: int = 1):
        self.add = deliver
        self.scale = 1.0
        self.share = (0, 1)
        self._processes = processes
        self._hooks: list[RemovableHandle] = []
        self._logged: dict[str, torch.Tensor] = {}

    def transform(self, parameter: nn.Parameter, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Apply a linear map to every gradient of the loss by a parameter, until the training ends.

        It acts on the gradient of every micro-batch, before accumulation and before processes average theirs, which is
        the same for a linear map. What `add` gives is not transformed. An optimizer with moments or weight decay may
        still move the weights elsewhere: a method that promises something of the weights looks at them in
        `Method.on_step_end`.

        Args:
            parameter: A leaf.
            change: Maps a gradient of the parameter's whole shape to one of the same shape.
        """
        self._hooks.append(parameter.register_hook(change))

    def log(self, name: str, value: torch.Tensor) -> None:
        """Note a value of this step; the training log has its mean over the steps since the last log.

        Args:
            name: In the log.
            value: Shape (): this process's part of it where the work is shared (`share`), or all of it.
        """
        value = value * self.share[1] / self._processes
        self._logged[name] = self._logged.get(name, torch.zeros(())).to(value.device) + value

    def take_logged(self) -> dict[str, torch.Tensor]:
        """Return this process's part of the sums of all values noted since the last call."""
        logged, self._logged = self._logged, {}
        return logged

    def release(self) -> None:
        """Take the hooks of `transform` away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def gathered(*parameters: nn.Parameter) -> AbstractContextManager:
    """Return a context in which the parameters are whole, also under ZeRO-3; all processes must enter it together."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(parameters))


def full_weight(parameter: nn.Parameter) -> torch.Tensor:
    """Return a trained parameter as the optimizer holds it: whole, and not rounded to what a forward pass takes.

    Example: DeepSpeed with `bf16` trains a copy in fp32, and gives the model its rounding after every step.

    Args:
        parameter: All processes must ask for it together.

    Returns:
        Of the shape of the whole `parameter`, fp32.
    """
    if PartialState().distributed_type == DistributedType.DEEPSPEED:
        from deepspeed.utils import safe_get_full_fp32_param

        kept = safe_get_full_fp32_param(parameter)  # None where it keeps no copy
        if kept is not None:
            return kept.float()
    return parameter.detach().float()


def set_weight(parameter: nn.Parameter, value: torch.Tensor) -> None:
    """Set a trained parameter once its training has begun, also in the copy that DeepSpeed's optimizer keeps.

    Args:
        parameter: Not partitioned; all processes must set it together, to the same.
        value: Of its shape.

    Raises:
        RuntimeError: If DeepSpeed's optimizer keeps a copy that it gives no access to.
    """
    with torch.no_grad():
        parameter.copy_(value)
    if PartialState().distributed_type == DistributedType.DEEPSPEED:
        from deepspeed.utils import safe_set_full_fp32_param

        if not hasattr(parameter, "_hp_mapping") and parameter.dtype != torch.float32:
            raise RuntimeError(
                "DeepSpeed without ZeRO gives no access to what its optimizer trains in place of weights in 16 bit. "
                "Use ZeRO-1 or 2, or train in 32 bit."
            )
        safe_set_full_fp32_param(parameter, value.to(parameter.device, torch.float32))


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
        self._waiting: dict[nn.Parameter, tuple[RemovableHandle, torch.Tensor]] = {}

    def __call__(self, parameter: nn.Parameter, grad: torch.Tensor) -> None:
        """Add once; what is given for a parameter before its backward pass adds up.

        Args:
            parameter: A leaf.
            grad: Shape of `parameter` when whole.
        """
        grad = grad.to(parameter.dtype)
        if parameter in self._waiting:
            handle, waiting = self._waiting[parameter]
            self._waiting[parameter] = handle, waiting + grad
            return

        def add(formed: torch.Tensor) -> torch.Tensor:
            handle, waiting = self._waiting.pop(parameter)
            handle.remove()
            return formed + waiting

        self._waiting[parameter] = parameter.register_hook(add), grad

    def drop(self) -> int:
        """Give up what no backward pass has taken along, and return for how many parameters."""
        dropped = len(self._waiting)
        for handle, _ in self._waiting.values():
            handle.remove()
        self._waiting = {}
        return dropped
