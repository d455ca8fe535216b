"""Sorted positions as one byte per step: about 1.01 bytes per key element at M = 2 %, instead of 8 or 16.

The bytes are read from position -1 on. A byte b < 255 skips b positions and marks the next one; 255 skips 255
positions and marks nothing. Every set of positions has exactly one such code, whose last byte is below 255.
"""

import torch


_SKIP = 255


def encode(indices: torch.Tensor, numel: int) -> torch.Tensor:
    """Encode sorted positions in a matrix of `numel` elements.

    Args:
        indices: int64, shape (k,), k >= 1, strictly increasing, in [0, numel).
        numel: Number of elements of the flattened matrix.

    Returns:
        uint8, 1-D, on the device of `indices`.

    Raises:
        ValueError: If `indices` is not as described.

    Example:
        >>> encode(torch.tensor([0, 3, 300]), numel=512)
        tensor([  0,   2, 255,  41], dtype=torch.uint8)
    """
    if indices.dtype != torch.int64 or indices.ndim != 1 or not len(indices):
        raise ValueError(f"positions must be int64, 1-D, not empty; got {indices.dtype}, {tuple(indices.shape)}")
    gaps = torch.diff(indices, prepend=indices.new_full((1,), -1)) - 1
    if gaps.min() < 0 or indices[-1] >= numel:
        raise ValueError(f"positions must be strictly increasing in [0, {numel}); got {indices}")
    ends = torch.cumsum(gaps // _SKIP + 1, 0)
    codes = torch.full((int(ends[-1]),), _SKIP, dtype=torch.uint8, device=indices.device)
    codes[ends - 1] = (gaps % _SKIP).to(torch.uint8)
    return codes


def decode(codes: torch.Tensor, numel: int) -> torch.Tensor:
    """Decode what `encode` made.

    Args:
        codes: uint8, 1-D.
        numel: Number of elements of the flattened matrix.

    Returns:
        int64, shape (k,), strictly increasing, in [0, numel), on the device of `codes`.

    Raises:
        ValueError: If `codes` is not the code of positions below `numel`.

    Example:
        >>> decode(torch.tensor([0, 2, 255, 41], dtype=torch.uint8), numel=512)
        tensor([  0,   3, 300])
    """
    if codes.dtype != torch.uint8 or codes.ndim != 1 or not len(codes):
        raise ValueError(f"codes must be uint8, 1-D, not empty; got {codes.dtype}, {tuple(codes.shape)}")
    marks = codes != _SKIP
    indices = torch.cumsum(codes.short() + marks, 0, dtype=torch.int64)[marks] - 1
    if not marks[-1]:
        raise ValueError("codes end in a skip that leads to no position")
    if indices[-1] >= numel:
        raise ValueError(f"codes lead to position {int(indices[-1])} of a matrix of {numel} elements")
    return indices
