import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sefe_plugin.answers.boxes import (
    box_iou,
    box_nearby,
    box_notation,
    fewest_decimals,
    parse_box,
    place_in_words,
    square_to_image,
    strip_zeros,
)


@pytest.mark.parametrize(
    "text",
    ["", "[0.1, 0.2, 0.3]", "[0.1, 0.2, 0.3, 0.4, 0.5]", "0.1, 0.2, 0.3, 0.4", "[0.1 0.2 0.3 0.4]", "[a, b, c, d]",
     "[0.1, 0.2, 0.3, 0.4].", "[[0.1, 0.2, 0.3, 0.4]]", "[., 2, 3, 4]", "[1e, 0.2, 0.3, 0.4]", "[1 e2, 2, 3, 4]",
     "[1.2.3, 2, 3, 4]"],
)  # fmt: skip
def test_other_texts_are_no_box(text):
    assert parse_box(text) is None


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0,1,2,3]", (0, 1, 2, 3)),
        (" [ .5 , -1 , 2.25,1000 ] ", (0.5, -1, 2.25, 1000)),
        ("[0., 1e-2, 1.5E+0, 1.]", (0, 0.01, 1.5, 1)),
    ],
)
def test_boxes_are_read(text, box):
    assert parse_box(text) == box


def test_iou_of_known_boxes():
    unit = (0, 0, 1, 1)
    assert box_iou(unit, unit) == 1
    assert box_iou(unit, (0, 0, 1, 0.5)) == 0.5
    assert box_iou(unit, (2, 2, 3, 3)) == 0
    assert box_iou(unit, (1, 1, 0, 0)) == 0
    assert box_iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0


coordinate = st.integers(0, 100).map(lambda value: value / 100)
box = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@given(box, box, st.floats(0.5, 1000))
def test_iou_is_symmetric_and_free_of_scale(first, second, scale):
    value = box_iou(first, second)
    assert 0 <= value <= 1
    assert value == box_iou(second, first)
    scaled = box_iou(tuple(scale * c for c in first), tuple(scale * c for c in second))
    # Scaling rounds each coordinate once: differences of the order 1e-16 over an area of at least 1e-4.
    assert scaled == pytest.approx(value, abs=1e-9)


@given(box, st.integers(0, 1000))
def test_a_box_nearby_keeps_notation_and_image(gold, seed):
    text = "[{:.2f},{:.2f}, {:.2f} ,{:.2f}]".format(*gold)
    moved = box_notation(text) % box_nearby(gold, random.Random(seed))
    x1, y1, x2, y2 = parse_box(moved)
    assert [part.count(".") for part in moved.split(",")] == [1, 1, 1, 1]
    assert all(len(part.strip(" []").partition(".")[2]) == 2 for part in moved.split(","))
    assert 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1
    # Both corners are rounded to 0.01.
    assert (x2 - x1) <= (gold[2] - gold[0]) + 0.0101
    assert (x2 - x1) >= (gold[2] - gold[0]) / 2 - 0.0101


def test_a_box_of_whole_numbers_stays_whole():
    assert "." not in box_notation("[0, 0, 1, 1]") % box_nearby((0, 0, 1, 1), random.Random(0))


def test_every_spelling_of_a_number_has_its_decimals():
    assert box_notation("[0., 1e-3, 2.5e-1, 1e2]") == "[%.3f, %.3f, %.3f, %.3f]"


def test_the_fewest_decimals_are_those_of_any_spelling():
    assert [fewest_decimals(f"[{number}, 0.125]") for number in ("0.5", "1", "1.", "2.5e-1", "1e2")] == [1, 0, 0, 2, 0]


@pytest.mark.parametrize(
    ("decimals", "stripped"),
    [(0, "[0, 0.5,10 , 0.25]"), (1, "[0.0, 0.5,10.0 , 0.25]"), (2, "[0.00, 0.50,10.00 , 0.25]")],
)
def test_zeros_are_stripped_down_to_so_many_decimals(decimals, stripped):
    assert strip_zeros("[0.00, 0.50,10.00 , 0.25]", decimals) == stripped


@pytest.mark.parametrize(
    ("centre", "words"),
    [((0.1, 0.1), "top left"), ((0.5, 0.1), "top"), ((0.9, 0.1), "top right"), ((0.1, 0.5), "left"),
     ((0.5, 0.5), "center"), ((0.9, 0.5), "right"), ((0.1, 0.9), "bottom left"), ((0.5, 0.9), "bottom"),
     ((1.0, 1.0), "bottom right")],
)  # fmt: skip
def test_the_nine_places(centre, words):
    assert place_in_words((*centre, *centre)) == words


@given(box, st.integers(1, 2000), st.integers(1, 2000))
def test_a_box_of_the_padded_square_is_that_of_the_image(shares, width, height):
    """Padding the image as LLaVA does and dividing by the side leads back."""
    side = max(width, height)
    edges, pads = (width, height, width, height), ((side - width) / 2, (side - height) / 2) * 2
    padded = tuple((share * edge + pad) / side for share, edge, pad in zip(shares, edges, pads, strict=True))
    # Division by an edge 2000 times shorter than the side magnifies rounding of 1e-16 to 2e-13.
    assert square_to_image(padded, width, height) == pytest.approx(shares, abs=1e-12)


def test_what_lies_in_the_padding_is_cut_off():
    assert square_to_image((0, 0, 1, 1), 400, 100) == (0, 0, 1, 1)
    assert square_to_image((0.1, 0.0, 0.2, 0.3), 400, 100) == (0.1, 0.0, 0.2, 0.0)


@pytest.mark.parametrize("number", ["1e999", "9" * 400, "1e-999999999"])
def test_a_number_out_of_all_bounds_is_no_box(number):
    assert parse_box(f"[{number}, 0, 1, 1]") is None
