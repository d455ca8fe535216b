"""Muon in fp32: momentum, orthogonalised. PyTorch's own computes in bf16, which is ten times slower on most CPUs."""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


#: Coefficients of the Newton-Schulz polynomial (Jordan et al., "Muon: An optimizer for hidden layers", 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_NEWTON_SCHULZ_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Move each matrix along its orthogonalised Nesterov momentum, scaled to the size of an AdamW step.

    Args:
        params: Matrices, each (out_features, in_features).
        lr: Learning rate, as for AdamW.
        momentum: Share of the old momentum that is kept, in [0, 1).
        weight_decay: Decoupled weight decay.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Take one step; matrices of one shape are orthogonalised together."""
        for group in self.param_groups:
            same_shape = defaultdict(list)
            for weight in group["params"]:
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                same_shape[weight.shape].append((weight, weight.grad.lerp(momentum, group["momentum"])))
            for shape, pairs in same_shape.items():
                directions = orthogonalise(torch.stack([direction for _, direction in pairs]))
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                for (weight, _), direction in zip(pairs, directions, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=rate)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return matrices with the same singular vectors and singular values near 1 (0.7 to 1.2), by Newton-Schulz.

    Args:
        matrices: Batch of matrices, (count, rows, columns).
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.mT if tall else x
