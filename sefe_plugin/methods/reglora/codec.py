"""Sorted positions as about one byte each at M = 2 %, instead of the 16 bytes of a row and a column.

Example: the positions 0, 3, 300, 1100 take seven bytes. Reading starts before position 0.

=====  =======================  =======================
byte   skips                    then
=====  =======================  =======================
0      nothing                  marks 0
2      2 positions: 1, 2        marks 3
248    248 positions: 4-251     marks nothing
48     48 positions: 252-299    marks 300
249    496 positions: 301-796   marks nothing
248    248 positions: 797-1044  marks nothing
55     55 positions: 1045-1099  marks 1100
=====  =======================  =======================

The rules:

- A byte b < 248 skips b positions and marks the next one. A byte 248 + j skips 248 * 2^j positions and marks nothing.
- Before each mark, the bytes that only skip come in falling order, each of them once. Only the largest, 255, may
  repeat. The last byte of a code marks. So every set of positions has exactly one code.
- A long skip takes few bytes too. So the code stays short where the positions crowd in some rows and columns.
"""

import torch


_SKIP = 248
_LARGEST = 255


def encode(indices: torch.Tensor, numel: int) -> torch.Tensor:
    """Encode sorted positions in a matrix of `numel` elements.

    Args:
        indices: int64, shape (k,), k >= 1, strictly increasing, in [0, numel).
        numel: Number of elements of the flattened matrix.

    Returns:
        uint8, 1-D, on the device of `indices`; at most ``k + numel / 248`` bytes.

    Raises:
        ValueError: If `indices` is not as described.

    Example:
        >>> encode(torch.tensor([0, 3, 300, 1100]), numel=2000)
        tensor([  0,   2, 248,  48, 249, 248,  55], dtype=torch.uint8)
    """
    if indices.dtype != torch.int64 or indices.ndim != 1 or not len(indices):
        raise ValueError(f"positions must be int64, 1-D, not empty; got {indices.dtype}, {tuple(indices.shape)}")
    gaps = torch.diff(indices, prepend=indices.new_full((1,), -1)) - 1
    if gaps.min() < 0 or indices[-1] >= numel:
        raise ValueError(f"positions must be strictly increasing in [0, {numel}); got {indices}")
    skips = gaps // _SKIP
    halves = [(skips >> j) & 1 for j in range(_LARGEST - _SKIP)]
    ends = torch.cumsum(1 + sum(halves) + (skips >> len(halves)), 0)
    codes = torch.full((int(ends[-1]),), _LARGEST, dtype=torch.uint8, device=indices.device)
    at = ends - 1
    codes[at] = (gaps % _SKIP).to(torch.uint8)
    for j, present in enumerate(halves):
        at = at - present
        codes[at[present.bool()]] = _SKIP + j
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
        >>> decode(torch.tensor([0, 2, 248, 48, 249, 248, 55], dtype=torch.uint8), numel=2000)
        tensor([   0,    3,  300, 1100])
    """
    if codes.dtype != torch.uint8 or codes.ndim != 1 or not len(codes):
        raise ValueError(f"codes must be uint8, 1-D, not empty; got {codes.dtype}, {tuple(codes.shape)}")
    marks = codes < _SKIP
    if not marks[-1]:
        raise ValueError("codes end in a skip that leads to no position")
    if (~marks[:-1] & (codes[:-1] < _LARGEST) & (codes[1:] >= codes[:-1])).any():
        raise ValueError("codes skip in steps that do not fall")
    indices = torch.cumsum(steps_of(codes), 0, dtype=torch.int64)[marks] - 1
    if indices[-1] >= numel:
        raise ValueError(f"codes lead to position {int(indices[-1])} of a matrix of {numel} elements")
    return indices


def walk(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Follow a code byte by byte.

    Nothing is dropped, so on a GPU nothing waits for the number of positions.

    Args:
        codes: What `encode` made for a matrix of less than 2^31 elements.

    Returns:
        The strictly increasing positions to which the bytes lead, int32, and which of them are marked, bool; both of
        the shape of `codes`.

    Example:
        >>> walk(torch.tensor([0, 2, 248, 48], dtype=torch.uint8))
        (tensor([  0,   3, 251, 300], dtype=torch.int32), tensor([ True,  True, False,  True]))
    """
    marks = codes < _SKIP
    return torch.cumsum(steps_of(codes), 0, dtype=torch.int32) - 1, marks


def steps_of(codes: torch.Tensor) -> torch.Tensor:
    """Return by how many positions every byte moves on: int16, the shape of `codes`.

    Args:
        codes: uint8.
    """
    codes = codes.short()
    return torch.where(codes < _SKIP, codes + 1, _SKIP << (codes - _SKIP).clamp_(min=0))
