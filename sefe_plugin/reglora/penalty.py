# ruff: noqa: N803 - A and B are the names of the factors in the papers
"""The penalty on one matrix and its gradient, formed directly from the factors A and B.

With the key elements K_i of the earlier tasks i and dW = B A, the penalty is ``weight * sum_i sum_{p in K_i} |dW_p|``
(SEFE, Eq. 5; `weight` holds lambda and the reduction). Its gradient with respect to dW is the sparse matrix
``G = weight * multiplicity * sign(dW)``, and with respect to the factors ``B^T G`` and ``G A^T``. sign(0) is 0.
"""

import warnings
from collections.abc import Sequence

import torch
from torch.autograd.function import once_differentiable

from .codec import decode
from .key_elements import row_tiles


class MatrixPenalty(torch.autograd.Function):
    """The penalty on one matrix as a differentiable function of A and B; see `matrix_penalty` for the arguments."""

    @staticmethod
    def forward(ctx, A: torch.Tensor, B: torch.Tensor, tasks: Sequence[torch.Tensor], weight: float) -> torch.Tensor:
        """Compute the penalty, and keep its gradient: it is no larger than the factors themselves."""
        value, grad_A, grad_B = matrix_penalty(A, B, tasks, weight)
        ctx.save_for_backward(grad_A.to(A.dtype), grad_B.to(B.dtype))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        """Scale the kept gradient."""
        grad_A, grad_B = ctx.saved_tensors
        return grad * grad_A, grad * grad_B, None, None


@torch.no_grad()
def matrix_penalty(
    A: torch.Tensor, B: torch.Tensor, tasks: Sequence[torch.Tensor], weight: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the penalty on one matrix and its gradient, in fp32.

    Args:
        A: Shape (rank, in_features).
        B: Shape (out_features, rank).
        tasks: Per earlier task the code (`codec.encode`) of its key elements in this matrix, on the device of `A`.
        weight: Factor of the whole.

    Returns:
        The penalty, shape (); its gradient by A, shape of `A`; its gradient by B, shape of `B`. All fp32.
    """
    # On a CPU the few products at the key elements are far cheaper than the dense matrix; these kernels are MKL's.
    evaluate = _at_positions if A.device.type == "cpu" and torch.backends.mkl.is_available() else _in_tiles
    with torch.autocast(A.device.type, enabled=False):
        total, grad_A, grad_B = evaluate(A.float(), B.float(), tasks)
    return weight * total, weight * grad_A, weight * grad_B


def _at_positions(A: torch.Tensor, B: torch.Tensor, tasks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Compute B A at the key elements only."""
    rows, cols = len(B), A.shape[1]
    total, grad_At, grad_B = A.new_zeros(()), torch.zeros_like(A.T), torch.zeros_like(B)
    for codes in tasks:
        indices = decode(codes, rows * cols)
        row = indices // cols
        col = (indices - row * cols).int()
        by_row = _sparse(row, col, torch.zeros_like(indices, dtype=A.dtype), (rows, cols))
        values = torch.sparse.sampled_addmm(by_row, B, A, beta=0).values()
        total += values.abs().sum()
        signs = values.sign()
        grad_B += _sparse(row, col, signs, (rows, cols)) @ A.T
        # MKL is several times slower on a transposed operand than on one sorted anew.
        col, order = col.sort(stable=True)
        grad_At += _sparse(col, row[order].int(), signs[order], (cols, rows)) @ B
    return total, grad_At.T, grad_B


def _sparse(row: torch.Tensor, col: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Build a CSR matrix from coordinates sorted by row."""
    starts = torch.searchsorted(row, torch.arange(shape[0] + 1, dtype=row.dtype)).int()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, col, values, shape, check_invariants=False)


def _in_tiles(A: torch.Tensor, B: torch.Tensor, tasks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Compute B A densely, one tile of rows at a time."""
    rows, cols = len(B), A.shape[1]
    total, grad_A, grad_B = A.new_zeros(()), torch.zeros_like(A), torch.zeros_like(B)
    tiles = row_tiles(rows, cols)
    bounds = torch.tensor([0] + [stop * cols for _, stop in tiles], device=A.device)
    positions = [decode(codes, rows * cols) for codes in tasks]
    spans = [torch.searchsorted(indices, bounds).tolist() for indices in positions]
    for number, (start, stop) in enumerate(tiles):
        change = (B[start:stop] @ A).flatten()
        grad = torch.zeros_like(change)
        for indices, span in zip(positions, spans, strict=True):
            inside = indices[span[number] : span[number + 1]] - start * cols
            values = change[inside]
            total += values.abs().sum()
            grad.index_add_(0, inside, values.sign())
        grad = grad.view(stop - start, cols)
        grad_B[start:stop] = grad @ A.T
        grad_A += B[start:stop].T @ grad
    return total, grad_A, grad_B
