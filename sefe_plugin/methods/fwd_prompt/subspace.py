"""The spaces of Fwd-Prompt: which directions of the input embeddings a task uses, and which later tasks must leave.

Directions are the rows of a matrix, orthonormal, each as long as an embedding. All is computed in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


#: Length below which what is left of a direction is rounding.
_ROUNDING = 1e-6


def core_space(moment: Tensor, share: float) -> Tensor:
    """Return the fewest directions that hold a share of the energy of some embeddings.

    These are the first right singular vectors of H, the embeddings as rows: the eigenvectors of ``H^T H``.

    Args:
        moment: ``H^T H``, (d, d).
        share: epsilon, in (0, 1]: the least K with ``sum_{i<=K} s_i^2 >= epsilon * sum_i s_i^2`` is taken.

    Returns:
        (K, d), float64.

    Example:
        >>> core_space(torch.diag(torch.tensor([1.0, 90.0, 9.0])), 0.95).abs()
        tensor([[0., 1., 0.],
                [0., 0., 1.]], dtype=torch.float64)
    """
    energies, vectors = torch.linalg.eigh(moment.double())
    energies, rows = energies.flip(0).clamp_min(0), vectors.flip(1).T
    below = int((energies.cumsum(0) < share * energies.sum() * (1 - 1e-12)).sum())
    return rows[: below + 1]


def with_conflicts(conflicting: Tensor, pretrained: Tensor, core: Tensor) -> Tensor:
    """Return the conflicting space of later tasks: that of this task, and what its core has outside of pre-training.

    Args:
        conflicting: Q, (c, d), orthogonal to the pre-trained space.
        pretrained: V_pre, (K_0, d).
        core: C of the task, (K, d).

    Returns:
        (c', d), float64: the rows of Q, then a basis of what they lack of ``span((I - V_pre^T V_pre) C)``.

    Example:
        >>> axes = torch.eye(3, dtype=torch.float64)
        >>> slanted = (axes[:1] + axes[1:2]) / 2**0.5
        >>> with_conflicts(axes[:0], axes[:1], slanted).abs()
        tensor([[0., 1., 0.]], dtype=torch.float64)
    """
    new = _apart(_apart(core.double(), pretrained), conflicting)
    lengths, rows = torch.linalg.svd(new, full_matrices=False)[1:]
    rows = _apart(_apart(rows[lengths > _ROUNDING], pretrained), conflicting)
    return torch.cat([conflicting.double(), torch.nn.functional.normalize(rows, dim=1)])


def random_space(count: int, width: int, seed: int) -> Tensor:
    """Return a random space of `count` directions of `width` entries, (count, width), float64."""
    drawn = torch.randn(width, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn)[0].T


def _apart(rows: Tensor, space: Tensor) -> Tensor:
    """Take from the rows what lies in a space."""
    return rows - (rows @ space.double().T) @ space.double()
