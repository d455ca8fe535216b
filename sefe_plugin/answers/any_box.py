"""Boxes in whatever way a model writes them: as JSON, with labels, in a sentence; in shares, pixels or thousandths."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sefe_plugin.answers.boxes import Box, parse_box


#: Unit of a box's numbers -> how many of it make the whole side; a pixel's depends on the image.
UNITS = {"share": 1.0, "percent": 100.0, "thousandth": 1000.0}
PIXEL = "pixel"

_NUMBER = r"-?(?:\d+(?:\.\d*)?|\.\d+)"
_LABEL = r"(?:[\"'<]?\b[xy](?:_?(?:min|max|[0-2]))?\b[\"'>]?\s*[:=]\s*)?"
_BETWEEN = r" ?[\])}]? ?[,; ] ?[\[({]? ?"
_FOUR = re.compile(
    rf"(?<![\w.-]){_LABEL}({_NUMBER})" + rf"(?:{_BETWEEN}|\)\(){_LABEL}({_NUMBER})" * 3 + r"(?![\w.]*\d)"
)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_DEEPEST = 8


def box_in(text: str) -> Box | None:
    """Return the one box in a text; None where there is none, or there are several that differ.

    Example:
        >>> box_in('```json [{"bbox_2d": [10, 20, 30, 40], "label": "dog"}]```')
        (10.0, 20.0, 30.0, 40.0)
        >>> box_in("The dog is at <box>(10,20),(30,40)</box>."), box_in("[1, 2, 3, 4] or [5, 6, 7, 8]")
        ((10.0, 20.0, 30.0, 40.0), None)
    """
    if (box := parse_box(text)) is not None:
        return box
    fenced = _FENCE.search(text)
    try:
        found = {*_in_json(json.loads(fenced.group(1) if fenced else text))}
    except (ValueError, RecursionError):
        found = set()
    if not found:
        found = {tuple(map(float, match.groups())) for match in _FOUR.finditer(" ".join(text.split()))}
    return found.pop() if len(found) == 1 else None


def as_shares(box: Box, unit: str, size: tuple[float, float] | None = None) -> Box:
    """Turn a box into shares of the image's sides.

    Args:
        box: x1, y1, x2, y2.
        unit: A key of `UNITS`, or "pixel".
        size: Width and height of the image in pixels, for pixels.

    Example:
        >>> as_shares((100, 200, 500, 1000), "thousandth"), as_shares((64, 48, 320, 240), "pixel", (640, 480))
        ((0.1, 0.2, 0.5, 1.0), (0.1, 0.1, 0.5, 0.5))
    """
    width, height = size if unit == PIXEL and size else (UNITS[unit],) * 2
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def _in_json(value: Any, depth: int = 0) -> Iterator[Box]:
    """Yield the boxes of a JSON value: lists of four numbers, and mappings with four corners."""
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        if len(value) == 4 and all(_is_number(part) for part in value):
            yield tuple(map(float, value))
        else:
            for part in value:
                yield from _in_json(part, depth + 1)
    elif isinstance(value, Mapping):
        for names in _CORNERS:
            if all(_is_number(value.get(name)) for name in names):
                yield tuple(float(value[name]) for name in names)
                return
        for part in value.values():
            yield from _in_json(part, depth + 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
