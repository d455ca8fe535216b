"""The key elements of all earlier tasks in one matrix, as they stay in memory: about one byte per element and task.

Example: three tasks chose the positions {2, 5, 7}, {5, 7} and {7, 9} of a panel of ten. That is::

    position             0  1  2  3  4  5  6  7  8  9
    chosen by            -  -  1  -  -  2  -  3  -  1   tasks

    at least one task          2        5     7     9   as positions:                     bytes 2 2 1 1
    at least two tasks                  5     7         as places 1, 2 among these four:  bytes 1 0
    at least three tasks                      7         as place 1 among these two:       byte  1

The three tasks chose 3 + 2 + 2 elements, and 4 + 2 + 1 bytes are kept. The rules:

- The matrix is cut into panels of columns. A position counts through the panel row by row.
- In a panel, the elements chosen by at least 1, 2, 3, ... tasks are nested sets. Their sizes add up to the number of
  elements of all tasks.
- The first set is kept as the code (`codec`) of its positions. Every further set is kept as the code of its places
  among the bytes of the code before it. So it stays near one byte per element, however rare its elements are in the
  matrix.
- A byte that only skips stays in its set when it is decoded: it leads to a position that no task chose, and counts no
  task there.
- The key elements of a small matrix are kept decoded as well (`DECODED_ELEMENTS`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from sefe_plugin.methods.reglora.codec import decode, encode, walk


#: Most elements of a panel on a CPU, which bound what the penalty needs at a time: of 4096 rows a panel takes 256
#: columns, of 11008 rows 128.
PANEL_ELEMENTS = 3 * 2**19

#: The same on a GPU, where every panel costs the start of some forty kernels: of 4096 rows 2048 columns.
GPU_PANEL_ELEMENTS = 2**23

#: Up to this number of elements a matrix's key elements are decoded once and kept so, in 5 bytes beside that of the
#: code: there the many small steps of decoding cost more than the penalty's products. Models with such matrices are
#: small.
DECODED_ELEMENTS = 2**17


class Panel(NamedTuple):
    """The decoded key elements of a panel of columns.

    Attributes:
        start: First column.
        width: Number of columns.
        positions: Strictly increasing positions in the panel, flattened by rows; int32, shape (n,).
        times: Number of tasks that chose each of them, uint8, shape (n,); some are 0.
    """

    start: int
    width: int
    positions: torch.Tensor
    times: torch.Tensor


@dataclass
class KeyUnion:
    """The key elements of the earlier tasks in one matrix.

    Attributes:
        codes: The codes of all sets of all panels, one after another; uint8, 1-D.
        panels: Per panel: first column, number of columns, lengths of the codes of its sets.
        decoded: The panels of a small matrix, decoded; None for all others.
    """

    codes: torch.Tensor
    panels: list[tuple[int, int, list[int]]]
    decoded: list[Panel] | None = None

    @classmethod
    def of_tasks(cls, tasks: Iterable[torch.Tensor], shape: tuple[int, int], device: torch.device) -> "KeyUnion":
        """Unite the key elements of several tasks.

        Args:
            tasks: Per task the code of its positions in the flattened matrix, uint8, 1-D; at most 255 tasks.
            shape: (rows, cols) of the matrix.
            device: Where to compute, and where the result lies.

        Returns:
            Their union, at most ``(248 k + rows * cols) / 247`` bytes if the tasks have k elements in all.
        """
        rows, cols = shape
        times = torch.zeros(rows * cols, dtype=torch.uint8, device=device)
        for codes in tasks:
            times[decode(codes.to(device), rows * cols)] += 1
        width = _panel_width(rows, cols, device)
        pieces, panels = [], []
        for start in range(0, cols, width):
            panel = times.view(rows, cols)[:, start : start + width]
            sets = list(_nested_codes(panel.flatten()))
            pieces += sets
            panels.append((start, panel.shape[1], [len(codes) for codes in sets]))
        union = cls(torch.cat(pieces), panels)
        if rows * cols <= DECODED_ELEMENTS:
            union.decoded = list(union.decode(device))
        return union

    def in_host_memory(self) -> "KeyUnion":
        """Return a copy on the CPU, pinned if this lies on a GPU."""
        codes = self.codes.cpu()
        return KeyUnion(codes.pin_memory() if self.codes.is_cuda else codes, self.panels)

    def decode(self, device: torch.device) -> Iterator[Panel]:
        """Yield the panels that have key elements, one at a time.

        Args:
            device: Where the panels lie; what lies elsewhere is brought there.
        """
        if self.decoded is not None:
            for start, width, positions, times in self.decoded:
                yield Panel(start, width, positions.to(device), times.to(device))
            return
        for start, width, codes, sets in self.coded(device):
            yield Panel(start, width, *_united(codes, sets))

    def coded(self, device: torch.device) -> Iterator[tuple[int, int, torch.Tensor, list[int]]]:
        """Yield the panels that have key elements as they are kept.

        Args:
            device: Where the codes lie; what lies elsewhere is brought there.

        Yields:
            First column, number of columns, the codes of the sets one after another, and their lengths.
        """
        pieces = self.codes.to(device, non_blocking=True).split([sum(sets) for *_, sets in self.panels])
        for codes, (start, width, sets) in zip(pieces, self.panels, strict=True):
            if sets:
                yield start, width, codes, sets


def _united(codes: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode the sets of a panel.

    All codes are walked at once: what a GPU needs here is the start of a kernel, far more than its work.

    Returns:
        Positions and times of a `Panel`.
    """
    places, marks = walk(codes)
    times = marks.to(torch.uint8)
    stop = len(codes)
    for length, outer in zip(lengths[:0:-1], lengths[-2::-1], strict=True):  # the innermost set first
        start = stop - length
        inner = places[start:stop] - (places[start - 1] + 1)  # the walk went on from the code before
        times[start - outer : start].index_add_(0, inner, times[start:stop])
        stop = start
    return places[:stop], times[:stop]


def _panel_width(rows: int, cols: int, device: torch.device) -> int:
    """Return the number of columns of a panel, at least 1, with which it is small enough.

    On a CPU it is a power of two, by which positions are divided faster.
    """
    if device.type == "cpu":
        return 1 << min(max(PANEL_ELEMENTS // rows, 1).bit_length() - 1, (cols - 1).bit_length())
    return -(-cols // -(-rows * cols // GPU_PANEL_ELEMENTS))


def _nested_codes(times: torch.Tensor) -> Iterator[torch.Tensor]:
    """Encode the places where `times` is at least 1, among them those where it is at least 2, and so on."""
    places = times.nonzero().squeeze(1)
    times, numel = times[places], len(times)
    while len(places):
        codes = encode(places, numel)
        yield codes
        places, numel = walk(codes)[1].nonzero().squeeze(1), len(codes)
        places, times = places[times > 1], times[times > 1] - 1
