import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sefe_plugin.reglora.codec import decode, encode


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_decode_inverts_encode(data):
    numel = data.draw(st.integers(1, 3000))
    indices = sorted(data.draw(st.sets(st.integers(0, numel - 1), min_size=1, max_size=40)))
    codes = encode(torch.tensor(indices), numel)
    assert codes.dtype == torch.uint8
    assert decode(codes, numel).tolist() == indices
    assert len(codes) == len(indices) + sum((b - a - 1) // 255 for a, b in zip([-1, *indices], indices, strict=False))


@given(st.binary(min_size=1, max_size=60), st.integers(1, 5000))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_or_are_the_one_code_of_their_positions(raw, numel):
    codes = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    try:
        indices = decode(codes, numel)
    except ValueError:
        steps = [b + (b < 255) for b in raw]
        assert raw[-1] == 255 or sum(steps) > numel
    else:
        assert torch.equal(encode(indices, numel), codes)


@pytest.mark.parametrize("gap", [0, 1, 253, 254, 255, 256, 509, 510, 511])
def test_gaps_around_the_skip(gap):
    indices = torch.tensor([gap, 2 * gap + 1])
    codes = encode(indices, numel=2 * gap + 2)
    assert codes.tolist() == 2 * ([255] * (gap // 255) + [gap % 255])
    assert torch.equal(decode(codes, numel=2 * gap + 2), indices)


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
    ],
)
def test_decode_names_the_fault(codes, message):
    with pytest.raises(ValueError, match=message):
        decode(codes, numel=10)


def test_about_one_byte_per_element_at_two_percent():
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(512 * 512, generator=generator)[: int(0.02 * 512 * 512)].sort().values
    assert len(encode(indices, 512 * 512)) < 1.02 * len(indices)
