"""Boxes written as text, ``[x1, y1, x2, y2]``: reading, overlap, place in words and a wrong box close by."""

import math
import random
import re


Box = tuple[float, float, float, float]

_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,2})?")
_BOX = re.compile(r"\[\s*(N)\s*,\s*(N)\s*,\s*(N)\s*,\s*(N)\s*\]".replace("N", _NUMBER.pattern))
_ENDS_IN_ZERO = re.compile(r"\.(\d*0)(?!\d)")


def parse_box(text: str) -> Box | None:
    """Read a text that is one box and nothing else.

    Args:
        text: Four numbers, separated by commas, in square brackets; blanks are free.

    Returns:
        The four coordinates x1, y1, x2, y2, or None where the text is anything else, or a number is out of all bounds.

    Example:
        >>> parse_box("[0.76, 0.33, 0.99, 0.65]")
        (0.76, 0.33, 0.99, 0.65)
        >>> parse_box("The box is [0.76, 0.33, 0.99, 0.65].") is None
        True
    """
    match = _BOX.fullmatch(text.strip())
    box = tuple(map(float, match.groups())) if match else (math.inf,)
    return box if all(map(math.isfinite, box)) else None


def box_iou(first: Box, second: Box) -> float:
    """Compute the intersection over union of two boxes given in the same unit, in [0, 1].

    A box whose corners are in the wrong order has no area; two boxes without area overlap by 0.

    Example:
        >>> box_iou((0, 0, 2, 2), (1, 0, 3, 2))
        0.3333333333333333
    """
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    union = _area(first) + _area(second) - shared
    return shared / union if union > 0 else 0.0


def place_in_words(box: Box) -> str:
    """Say in which of the nine parts of the image a box has its centre.

    Args:
        box: x1, y1, x2, y2, in shares of the image.

    Example:
        >>> place_in_words((0.0, 0.1, 0.2, 0.3)), place_in_words((0.4, 0.4, 0.6, 0.6))
        ('top left', 'center')
    """
    column = ("left", "", "right")[_third(box[0] + box[2])]
    row = ("top", "", "bottom")[_third(box[1] + box[3])]
    return f"{row} {column}".strip() or "center"


def box_notation(text: str) -> str:
    """Return the way a box is written as a format for four numbers; all get as many decimals as the finest has.

    Example:
        >>> box_notation("[0.5,0.25, 1, 1]")
        '[%.2f,%.2f, %.2f, %.2f]'
    """
    decimals = max(map(_decimals, _NUMBER.findall(text)))
    return _NUMBER.sub(f"%.{decimals}f", text)


def fewest_decimals(text: str) -> int:
    """Count the decimals of the number in a text that has the fewest.

    Example:
        >>> fewest_decimals("[0.5, 0.25, 1.0, 0.125]"), fewest_decimals("[0, 0.25, 1, 0.5]")
        (1, 0)
    """
    return min(map(_decimals, _NUMBER.findall(text)))


def strip_zeros(text: str, decimals: int) -> str:
    """Strip the last zeros of all numbers in a text, written without exponents, down to so many decimals.

    Example:
        >>> strip_zeros("[0.50, 0.25, 1.00]", 1), strip_zeros("[0.50, 0.25, 1.00]", 0)
        ('[0.5, 0.25, 1.0]', '[0.5, 0.25, 1]')
    """

    def strip(match: re.Match) -> str:
        fraction = match.group(1)
        kept = fraction[:decimals] + fraction[decimals:].rstrip("0")
        return f".{kept}" if kept else ""

    return _ENDS_IN_ZERO.sub(strip, text)


def box_nearby(box: Box, rng: random.Random) -> Box:
    """Draw a box of about the same size near a given one.

    Each side is 0.5 to 1 times as long and the centre moves by up to one side; the result stays inside the image.

    Args:
        box: The box to move, in shares of the image.
        rng: Source of randomness.
    """
    low, high = [0.0, 0.0], [0.0, 0.0]
    for axis in (0, 1):
        side = box[axis + 2] - box[axis]
        length = side * (0.5 + 0.5 * rng.random())
        centre = (box[axis] + box[axis + 2]) / 2 + side * (2 * rng.random() - 1)
        low[axis] = min(max(centre - length / 2, 0.0), 1.0 - length)
        high[axis] = low[axis] + length
    return (*low, *high)


def square_to_image(box: Box, width: int, height: int) -> Box:
    """Turn a box given in shares of the image padded to a square into shares of the image itself.

    The padding lies on both sides of the shorter edge, as in LLaVA; CoIN's boxes are given so. What lies in the
    padding is cut off.

    Args:
        box: x1, y1, x2, y2 in [0, 1], as shares of the square's side.
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.

    Returns:
        x1, x2 as shares of the width and y1, y2 as shares of the height, in [0, 1].

    Example:
        >>> square_to_image((0.25, 0.25, 0.5, 0.75), width=200, height=100)
        (0.25, 0.0, 0.5, 1.0)
    """
    side = max(width, height)
    shares = [
        (coordinate * side - (side - edge) / 2) / edge
        for coordinate, edge in zip(box, (width, height, width, height), strict=True)
    ]
    return tuple(min(max(share, 0.0), 1.0) for share in shares)


def _decimals(number: str) -> int:
    fraction = number.partition(".")[2]
    if fraction.isdigit():
        return len(fraction)
    mantissa, _, exponent = number.lower().partition("e")
    return max(len(mantissa.partition(".")[2]) - int(exponent or 0), 0)


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _third(doubled_centre: float) -> int:
    return min(max(int(1.5 * doubled_centre), 0), 2)
