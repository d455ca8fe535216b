"""What a model is asked: which samples share a request, and how their entries read."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sefe_plugin.answers.boxes import Box, square_to_image
from sefe_plugin.answers.styles import EXPLANATIONS, SHORT_ANSWER
from sefe_plugin.answers.texts import BOX, in_words
from sefe_plugin.asd.assembly import distractors_needed
from sefe_plugin.asd.items import Item, Region
from sefe_plugin.asd.pictures import PictureError, picture_size
from sefe_plugin.asd.writer.generators import UnreadableImageError
from sefe_plugin.asd.writer.templates import Prompts, Task


#: Most samples in one request: more make a reply long, and one fault costly.
_MOST = 12


class Chosen(NamedTuple):
    """A sample that a model writes for.

    Attributes:
        index: Its place in the task, from 0.
        style: The style that it gets.
        truth: Whether a yes/no item claims the gold answer.
    """

    index: int
    style: str
    truth: bool


@dataclass(frozen=True)
class Entry:
    """What one sample needs from a model.

    Attributes:
        item: The sample taken apart.
        style: The style that it gets.
        truth: Whether a yes/no item claims the gold answer.
        question: The text that the reply has to repeat.
    """

    item: Item
    style: str
    truth: bool
    question: str


@dataclass(frozen=True)
class Request:
    """One request about samples of one style that share their images.

    Attributes:
        chosen: The samples by their number in the request, from 1.
        entries: What each needs, by the same number.
        prompt: The text to send.
        images: The images' paths.
    """

    chosen: Mapping[int, Chosen]
    entries: Mapping[int, Entry]
    prompt: str
    images: tuple[Path, ...]


def needs_model(item: Item, style: str, truth: bool, written: frozenset[str], native: str) -> bool:
    """Tell whether a model writes for this sample: it has a prompt, and the texts are not at hand.

    A sample's own options, the other boxes of grounding, the other one of yes and no, and the gold answer itself are
    at hand.

    Args:
        item: The sample taken apart.
        style: The style that it gets.
        truth: Whether a yes/no item claims the gold answer.
        written: The styles that have a prompt.
        native: The task's own style.
    """
    if style not in written:
        return False
    if style in EXPLANATIONS:
        return True
    if style == SHORT_ANSWER:
        return native in EXPLANATIONS
    return native != BOX and not item.options and distractors_needed(item, style, truth) > 0


def group(chosen: Iterable[Chosen], images_of: Callable[[int], Sequence[str]] | None) -> list[list[Chosen]]:
    """Put samples that share style and images together, at most 12; alone where they have no image.

    Args:
        chosen: The samples.
        images_of: Returns a sample's images; None keeps every sample alone.
    """
    if images_of is None:
        return [[sample] for sample in chosen]
    groups: list[list[Chosen]] = []
    latest: dict[tuple, list[Chosen]] = {}
    for sample in chosen:
        images = images_of(sample.index)
        key = (sample.style, *images)
        if not images or len(latest.get(key, ())) in (0, _MOST):
            latest[key] = []
            groups.append(latest[key])
        latest[key].append(sample)
    return groups


def write_request(
    group: Sequence[Chosen],
    items: Sequence[Item],
    records: Sequence[Mapping[str, Any]],
    images: tuple[Path, ...],
    task: Task,
    prompts: Prompts,
) -> Request:
    """Write the request for samples of one style.

    Args:
        group: The samples.
        items: The same, taken apart.
        records: Their records, for the task's further columns.
        images: Their common images.
        task: The task's description, resolved.
        prompts: The prompts of its kind.

    Raises:
        UnreadableImageError: Where a box needs the size of an image that cannot be read.
    """
    shown, entries = [], {}
    first = in_words(items[0].open(), items[0].head)
    for number, (sample, item, record) in enumerate(zip(group, items, records, strict=True), start=1):
        entry = {"index": number, **_entry(item, images, task)}
        entry |= {name: record[column] for name, column in task.columns.items() if column in record}
        shown.append(entry)
        question = first if task.replies == "plain" else entry["question"]
        entries[number] = Entry(item, sample.style, sample.truth, question)
    values = {
        "items": "[" + ",\n ".join(json.dumps(entry, ensure_ascii=False) for entry in shown) + "]",
        "question": first,
        "answer": items[0].gold,
    }
    return Request(dict(enumerate(group, start=1)), entries, prompts.ask(group[0].style, values), images)


def _entry(item: Item, images: Sequence[Path], task: Task) -> dict[str, Any]:
    if isinstance(item, Region):
        return {"question": item.stem, "box": [round(share, 2) for share in _shares(item.box, images, task.boxes)]}
    entry = {"question": item.question, "answer": item.gold}
    further = {
        "choices": list(item.options),
        "context": item.context.removeprefix("Context:").strip().removeprefix("N/A"),
        "texts_in_the_picture": item.tokens,
    }
    return entry | {name: value for name, value in further.items() if value}


def _shares(box: Box, images: Sequence[Path], boxes: str) -> Box:
    """Return a box as shares of the image's width and height."""
    if boxes == "image":
        return box
    try:
        width, height = picture_size(images[0])
    except (PictureError, IndexError) as error:
        raise UnreadableImageError("an image cannot be read") from error
    if boxes == "square":
        return square_to_image(box, width, height)
    return tuple(value / edge for value, edge in zip(box, (width, height, width, height), strict=True))
