"""What several questions of a batch begin with, read once: an image and the text before it, a system prompt.

The keys and values of a token depend on it and the tokens before it alone. So where questions begin alike, with the
same image, their beginning is read once, and its part of the cache is copied to each of them; then the rest of every
question is read. CoIN's test sets ask several questions about one image, and an image is 576 of the some 640 tokens of
a question.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


#: Arguments of ``model.generate`` that are understood here: of any other nobody knows which token it belongs to.
_TEXTS, _IMAGES = ("input_ids", "attention_mask"), ("pixel_values", "image_sizes")
#: Beginnings are shared where at most this part of the tokens, padding included, is left to read.
_WORTHWHILE = 0.75


@dataclass
class Beginnings:
    """A batch of questions, cut in two.

    Attributes:
        batch: Arguments of ``model.generate`` for the beginnings, each of them once, padded on the left.
        of_row: The beginning of each question; shape (questions,).
        input_ids: Of the questions: the padded beginning, and the padded rest. They are as long as the batch was.
        attention_mask: 1 where a token is no padding; the same shape.
    """

    batch: dict[str, Tensor]
    of_row: Tensor
    input_ids: Tensor
    attention_mask: Tensor


def shared_beginnings(batch: dict[str, Tensor], image_token_id: int | None, pad_token_id: int) -> Beginnings | None:
    """Find what questions of a batch begin with, where reading it once saves a quarter of the tokens.

    Args:
        batch: Arguments of ``model.generate``, padded on the left.
        image_token_id: What stands for a part of an image; None where the model has no such token.
        pad_token_id: What padding is.

    Returns:
        None where less is saved; where the batch holds more than texts and images; where some questions have an image
        and others none, or several; and where a question ends with its image, or has a single token.
    """
    texts = [ids[mask.bool()].tolist() for ids, mask in zip(*(batch[name] for name in _TEXTS), strict=True)]
    images = {name: batch[name] for name in _IMAGES if name in batch}
    ends = [_end_of_image(text, image_token_id) for text in texts]
    if set(batch) - {*_TEXTS, *_IMAGES} or any(len(part) != len(texts) for part in images.values()):
        return None
    if (images and not all(ends)) or any(len(text) <= max(end, 1) for text, end in zip(texts, ends, strict=True)):
        return None
    groups = [part for group in _alike([*images.values()], len(texts)) for part in _common(group, texts, ends)]
    longest = [max(len(texts[row]) for row in rows) for _, rows in groups]
    left = max(whole - common for whole, (common, _) in zip(longest, groups, strict=True))
    # all rests are padded to the longest, so a beginning gives up tokens to a rest that would be shorter
    cuts = [max(whole - left, ends[rows[0]], 1) for whole, (_, rows) in zip(longest, groups, strict=True)]
    begun, width = max(cuts), max(longest)
    if begun + left > width or len(groups) * begun + len(texts) * left > _WORTHWHILE * len(texts) * width:
        return None
    number_of = {row: number for number, (_, rows) in enumerate(groups) for row in rows}
    of_row = torch.tensor([number_of[row] for row in range(len(texts))])
    firsts = [rows[0] for _, rows in groups]
    first_ids, first_mask = _padded(
        [texts[row][:cut] for row, cut in zip(firsts, cuts, strict=True)], begun, pad_token_id
    )
    rest_ids, rest_mask = _padded([text[cuts[number_of[row]] :] for row, text in enumerate(texts)], left, pad_token_id)
    return Beginnings(
        {
            "input_ids": first_ids,
            "attention_mask": first_mask,
            **{name: part[firsts] for name, part in images.items()},
        },
        of_row,
        torch.cat([first_ids[of_row], rest_ids], dim=1),
        torch.cat([first_mask[of_row], rest_mask], dim=1),
    )


def _end_of_image(text: Sequence[int], image_token_id: int | None) -> int:
    """Return where the last token of an image ends; 0 where there is none."""
    return next((place for place in range(len(text), 0, -1) if text[place - 1] == image_token_id), 0)


def _alike(images: Sequence[Tensor], count: int) -> list[list[int]]:
    """Group questions by their images; without images all are alike."""
    groups: list[list[int]] = []
    for row in range(count):
        same = (group for group in groups if all(torch.equal(part[group[0]], part[row]) for part in images))
        group = next(same, None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return groups


def _common(group: list[int], texts: Sequence[Sequence[int]], ends: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Return how many tokens questions with the same image, or all without, begin with in common.

    A token of each question is left to read. Questions that differ before the end of their image stand alone.
    """
    rows = [texts[row] for row in group]
    shortest = min(map(len, rows)) - 1
    common = next((place for place in range(shortest) if len({row[place] for row in rows}) > 1), shortest)
    if common < max(1, *(ends[row] for row in group)):
        return [(len(texts[row]) - 1, [row]) for row in group]
    return [(common, group)]


def _padded(texts: Sequence[Sequence[int]], length: int, pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Return texts padded on the left, and their mask."""
    pairs = [(torch.tensor(text), torch.ones(len(text), dtype=torch.long)) for text in texts]

    def whole(parts: Sequence[Tensor], fill: int) -> Tensor:
        return torch.stack([nn.functional.pad(part, (length - len(part), 0), value=fill) for part in parts])

    ids, masks = zip(*pairs, strict=True)
    return whole(ids, pad_token_id), whole(masks, 0)
