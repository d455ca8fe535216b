"""Rules for numbers and for boxes in a declared unit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sefe_plugin.answers.any_box import PIXEL, as_shares, box_in
from sefe_plugin.answers.boxes import Box, box_iou, parse_box
from sefe_plugin.answers.numbers import Quantity, read_quantity
from sefe_plugin.answers.reading import said_quantity
from sefe_plugin.evaluation.scorers.base import Score
from sefe_plugin.evaluation.scorers.golds import golds_of
from sefe_plugin.options import option


@dataclass
class NumberOptions:
    """How near a number must be, and whether it needs its unit."""

    tolerance: float = option(
        0.0,
        "How far the number may be from the gold answer, as a share of that: 0.05 for 5 %, as charts are scored.",
        rule="a share in [0, 1]",
        holds=lambda value: 0 <= value <= 1,
    )
    absolute_tolerance: float = option(
        0.0,
        "How far the number may be from the gold answer, in its own unit; the larger of the two counts.",
        rule="a number of at least 0",
        holds=lambda value: value >= 0,
    )
    units: Literal["optional", "required", "ignored"] = option(
        "optional",
        "What becomes of units. optional: where answer and gold answer both have one, they must be the same. "
        "required: the answer must have that of the gold answer. ignored: units do not count. None is converted: 1 km "
        "is not 1000 m.",
    )


@dataclass
class BoxOptions:
    """In which unit answers and gold answers give their boxes."""

    box_scale: Literal["gold", "share", "percent", "thousandth", "pixel"] = option(
        "gold",
        "Unit of the answers' numbers. gold: the same as the gold answers', whatever that is. share: of the image's "
        'width and height, 0 to 1. percent: 0 to 100. thousandth: 0 to 1000. pixel: needs the record\'s "size", '
        "[width, height].",
    )
    gold_scale: Literal["share", "percent", "thousandth", "pixel"] = option(
        "share", "Unit of the gold answers' numbers; read where `box_scale` is another than gold."
    )
    iou: float = option(
        0.5,
        "Overlap (intersection over union) that the box must exceed to be right.",
        rule="a share in [0, 1)",
        holds=lambda value: 0 <= value < 1,
    )


def score_number(prediction: str, record: Mapping, options: NumberOptions) -> Score:
    """Score 1 where the answer is the number, in digits or in words.

    Right format: one number, with a unit or without, and nothing else.

    Example:
        >>> [score_number(text, {"answer": "3"}, NumberOptions()).correct for text in ("3", "three.", "3 dogs", "4")]
        [1.0, 1.0, 1.0, 0.0]
        >>> score_number("There are 3.", {"answer": "3"}, NumberOptions())
        Score(correct=0.0, formatted=False)
    """
    golds, given = _gold_quantities(record), read_quantity(prediction)
    if given is None:
        return Score(0.0, False)
    return Score(float(any(_near(given, gold, options) for gold in golds)), True)


def read_number(prediction: str, record: Mapping, options: NumberOptions) -> float:
    """Give 1 where the number is right that the answer says, also in a sentence; a word behind it is no unit there.

    Example:
        >>> read_number("There are three of them.", {"answer": "3"}, NumberOptions())
        1.0
    """
    given = said_quantity(prediction)
    if given is None:
        return 0.0
    golds = _gold_quantities(record)
    bare = given._replace(unit="") if options.units == "optional" and all(not gold.unit for gold in golds) else given
    return float(any(_near(bare, gold, options) for gold in golds))


def score_box(prediction: str, record: Mapping, options: BoxOptions) -> Score:
    """Score a box: ``[x1, y1, x2, y2]`` and nothing else; right if its overlap with the gold box exceeds 0.5.

    Both boxes are in the same unit, unless `box_scale` says otherwise (CoIN: shares of the padded square's side). The
    overlap is free of scale, so the record's "size", by which the official script multiplies both, changes nothing and
    is read for pixels only.

    Example:
        >>> record = {"answer_bbox": "[0.10, 0.10, 0.50, 0.50]", "size": [640, 480]}
        >>> score_box("[0.1, 0.1, 0.5, 0.45]", record, BoxOptions())
        Score(correct=1.0, formatted=True)
        >>> score_box("0.1, 0.1, 0.5, 0.5", record, BoxOptions())
        Score(correct=0.0, formatted=False)
        >>> score_box("[64, 48, 320, 240]", record, BoxOptions(box_scale="pixel"))
        Score(correct=1.0, formatted=True)
    """
    gold = _gold_box(record, options)
    box = parse_box(prediction)
    return Score(0.0, False) if box is None else Score(_overlaps(box, gold, record, options), True)


def read_box(prediction: str, record: Mapping, options: BoxOptions) -> float:
    """Give 1 where the one box in the answer is right, however it is written.

    Example:
        >>> record = {"answer_bbox": "[0.10, 0.10, 0.50, 0.50]"}
        >>> read_box('{"bbox_2d": [100, 100, 500, 500]}', record, BoxOptions(box_scale="thousandth"))
        1.0
    """
    box = box_in(prediction)
    return 0.0 if box is None else _overlaps(box, _gold_box(record, options), record, options)


def _gold_quantities(record: Mapping) -> list[Quantity]:
    golds = [(gold, read_quantity(gold)) for gold in golds_of(record)]
    if wrong := [gold for gold, quantity in golds if quantity is None]:
        raise ValueError(f"'answer' must be a number, with or without a unit, got {wrong[0]!r:.200}")
    return [quantity for _, quantity in golds]


def _near(given: Quantity, gold: Quantity, options: NumberOptions) -> bool:
    units = options.units
    if units != "ignored" and given.unit != gold.unit and (units == "required" or (given.unit and gold.unit)):
        return False
    most = max(options.tolerance * abs(gold.value), options.absolute_tolerance)
    # a rounded sum must not fall out of the bounds that it lies on
    return abs(given.value - gold.value) <= most * (1 + 1e-9) + 1e-12 * abs(gold.value)


def _gold_box(record: Mapping, options: BoxOptions) -> Box:
    field = record.get("answer_bbox")
    if not isinstance(field, str):
        raise ValueError(f"needs a text as 'answer_bbox', got {field!r}")
    gold = parse_box(field)
    if gold is None:
        raise ValueError(f"'answer_bbox' must be written as '[x1, y1, x2, y2]', got {field!r}")
    if options.box_scale == "gold":
        return gold
    return as_shares(gold, options.gold_scale, _size(record, options))


def _overlaps(box: Box, gold: Box, record: Mapping, options: BoxOptions) -> float:
    if options.box_scale != "gold":
        box = as_shares(box, options.box_scale, _size(record, options))
    return float(box_iou(box, gold) > options.iou)


def _size(record: Mapping, options: BoxOptions) -> tuple[float, float] | None:
    """Return the size of the image where a unit needs it."""
    if PIXEL not in (options.box_scale, options.gold_scale):
        return None
    size = record.get("size")
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(isinstance(side, int | float) and 0 < side < 1e9 for side in size)
    ):
        raise ValueError(f"needs width and height in pixels as 'size', got {size!r}")
    return size[0], size[1]
