# ruff: noqa: N803 - A and B are the names of the factors in the papers
"""Finding the key elements of a weight change without ever holding the whole of it, and uniting those of tasks."""

from collections.abc import Sequence

import torch


#: Elements of the dense product that exist at a time: 16 MB in fp32.
TILE_ELEMENTS = 4 * 2**20


def key_count(ratio: float, rows: int, cols: int) -> int:
    """Return the number of key elements of a matrix: ``int(M * rows * cols)``, at least one.

    The rounding is that of the official ``key_elements_identification.py``.
    """
    return max(1, int(ratio * rows * cols))


def row_tiles(rows: int, cols: int) -> list[tuple[int, int]]:
    """Cut the rows of a (rows, cols) matrix into spans of at most `TILE_ELEMENTS` elements, or of one row."""
    step = max(1, TILE_ELEMENTS // cols)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


@torch.no_grad()
def find_key_elements(A: torch.Tensor, B: torch.Tensor, ratio: float) -> torch.Tensor:
    """Find the key elements of a weight change: the top M of |B A| (SEFE, section on RegLoRA).

    Equal values are ranked by their position, the lowest first. The product is computed in fp32, one tile of rows at
    a time; the official code computes it whole in the dtype of the saved weights.

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
    rows, cols = len(B), A.shape[1]
    count = key_count(ratio, rows, cols)
    values, indices = A.new_empty(0), torch.empty(0, dtype=torch.int64, device=A.device)
    bar = -1.0
    for start, stop in row_tiles(rows, cols):
        tile = (B[start:stop] @ A).abs_().flatten()
        if not tile.max().isfinite():
            raise ValueError(f"the weight change holds a value that is not finite in rows {start} to {stop - 1}")
        # Once `count` are found, a later element must exceed the least of them: at equality the earlier one stays.
        fresh = (tile > bar).nonzero().squeeze(1)
        values, indices = torch.cat([values, tile[fresh]]), torch.cat([indices, fresh + start * cols])
        if len(values) >= count:
            bar = values.kthvalue(len(values) - count + 1).values
            above, level = values > bar, values == bar
            kept = above | (level & (level.cumsum(0) <= count - above.sum()))
            values, indices = values[kept], indices[kept]
    return indices


def unite(tasks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Unite the key elements of several tasks in one matrix.

    Args:
        tasks: Per task its sorted positions, int64, shape (k,); at most 255 tasks.

    Returns:
        The sorted positions chosen by any task, int64, shape (n,), and the number of tasks that chose each, uint8,
        shape (n,).

    Example:
        >>> unite([torch.tensor([1, 3]), torch.tensor([3, 4])])
        (tensor([1, 3, 4]), tensor([1, 2, 1], dtype=torch.uint8))
    """
    indices, multiplicity = torch.cat(list(tasks)).unique(return_counts=True)
    return indices, multiplicity.to(torch.uint8)
