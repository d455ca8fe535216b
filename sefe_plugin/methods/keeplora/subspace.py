"""Directions of a layer's inputs: which hold its energy, and which are left for the next task.

Directions are the rows of a matrix, orthonormal, each as long as the layer's input. All is computed in float64.
"""

from __future__ import annotations

import torch


#: Share of an energy below which a direction is rounding.
_ROUNDING = 1e-10


def weight_directions(weight: torch.Tensor, share: float) -> torch.Tensor:
    """Return the fewest right singular vectors of a weight that hold a share of its energy.

    Args:
        weight: W, (out_features, in_features).
        share: Of ``||W||^2``, in (0, 1].

    Returns:
        W_p, (directions, in_features), float64.

    Example:
        >>> weight_directions(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 0.9).abs()
        tensor([[0., 1., 0.],
                [0., 0., 1.]], dtype=torch.float64)
    """
    energies, rows = _right_singular(weight.double())
    return rows[: _fewest(energies, share * energies.sum())]


def feature_directions(moment: torch.Tensor, kept: torch.Tensor, share: float) -> torch.Tensor:
    """Return the fewest further directions with which the kept ones hold a share of the features' energy.

    Args:
        moment: ``X^T X`` of the features X, (in_features, in_features).
        kept: (directions, in_features).
        share: Of ``||X||^2``, in (0, 1].

    Returns:
        (new directions, in_features), orthogonal to the kept ones, float64; none where these hold the share already.
    """
    moment, kept = moment.double(), kept.double()
    left = moment - kept.T @ (kept @ moment)
    left -= (left @ kept.T) @ kept
    energies, vectors = torch.linalg.eigh(left)
    energies, rows = energies.flip(0).clamp_min(0), vectors.flip(1).T
    total = moment.trace()
    energies = energies.where(energies > _ROUNDING * total, 0.0)
    return _orthonormal(rows[: _fewest(energies, share * total - (total - left.trace()))], kept)


def free_directions(gradient: torch.Tensor, kept: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the directions in which a loss changes most, of those that are orthogonal to the kept ones.

    Args:
        gradient: G of the loss by a weight, (out_features, in_features).
        kept: (directions, in_features).
        rank: How many to return.

    Returns:
        (rank, in_features), float64: the top right singular vectors of ``G - G K^T K``, each with its largest entry
        above 0. Rows are 0 where fewer directions have a gradient.
    """
    gradient, kept = gradient.double(), kept.double()
    energies, rows = _right_singular(gradient - (gradient @ kept.T) @ kept)
    count = int((energies[:rank] > _ROUNDING * gradient.square().sum()).sum())
    found = _orthonormal(rows[:count], kept)
    largest = found.gather(1, found.abs().argmax(1, keepdim=True)) if count else found[:, :1]
    return torch.nn.functional.pad(found * largest.sign(), (0, 0, 0, rank - count))


def _right_singular(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the squared singular values, from the largest, and the right singular vectors as rows."""
    rows, columns = matrix.shape
    if rows >= columns:
        energies, vectors = torch.linalg.eigh(matrix.T @ matrix)
        return energies.flip(0).clamp_min(0), vectors.flip(1).T
    energies, vectors = torch.linalg.eigh(matrix @ matrix.T)
    energies, left = energies.flip(0).clamp_min(0), vectors.flip(1).T
    return energies, torch.nn.functional.normalize(left @ matrix, dim=1)


def _fewest(energies: torch.Tensor, wanted: torch.Tensor) -> int:
    """Return how many energies, from the largest, it takes to hold what is wanted; those that are 0 are not taken."""
    below = int((energies.cumsum(0) < wanted * (1 - 1e-12)).sum())
    return min(below + 1 if wanted > 0 else 0, int((energies > 0).sum()))


def _orthonormal(rows: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Take from the rows what rounding has left of the kept directions in them."""
    return torch.nn.functional.normalize(rows - (rows @ kept.T) @ kept, dim=1)
