from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sefe_plugin.methods.reglora.codec import decode, encode, walk


def code_by_hand(indices):
    """The bytes of sorted positions, one at a time: skips of 248 * 2^j positions, the longest first, then a mark."""
    codes, last = [], -1
    for index in indices:
        gap, last = index - last - 1, index
        for j in range(7, -1, -1):
            while gap >= 248 * 2**j:
                codes.append(248 + j)
                gap -= 248 * 2**j
        codes.append(gap)
    return codes


@given(data=st.data(), numel=st.integers(1, 300_000))
@settings(max_examples=200, deadline=None)
def test_the_code_and_back(data, numel):
    indices = sorted(data.draw(st.sets(st.integers(0, numel - 1), min_size=1, max_size=40)))
    codes = encode(torch.tensor(indices), numel)
    assert codes.dtype == torch.uint8
    assert codes.tolist() == code_by_hand(indices)
    assert decode(codes, numel).tolist() == indices
    assert len(codes) <= len(indices) + numel / 248
    positions, marks = walk(codes)
    assert positions.dtype == torch.int32
    assert positions[marks].tolist() == indices
    assert (positions.diff() > 0).all()


@given(st.binary(min_size=1, max_size=60), st.integers(1, 200_000))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_or_are_the_one_code_of_their_positions(raw, numel):
    codes = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    try:
        indices = decode(codes, numel)
    except ValueError:
        steps = [b + 1 if b < 248 else 248 << (b - 248) for b in raw]
        rising = any(248 <= a < 255 and a <= b for a, b in pairwise(raw))
        assert raw[-1] >= 248 or sum(steps) > numel or rising
    else:
        assert torch.equal(encode(indices, numel), codes)


@pytest.mark.parametrize("gap", [0, 1, 247, 248, 249, 495, 496, 743, 744, 31743, 31744, 63487, 63488, 63489, 10**6])
def test_gaps_around_the_skips(gap):
    indices = [gap, 2 * gap + 1]
    codes = encode(torch.tensor(indices), numel=2 * gap + 2)
    assert codes.tolist() == code_by_hand(indices)
    assert decode(codes, numel=2 * gap + 2).tolist() == indices


def test_positions_beyond_32_bits():
    indices = torch.tensor([0, 5_000, 1_000_000])
    shifted = torch.cat([indices, indices + 2**24])
    assert torch.equal(decode(encode(shifted, 2**25), 2**25), shifted)
    assert decode(encode(torch.tensor([2**32]), 2**33), 2**33).tolist() == [2**32]


@pytest.mark.parametrize(
    "indices",
    [
        torch.tensor([], dtype=torch.int64),
        torch.tensor([[1, 2]]),
        torch.tensor([1, 2], dtype=torch.int32),
        torch.tensor([2, 1]),
        torch.tensor([1, 1]),
        torch.tensor([-1, 1]),
        torch.tensor([1, 10]),
    ],
)
def test_encode_refuses_what_are_no_sorted_positions(indices):
    with pytest.raises(ValueError, match="positions must be"):
        encode(indices, numel=10)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.tensor([], dtype=torch.uint8), "uint8"),
        (torch.tensor([1, 2]), "uint8"),
        (torch.tensor([[1]], dtype=torch.uint8), "uint8"),
        (torch.tensor([1, 255], dtype=torch.uint8), "leads to no position"),
        (torch.tensor([5, 4], dtype=torch.uint8), "position 10 of a matrix of 10"),
        (torch.tensor([248, 248, 1], dtype=torch.uint8), "steps that do not fall"),
        (torch.tensor([250, 251, 1], dtype=torch.uint8), "steps that do not fall"),
    ],
)
def test_decode_names_the_fault(codes, message):
    with pytest.raises(ValueError, match=message):
        decode(codes, numel=10)


@pytest.mark.parametrize("spread", [0.0, 1.5])
@pytest.mark.parametrize("rank", [1, 4, 32])
def test_about_one_byte_per_element_at_two_percent(rank, spread):
    generator = torch.Generator().manual_seed(0)
    rows, cols = 512, 1024
    scales = [torch.randn(size, generator=generator).mul(spread).exp() for size in (rows, cols)]
    change = torch.randn(rows, rank, generator=generator) @ torch.randn(rank, cols, generator=generator)
    change = scales[0][:, None] * change * scales[1]  # with a spread, key elements crowd in some rows and columns
    count = int(0.02 * rows * cols)
    indices = change.abs().flatten().topk(count).indices.sort().values
    assert len(encode(indices, rows * cols)) < 1.07 * count
