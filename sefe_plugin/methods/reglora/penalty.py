# ruff: noqa: N803 - A and B are the names of the factors in the papers
"""The penalty on one matrix and its gradient, formed directly from the factors A and B.

With dW = B A, the key elements p of the earlier tasks and the number n_p of tasks that chose p, the penalty is
``weight * sum_p n_p |dW_p|`` (`weight` holds lambda and the reduction). Its gradient with respect to dW
is the sparse matrix G with ``G_p = weight * n_p * sign(dW_p)``, sign(0) = 0, and with respect to the factors
``B^T G`` and ``G A^T``. Both are formed one panel of columns at a time.
"""

import warnings

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sefe_plugin.methods.reglora.union import KeyUnion, Panel


#: Example: of a matrix of 4096 rows a CPU computes B A and B's gradient at the key elements alone
#: (`_add_at_positions`); of one of 64 rows it computes the whole panel (`_add_dense`). From this number of rows on the
#: first is cheaper.
_LARGE = 2**8

#: Example: five tasks with M = 2 % chose at most 10 % of a matrix. Up to this share of key elements in a panel,
#: `_add_at_positions` forms A's gradient at the key elements alone too, for which it sorts them by column; above it, a
#: dense product is cheaper.
_SPARSE = 0.1


class MatrixPenalty(torch.autograd.Function):
    """The penalty on one matrix as a differentiable function of A and B; see `matrix_penalty` for the arguments."""

    @staticmethod
    def forward(ctx, A, B, union, weight) -> torch.Tensor:
        """Compute the penalty, and keep its gradient in fp32: as many values as the factors have."""
        value, grad_A, grad_B = matrix_penalty(A, B, union, weight)
        ctx.save_for_backward(grad_A, grad_B)
        ctx.dtypes = A.dtype, B.dtype
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the kept gradient, and round it to the factors' dtype only then: a loss scale keeps it from 0."""
        grad_A, grad_B = ((grad * kept).to(dtype) for kept, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True))
        return grad_A, grad_B, None, None


@torch.no_grad()
def matrix_penalty(
    A: torch.Tensor, B: torch.Tensor, union: KeyUnion, weight: float, fused: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the penalty on one matrix and its gradient, in fp32.

    On a GPU the products are TF32 where ``torch.backends.cuda.matmul.allow_tf32`` is on.

    Args:
        A: Shape (rank, in_features).
        B: Shape (out_features, rank).
        union: The key elements of the earlier tasks.
        weight: Factor of the whole.
        fused: Whether a GPU takes the kernels of `fused`; not timed yet. A small matrix never does.

    Returns:
        The penalty, shape (); its gradient by A, shape of `A`; its gradient by B, shape of `B`. All fp32.
    """
    with torch.autocast(A.device.type, enabled=False):
        A_T, B = A.T.float().contiguous(), B.float().contiguous()
        total, grad_A_T, grad_B = A_T.new_zeros(()), torch.zeros_like(A_T), torch.zeros_like(B)
        if fused and union.decoded is None:
            from sefe_plugin.methods.reglora.fused import add_fused

            total = add_fused(A_T, B, union, grad_A_T, grad_B)
            return weight * total, grad_A_T.mul_(weight).T, grad_B.mul_(weight)
        add_panel = _add_at_positions if A.device.type == "cpu" and len(B) >= _LARGE else _add_dense
        for panel in union.decode(A.device):
            span = slice(panel.start, panel.start + panel.width)
            total += add_panel(A_T[span], B, panel, grad_A_T[span], grad_B)
    return weight * total, grad_A_T.mul_(weight).T, grad_B.mul_(weight)


def _add_dense(
    A_T: torch.Tensor, B: torch.Tensor, panel: Panel, grad_A_T: torch.Tensor, grad_B: torch.Tensor
) -> torch.Tensor:
    """Compute the panel of B A densely; add to the gradients, return the value.

    The value is that of the sum over the key elements by another way: <B A, G> = <A, B^T G>, which needs no second
    matrix of the panel's size.
    """
    times = panel.times.new_zeros(len(B) * panel.width).index_add_(0, panel.positions, panel.times)
    G = (B @ A_T.T).sign_().mul_(times.view(len(B), -1))
    own_A_T = G.T @ B
    grad_A_T += own_A_T
    grad_B.addmm_(G, A_T)
    return (A_T * own_A_T).sum()


def _add_at_positions(
    A_T: torch.Tensor, B: torch.Tensor, panel: Panel, grad_A_T: torch.Tensor, grad_B: torch.Tensor
) -> torch.Tensor:
    """Compute the panel of B A at the key elements only; add to the gradients, return the value."""
    shape = len(B), panel.width
    row, col = panel.positions // panel.width, panel.positions % panel.width
    starts = _starts(row, len(B))
    with warnings.catch_warnings():
        # PyTorch calls its CSR layout a beta, and advises on checks that sorted coordinates do not need.
        warnings.filterwarnings("ignore", message="Sparse ", category=UserWarning)
        pattern = torch.sparse_csr_tensor(starts, col, B.new_zeros(len(col)), shape, check_invariants=False)
        values = torch.sparse.sampled_addmm(pattern, B, A_T.T, beta=0).values()
    G = values.sign().mul_(panel.times)
    grad_B += F.embedding_bag(col, A_T, starts[:-1], mode="sum", per_sample_weights=G)
    if len(col) <= _SPARSE * len(B) * panel.width:
        col, order = col.short().sort(stable=True)
        grad_A_T += F.embedding_bag(
            row[order], B, _starts(col.int(), panel.width)[:-1], mode="sum", per_sample_weights=G[order]
        )
    else:
        dense = B.new_zeros(shape)
        dense.view(-1).scatter_(0, panel.positions.long(), G)
        grad_A_T += dense.T @ B
    return values.abs_().mul_(panel.times).sum()


def _starts(row: torch.Tensor, rows: int) -> torch.Tensor:
    """Return where every row begins in sorted row numbers, and the end; int32, shape (rows + 1,)."""
    return torch.searchsorted(row, torch.arange(rows + 1, dtype=row.dtype, device=row.device), out_int32=True)
