# ruff: noqa: N803 - A and B are the names of the factors in the papers, SETS and BLOCK are constants of kernels
"""The penalty on one matrix with kernels of Triton, for NVIDIA GPUs: some eleven starts of kernels a panel, not fifty.

Example: two tasks chose the positions {2, 5} and {5}. The panel is kept as the code of 2 and 5, and the code of place
1 among those two (`union`). The bytes of both are looked at at once. That of the inner set leads to the second byte of
the outer one, and flags it (`_flag_inner`). Then every byte without a flag follows the sets down to its position, and
writes there the number of its set: 1 at 2, and 2 at 5 (`_count`). No two bytes write at one place.

It computes what `penalty.matrix_penalty` does. It has not been timed on a GPU yet, so nothing takes it that was not
told to: ``matrix_penalty(..., fused=True)``.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl

from sefe_plugin.methods.reglora.codec import steps_of
from sefe_plugin.methods.reglora.union import KeyUnion


_BLOCK = 1024

#: `codec`: a byte below this marks a position.
_SKIP = tl.constexpr(248)


def add_fused(
    A_T: torch.Tensor, B: torch.Tensor, union: KeyUnion, grad_A_T: torch.Tensor, grad_B: torch.Tensor
) -> torch.Tensor:
    """Compute the gradients of a matrix's penalty of weight 1; return its value, shape ().

    Args:
        A_T: fp32, shape (in_features, rank), contiguous.
        B: fp32, shape (out_features, rank), contiguous.
        union: The key elements of the earlier tasks.
        grad_A_T: Zeros of the shape of `A_T`, which get the gradient.
        grad_B: Zeros of the shape of `B`, likewise.
    """
    for start, width, codes, sets in union.coded(A_T.device):
        own_A_T = A_T[start : start + width]
        G = B @ own_A_T.T
        _sign_and_count_(G, codes, sets)
        torch.mm(G.T, B, out=grad_A_T[start : start + width])
        grad_B.addmm_(G, own_A_T)
    return torch.dot(A_T.view(-1), grad_A_T.view(-1))  # <B A, G> = <A, B^T G>


def _sign_and_count_(product: torch.Tensor, codes: torch.Tensor, sets: list[int]) -> None:
    """Put sign times number of tasks in the place of the values of a panel; 0 where no task chose.

    Args:
        product: The panel of B A, fp32, shape (rows, width), contiguous.
        codes: The codes of its sets, one after another, uint8.
        sets: The lengths of the codes.
    """
    size = len(codes)
    walked = torch.cumsum(_step_table(codes.device).index_select(0, codes.int()), 0, dtype=torch.int32)
    bounds = _bounds(tuple(sets), codes.device)
    times = torch.zeros(product.numel(), dtype=torch.uint8, device=codes.device)
    flags = torch.zeros_like(codes)
    if len(sets) > 1:
        _flag_inner[_grid(size)](codes, walked, bounds, flags, size, SETS=len(sets), BLOCK=_BLOCK)
    _count[_grid(size)](codes, walked, bounds, flags, times, size, SETS=len(sets), BLOCK=_BLOCK)
    _sign_times[_grid(product.numel())](product, times, product.numel(), BLOCK=_BLOCK)


def _grid(size: int) -> tuple[int]:
    return (triton.cdiv(size, _BLOCK),)


@lru_cache
def _step_table(device: torch.device) -> torch.Tensor:
    """Return by how many positions each byte moves on, int32, shape (256,)."""
    return steps_of(torch.arange(256, dtype=torch.uint8, device=device)).int()


@lru_cache(maxsize=2**14)
def _bounds(sets: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return where each set begins, int32; kept, since a copy to a GPU costs as much as a kernel."""
    return torch.tensor([0, *sets], device=device).cumsum(0)[:-1].int()


@triton.jit
def _levels(at, bounds, SETS: tl.constexpr):
    """Return to which set each byte belongs: 0 to the outermost."""
    level = at * 0
    for inner in range(1, SETS):
        level += (at >= tl.load(bounds + inner)).to(tl.int32)
    return level


@triton.jit
def _flag_inner(codes, walked, bounds, flags, size, SETS: tl.constexpr, BLOCK: tl.constexpr):
    """Flag the bytes whose position the next set holds too."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    level = _levels(at, bounds, SETS)
    code = tl.load(codes + at, mask=at < size, other=255).to(tl.int32)
    inner = (code < _SKIP) & (level > 0)
    start = tl.load(bounds + level, mask=inner, other=1)
    outer = tl.load(bounds + level - 1, mask=inner, other=0)
    before = tl.load(walked + start - 1, mask=inner, other=0)
    place = tl.load(walked + at, mask=inner, other=1) - before - 1
    tl.store(flags + outer + place, (at * 0 + 1).to(tl.uint8), mask=inner)


@triton.jit
def _count(codes, walked, bounds, flags, times, size, SETS: tl.constexpr, BLOCK: tl.constexpr):
    """Write at each position how many tasks chose it: the number of the last set that holds it."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    level = _levels(at, bounds, SETS)
    code = tl.load(codes + at, mask=at < size, other=255).to(tl.int32)
    last = (code < _SKIP) & (tl.load(flags + at, mask=at < size, other=1) == 0)
    for above in range(1, SETS):
        inner = SETS - above
        moving = last & (level >= inner)
        before = tl.load(walked + tl.load(bounds + inner) - 1)
        place = tl.load(walked + at, mask=moving, other=1) - before - 1
        at = tl.where(moving, tl.load(bounds + inner - 1) + place, at)
    position = tl.load(walked + at, mask=last, other=1) - 1
    tl.store(times + position, (level + 1).to(tl.uint8), mask=last)


@triton.jit
def _sign_times(product, times, size, BLOCK: tl.constexpr):
    """Put sign times number in the place of each value."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(product + at, mask=at < size, other=0.0)
    count = tl.load(times + at, mask=at < size, other=0).to(tl.float32)
    signed = tl.where(value > 0, count, tl.where(value < 0, -count, 0.0))
    tl.store(product + at, signed, mask=at < size)
