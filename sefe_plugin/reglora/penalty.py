# ruff: noqa: N803 - A and B are the names of the factors in the papers
"""The penalty on one matrix and its gradient, formed directly from the factors A and B.

With dW = B A, the key elements p of the earlier tasks and the number n_p of tasks that chose p, the penalty is
``weight * sum_p n_p |dW_p|`` (`weight` holds lambda and the reduction). Its gradient with respect to dW
is the sparse matrix G with ``G_p = weight * n_p * sign(dW_p)``, sign(0) = 0, and with respect to the factors
``B^T G`` and ``G A^T``.
"""

import warnings

import torch
from torch.autograd.function import once_differentiable

from .codec import decode
from .key_elements import row_tiles


#: From this number of elements on, the products at the key elements alone are cheaper on a CPU than the dense matrix.
_LARGE = 2**19


class MatrixPenalty(torch.autograd.Function):
    """The penalty on one matrix as a differentiable function of A and B; see `matrix_penalty` for the arguments."""

    @staticmethod
    def forward(ctx, A, B, codes, multiplicity, weight) -> torch.Tensor:
        """Compute the penalty, and keep its gradient: it is no larger than the factors themselves."""
        value, grad_A, grad_B = matrix_penalty(A, B, codes, multiplicity, weight)
        ctx.save_for_backward(grad_A.to(A.dtype), grad_B.to(B.dtype))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the kept gradient."""
        grad_A, grad_B = ctx.saved_tensors
        return grad * grad_A, grad * grad_B, None, None, None


@torch.no_grad()
def matrix_penalty(
    A: torch.Tensor, B: torch.Tensor, codes: torch.Tensor, multiplicity: torch.Tensor, weight: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the penalty on one matrix and its gradient, in fp32.

    Args:
        A: Shape (rank, in_features).
        B: Shape (out_features, rank).
        codes: The code (`codec.encode`) of the key elements of the earlier tasks, on the device of `A`.
        multiplicity: For each of them the number of tasks that chose it, uint8, shape (k,), on the device of `A`.
        weight: Factor of the whole.

    Returns:
        The penalty, shape (); its gradient by A, shape of `A`; its gradient by B, shape of `B`. All fp32.
    """
    rows, cols = len(B), A.shape[1]
    indices = decode(codes, rows * cols)
    sparse = A.device.type == "cpu" and rows * cols >= _LARGE and torch.backends.mkl.is_available()
    evaluate = _at_positions if sparse else _in_tiles
    with torch.autocast(A.device.type, enabled=False):
        total, grad_A, grad_B = evaluate(A.float(), B.float(), indices, multiplicity)
    return weight * total, weight * grad_A, weight * grad_B


def _in_tiles(
    A: torch.Tensor, B: torch.Tensor, indices: torch.Tensor, multiplicity: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute B A densely, one tile of rows at a time."""
    rows, cols = len(B), A.shape[1]
    total, grad_A, grad_B = A.new_zeros(()), torch.zeros_like(A), torch.zeros_like(B)
    tiles = row_tiles(rows, cols)
    ends = torch.tensor([stop * cols for _, stop in tiles], device=A.device)
    first = 0
    for (start, stop), last in zip(tiles, torch.searchsorted(indices, ends).tolist(), strict=True):
        inside, times = indices[first:last] - start * cols, multiplicity[first:last]
        change = (B[start:stop] @ A).flatten()
        values = change[inside]
        total += (times * values.abs()).sum()
        grad = torch.zeros_like(change)
        grad[inside] = times * values.sign()
        grad = grad.view(stop - start, cols)
        grad_B[start:stop] = grad @ A.T
        grad_A += B[start:stop].T @ grad
        first = last
    return total, grad_A, grad_B


def _at_positions(
    A: torch.Tensor, B: torch.Tensor, indices: torch.Tensor, multiplicity: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute B A at the key elements only, with MKL's sparse kernels."""
    rows, cols = len(B), A.shape[1]
    row = indices // cols
    col = (indices - row * cols).int()
    pattern = _sorted_by_row(row, col, torch.zeros_like(indices, dtype=A.dtype), (rows, cols))
    values = torch.sparse.sampled_addmm(pattern, B, A, beta=0).values()
    grad = multiplicity * values.sign()
    grad_B = _sorted_by_row(row, col, grad, (rows, cols)) @ A.T
    # MKL is several times slower on a transposed operand than on one sorted anew.
    col, order = col.sort(stable=True)
    grad_A = _sorted_by_row(col, row[order].int(), grad[order], (cols, rows)) @ B
    return (multiplicity * values.abs()).sum(), grad_A.T, grad_B


def _sorted_by_row(row: torch.Tensor, col: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Build a CSR matrix from coordinates sorted by row."""
    starts = torch.searchsorted(row, torch.arange(shape[0] + 1, dtype=row.dtype)).int()
    with warnings.catch_warnings():
        # PyTorch calls its CSR layout a beta, and advises on checks that sorted coordinates do not need.
        warnings.filterwarnings("ignore", message="Sparse ", category=UserWarning)
        return torch.sparse_csr_tensor(starts, col, values, shape, check_invariants=False)
