# ruff: noqa: N803 - A and B are the names of the factors in the papers
"""Finding the key elements of a weight change without ever holding the whole of it."""

import hashlib

import numpy as np
import torch


#: Elements of the dense product that exist at a time: 16 MB in fp32.
TILE_ELEMENTS = 4 * 2**20

#: Elements of the dense product drawn to foresee the value of the last key element.
_SAMPLE = 2**12


def key_count(ratio: float, rows: int, cols: int) -> int:
    """Return the number of key elements of a matrix: ``int(M * rows * cols)``, at least one.

    The rounding is that of the official ``key_elements_identification.py``.
    """
    return max(1, int(ratio * rows * cols))


@torch.no_grad()
def find_key_elements(A: torch.Tensor, B: torch.Tensor, ratio: float) -> torch.Tensor:
    """Find the key elements of a weight change: the top M of |B A| (SEFE, section on RegLoRA).

    Equal values are ranked by their position, the lowest first. The product is computed in fp32 (on a GPU in TF32
    where ``torch.backends.cuda.matmul.allow_tf32`` is on), one tile of rows at a time; the official code computes it
    whole in the dtype of the saved weights.

    Args:
        A: LoRA's down-projection, shape (rank, in_features).
        B: LoRA's up-projection, shape (out_features, rank).
        ratio: M, a share in (0, 1].

    Returns:
        int64, shape (k,), with k of `key_count`: sorted positions in the flattened (out_features, in_features)
        matrix, on the device of `A`.

    Raises:
        ValueError: If B A holds a value that is not finite.

    Example:
        >>> A, B = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[1.0], [-3.0]])
        >>> find_key_elements(A, B, ratio=0.5)  # B A = [[1, -2, 0.5], [-3, 6, -1.5]]
        tensor([1, 3, 4])
    """
    A, B = A.float(), B.float()
    count = key_count(ratio, len(B), A.shape[1])
    indices = _top_above(_foreseen_bar(A, B, count), A, B, count)
    # The foreseen bar lies above the last key element once in some 10,000 matrices; no element lies below -1.
    return indices if len(indices) == count else _top_above(-1.0, A, B, count)


@torch.no_grad()
def draw_key_elements(A: torch.Tensor, B: torch.Tensor, ratio: float, stream: str) -> torch.Tensor:
    """Draw as many elements as `find_key_elements` finds, uniformly and without looking at their values.

    A control that is no part of SEFE: it tells what the choice of elements adds to penalising as many of them.

    Args:
        A: LoRA's down-projection, shape (rank, in_features).
        B: LoRA's up-projection, shape (out_features, rank).
        ratio: M, a share in (0, 1].
        stream: Names the stream of random numbers; the same name gives the same elements in every process.

    Returns:
        As `find_key_elements`.

    Raises:
        ValueError: If a factor holds a value that is not finite.
    """
    if not (A.isfinite().all() and B.isfinite().all()):
        raise ValueError("a factor of the weight change holds a value that is not finite")
    generator = np.random.default_rng(list(hashlib.sha256(stream.encode()).digest()))
    rows, cols = len(B), A.shape[1]
    drawn = generator.choice(rows * cols, key_count(ratio, rows, cols), replace=False, shuffle=False)
    return torch.from_numpy(np.sort(drawn)).to(A.device, torch.int64)


def _foreseen_bar(A: torch.Tensor, B: torch.Tensor, count: int) -> float:
    """Draw elements of |B A| and return a value that more than `count` elements of the whole are likely to exceed."""
    rows, cols = len(B), A.shape[1]
    expected = _SAMPLE * count / (rows * cols)
    rank = int(expected + 4 * expected**0.5 + 1)
    if rows * cols <= _SAMPLE or rank > _SAMPLE:
        return -1.0
    drawn = torch.randint(rows * cols, (_SAMPLE,), generator=torch.Generator().manual_seed(0)).to(A.device)
    values = (B[drawn // cols] * A[:, drawn % cols].T).sum(1).abs_()
    return values.topk(rank, sorted=False).values.min().item()


def _top_above(bar: float, A: torch.Tensor, B: torch.Tensor, count: int) -> torch.Tensor:
    """Find the `count` largest elements of |B A| above `bar`, or all of them if they are fewer."""
    rows, cols = len(B), A.shape[1]
    step = max(1, TILE_ELEMENTS // cols)
    buffer = A.new_empty(min(step, rows), cols)
    values, indices = [A.new_empty(0)], [torch.empty(0, dtype=torch.int64, device=A.device)]
    held = 0
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        tile = torch.mm(B[start:stop], A, out=buffer[: stop - start]).abs_().flatten()
        if not tile.max().isfinite():
            raise ValueError(f"the weight change holds a value that is not finite in rows {start} to {stop - 1}")
        # Once `count` are found, a later element must exceed the least of them: at equality the earlier one stays.
        fresh = _positions_above(bar, tile)
        values.append(_at(fresh, tile))
        indices.append(fresh + start * cols)
        held += len(fresh)
        if held > 2 * count or (held > count and stop == rows):
            merged, places = torch.cat(values), torch.cat(indices)
            bar = _kth_largest(merged, count)
            above, level = _positions_above(bar, merged), _positions_of(bar, merged)
            kept = torch.cat([above, level[: count - len(above)]]).sort().values
            values, indices, held = [_at(kept, merged)], [_at(kept, places)], count
    return torch.cat(indices)


# On a CPU, NumPy finds few among many, takes them and ranks them in a small part of PyTorch's time.


def _positions_above(bar: float, values: torch.Tensor) -> torch.Tensor:
    """Return the positions of the values above `bar`."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy() > bar))
    return (values > bar).nonzero().squeeze(1)


def _positions_of(bar: float, values: torch.Tensor) -> torch.Tensor:
    """Return the positions of the values equal to `bar`."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy() == bar))
    return (values == bar).nonzero().squeeze(1)


def _at(positions: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the values at some positions."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy().take(positions.numpy()))
    return values.gather(0, positions)


def _kth_largest(values: torch.Tensor, k: int) -> float:
    """Return the value that `k - 1` others are not below."""
    place = len(values) - k
    if values.device.type == "cpu":
        return float(np.partition(values.numpy(), place)[place])
    return values.kthvalue(place + 1).values.item()
