"""Masks of weights: the largest changes of a model, one bit per element, in memory and on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from sefe_plugin.methods.left_file import read_left, write_left


_KIND = "sefe_plugin.mask"
_BITS = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)

#: Number of bits that are set in every byte.
_ONES = torch.tensor([byte.bit_count() for byte in range(256)])


def pack(mask: torch.Tensor) -> torch.Tensor:
    """Pack booleans into bits.

    Args:
        mask: bool, any shape.

    Returns:
        uint8, 1-D, ``ceil(numel / 8)`` long; the bits of a mask that ends within a byte are followed by zeros.

    Example:
        >>> pack(torch.tensor([True, False, False, True]))
        tensor([144], dtype=torch.uint8)
    """
    flat = torch.nn.functional.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % 8))
    return (flat.view(-1, 8) * _BITS.to(mask.device)).sum(1, dtype=torch.uint8)


def unpack(bits: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return the booleans that `pack` made bits of, in `shape`."""
    return ((bits[:, None] & _BITS.to(bits.device)) != 0).flatten()[: shape.numel()].view(shape)


def largest(sizes: Callable[[], Iterable[tuple[str, torch.Tensor]]], count: int) -> dict[str, torch.Tensor]:
    """Mark the `count` largest of all values of several tensors together.

    Memory holds one tensor at a time: the threshold is found exactly by counting the values' bits, in two passes, and
    a third marks what lies above it. Of equal values the first ones are marked, in the order of the tensors.

    Args:
        sizes: Yields names and tensors, each time the same: fp32, at least 0; -1 where an element may not be marked.
        count: How many to mark, at least 1; fewer are marked where fewer may be.

    Returns:
        Name -> packed mask, on the CPU.
    """
    upper = _histogram(sizes, lambda bits: bits >> 16)
    high, above = _bucket(upper, count)
    lower = _histogram(sizes, lambda bits: (bits & 0xFFFF)[bits >> 16 == high])
    low, above_low = _bucket(lower, count - above)
    threshold, left = (high << 16) | low, count - above - above_low
    masks = {}
    for name, values in sizes():
        bits = values.flatten().view(torch.int32)
        equal = bits == threshold
        chosen = (bits > threshold) | (equal & (equal.cumsum(0) <= left))
        left = max(0, left - int(equal.sum()))
        masks[name] = pack(chosen).cpu()
    return masks


def _histogram(sizes: Callable[[], Iterable[tuple[str, torch.Tensor]]], digits: Callable) -> torch.Tensor:
    """Count 16 bits of every value that may be marked; floats of at least 0, read as integers, keep their order."""
    total = torch.zeros(2**16, dtype=torch.int64)
    for _, values in sizes():
        bits = values.flatten().view(torch.int32)
        total += torch.bincount(digits(bits[bits >= 0]), minlength=2**16).cpu()
    return total


def _bucket(histogram: torch.Tensor, count: int) -> tuple[int, int]:
    """Return the bucket of the `count`-th largest value, or the lowest one, and how many values lie above it."""
    from_top = histogram.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, torch.tensor(count)))
    place = min(place, len(histogram) - 1)
    above = int(from_top[place - 1]) if place else 0
    return len(histogram) - 1 - place, above


def write_masks(masks: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Write packed masks, whole or not at all.

    Args:
        masks: Name of a parameter -> packed mask.
        shapes: Shape of each parameter.
        file: Where to, safetensors.
    """
    write_left(masks, file, _KIND, shapes=json.dumps({name: shapes[name] for name in masks}))


def load_masks(file: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, ...]]]:
    """Read packed masks.

    Args:
        file: A file of `write_masks`.

    Returns:
        Name of a parameter -> packed mask, on the CPU; name -> shape of the parameter.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or of another kind.
    """
    masks, metadata = read_left(file, _KIND)
    return masks, {name: tuple(shape) for name, shape in json.loads(metadata["shapes"]).items()}


def read_masks(file: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Read packed masks and check that they belong to a model.

    Args:
        file: A file of `write_masks`.
        shapes: Shape of every parameter of the model.

    Returns:
        Name of a parameter -> packed mask, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, of another kind, or of another model.
    """
    masks, held = load_masks(file)
    for name, shape in held.items():
        if shape != shapes.get(name):
            here = shapes.get(name, "absent")
            raise ValueError(
                f"{file}: the parameter {name} has shape {shape} in the file and is {here} in the model. Use the same "
                "base model for all tasks of a sequence."
            )
    return masks


def count_marked(bits: torch.Tensor) -> int:
    """Count the elements that a packed mask marks."""
    return int(_ONES[bits.long()].sum())
