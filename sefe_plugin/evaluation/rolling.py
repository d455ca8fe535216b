"""Greedy answers with a batch that stays full: who has answered leaves it, and new questions take the place.

A fixed batch runs until its longest answer ends, so most of its rows are padding for most of the time. Here every
forward pass still is one of `generate`, which is called anew whenever rows leave or join: it goes on from the
key-value cache of the rows that are left. Only this cache is cut and put together here.

Questions are read in batches of the caller's size, and what those of a batch begin with is read once (`reading`). Then
they decode together with those that are read before them. The cache is bounded: see `cache_room`.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from sefe_plugin.evaluation.generate import check_padding, generate_tokens
from sefe_plugin.evaluation.reading import Read, Reader


#: A batch of questions: what the caller knows each of them by, and the arguments of ``model.generate``.
Asked = tuple[list[Hashable], dict[str, Tensor]]

#: Bytes that the cache may always take, however few questions the caller reads at a time.
SMALL_CACHE = 256 << 20
#: How many times as many questions as are read at a time decode together at most.
MOST_BATCHES = 8
#: Steps for which the cache is given room at a time.
_STEPS = 16


def cache_room(batch_size: int, longest: int, token_bytes: int) -> int:
    """Return how many tokens the cache may hold at a time, padding included.

    They are those of `batch_size` questions of the greatest length, as a fixed batch of them would need at its end;
    or as many as take 256 MiB, where that is more: the rows of a small model cost little. Beside them the cache has
    room for the next 16 steps at most.

    Args:
        batch_size: Questions that are read at a time.
        longest: Tokens of the longest question so far and of the longest answer that is allowed, together.
        token_bytes: Bytes of the keys and values of one token in all layers.

    Example:
        >>> cache_room(16, 768, 524288), cache_room(40, 70, 6400)
        (12288, 41943)
    """
    return max(batch_size * longest, SMALL_CACHE // token_bytes)


def rolling_answers(
    model: PreTrainedModel,
    batches: Iterable[Asked],
    decode: Callable[[list[int]], str],
    *,
    max_new_tokens: int,
    eos_token_id: list[int],
    pad_token_id: int,
) -> Iterator[tuple[Hashable, str]]:
    """Answer every question by greedy decoding, as `generate_answers` does, and yield each answer when it has ended.

    Call it within `generating`.

    The answers are those of `generate_answers` up to rounding: they depend on their neighbours only where a model's
    positions do (rotary scaling that follows the longest text of a batch). A model whose cache is more than keys and
    values of the tokens that it is given (prompts in front of them, windows, states, positions of its own for images)
    answers each batch for itself.

    Args:
        model: A causal language model, with or without images, on its device; PEFT wrappers are fine.
        batches: The questions, padded on the left.
        decode: As in `generate_answers`.
        max_new_tokens: Tokens of the longest answer.
        eos_token_id: Every token that ends an answer.
        pad_token_id: What stands behind an answer that has ended.

    Yields:
        What a question is known by, and its answer without outer blanks; not in the order of the questions.

    Raises:
        ValueError: Where a batch is not padded on the left.
    """
    limits = {"max_new_tokens": max_new_tokens, "eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
    waiting = iter(batches)
    read: list[_Rows] = []  # and not yet part of those that are being answered
    running: _Rows | None = None
    following, room, most_rows = next(waiting, None), 0, 0
    reader = None if _keeps_positions(model) else Reader(model, limits)
    while running is not None or read or following is not None:
        together = [*([] if running is None else [running]), *read]
        missing = 0
        if following is not None and together:
            final = [rows.final_width(max_new_tokens) for rows in together]
            width = max(*final, following[1]["input_ids"].shape[1] + max_new_tokens)
            missing = sum(len(rows.keys) for rows in together) + len(following[0]) - min(room // width, most_rows)
        if following is not None and missing <= 0:
            keys, batch = following
            check_padding(batch)
            following = next(waiting, None)
            first = None if reader is None else reader.read(batch)
            if first is None:
                reader = None
                batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
                output = generate_tokens(model, batch, **limits)
                new_tokens = output[:, batch["input_ids"].shape[1] :].tolist()
                yield from ((key, decode(tokens).strip()) for key, tokens in zip(keys, new_tokens, strict=True))
                continue
            new = _Rows.of(keys, first)
            longest = first.mask.shape[1] + max_new_tokens
            room = max(room, cache_room(len(keys), longest, new.token_bytes()))
            most_rows = max(most_rows, MOST_BATCHES * len(keys))
            ended, left = new.without_ended(eos_token_id, max_new_tokens)
            read += [] if left is None else [left]
        else:
            running, read = _joined(together, pad_token_id), []
            # until half of the answers have ended, or so many that the next questions find room
            half = -(-len(running.keys) // 2)
            running.go_on(model, min(half, missing) if missing > 0 else half, limits)
            ended, running = running.without_ended(eos_token_id, max_new_tokens)
        yield from ((key, decode(tokens).strip()) for key, tokens in ended)


def _keeps_positions(model: nn.Module) -> bool:
    """Tell whether the model keeps positions of the last batch that it has read (Qwen2-VL and its kind)."""
    return any("rope_deltas" in vars(module) for module in model.modules())


class _RoomyLayer(DynamicLayer):
    """A layer of the cache that has room for tokens to come, so that a step need not copy it.

    `keys` and `values` are views of what is filled.

    Args:
        parts: Keys and values with room behind them, of shape (rows, heads, tokens, size).
        filled: How many tokens of them are there.
    """

    def __init__(self, parts: tuple[Tensor, Tensor], filled: int):
        super().__init__()
        self.lazy_initialization(*parts)
        self._parts = parts
        self._show(filled)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add the tokens of a step, and return all."""
        begin = self.keys.shape[2]
        end = begin + key_states.shape[2]
        if end > self._parts[0].shape[2]:
            self._parts = tuple(nn.functional.pad(part, (0, 0, 0, _STEPS)) for part in self._parts)
        for part, states in zip(self._parts, (key_states, value_states), strict=True):
            part[:, :, begin:end] = states
        self._show(end)
        return self.keys, self.values

    def only(self, rows: Tensor, start: int) -> "_RoomyLayer":
        """Return a layer of some rows alone, without the first tokens."""
        return _RoomyLayer(tuple(part[rows, :, start:] for part in self._parts), self.keys.shape[2] - start)

    def _show(self, filled: int) -> None:
        self.keys, self.values = (part[:, :, :filled] for part in self._parts)


def _side_by_side(parts: Sequence[Tensor], filled: int) -> Tensor:
    """Return parts of a cache as one, the shorter ones with padding on the left and all with room on the right.

    What is padding is 0: it is weighed with 0, and must be finite.
    """
    first = parts[0]
    whole = first.new_zeros(sum(map(len, parts)), first.shape[1], filled + _STEPS, first.shape[3])
    begin = 0
    for part in parts:
        whole[begin : begin + len(part), :, filled - part.shape[2] : filled] = part
        begin += len(part)
    return whole


def _joined(batches: Sequence["_Rows"], pad_token_id: int) -> "_Rows":
    """Return the rows of several batches as one; their caches are used up."""
    if len(batches) == 1 and isinstance(batches[0].cache.layers[0], _RoomyLayer):
        return batches[0]
    length = max(rows.ids.shape[1] for rows in batches)

    def both(parts: Sequence[Tensor], fill: int) -> Tensor:
        return torch.cat([nn.functional.pad(part, (length - part.shape[1], 0), value=fill) for part in parts])

    caches = [rows.cache.layers for rows in batches]
    whole = DynamicCache()
    for index in range(len(caches[0])):
        layers = [layers[index] for layers in caches]
        keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
        filled = length - 1
        whole.layers.append(_RoomyLayer((_side_by_side(keys, filled), _side_by_side(values, filled)), filled))
        for layers in caches:
            layers[index] = None  # its memory is free for the next layer
    return _Rows(
        [key for rows in batches for key in rows.keys],
        both([rows.ids for rows in batches], pad_token_id),
        both([rows.mask for rows in batches], 0),
        torch.cat([rows.made for rows in batches]),
        whole,
    )


@dataclass
class _Rows:
    """Questions that are being answered together.

    Attributes:
        keys: What each is known by.
        ids: Its tokens and those of its answer, padded on the left and perhaps within; shape (rows, length).
        mask: 1 where a token is no padding; the same shape.
        made: Tokens of each answer; shape (rows,).
        cache: Of all tokens but the last.
    """

    keys: list[Hashable]
    ids: Tensor
    mask: Tensor
    made: Tensor
    cache: DynamicCache

    @classmethod
    def of(cls, keys: list[Hashable], first: Read) -> "_Rows":
        """Return the rows of questions that have just been read."""
        made = torch.ones(len(keys), dtype=torch.long, device=first.ids.device)
        return cls(keys, first.ids, _with_ones(first.mask, 1), made, first.cache)

    def token_bytes(self) -> int:
        """Bytes of one token of one row in all layers."""
        parts = [part for layer in self.cache.layers for part in (layer.keys, layer.values)]
        return sum(part.shape[1] * part.shape[3] * part.element_size() for part in parts)

    def final_width(self, max_new_tokens: int) -> int:
        """Tokens of a row when the last answer has ended."""
        return self.ids.shape[1] + max_new_tokens - int(self.made.min())

    def go_on(self, model: PreTrainedModel, leaving: int, limits: dict) -> None:
        """Take steps until so many answers have ended."""
        criterion = _EnoughEnded(self.made, leaving, limits["max_new_tokens"], limits["eos_token_id"])
        batch = {"input_ids": self.ids, "attention_mask": self.mask, "past_key_values": self.cache}
        most = limits["max_new_tokens"] - int(self.made.min())
        before = self.ids.shape[1]
        self.ids = generate_tokens(
            model, batch, StoppingCriteriaList([criterion]), **limits | {"max_new_tokens": most}
        )
        steps = self.ids.shape[1] - before
        self.mask, self.made = _with_ones(self.mask, steps), self.made + steps

    def without_ended(self, eos_token_id: list[int], max_new_tokens: int) -> tuple[list, "_Rows | None"]:
        """Return the answers that have ended, as keys and tokens, and the rows that are left; None for none."""
        ended, left = [], []
        stops = set(eos_token_id)
        for row, (key, made) in enumerate(zip(self.keys, self.made.tolist(), strict=True)):
            tokens = self.ids[row, -made:].tolist()[:max_new_tokens]
            end = next((number for number, token in enumerate(tokens, start=1) if token in stops), None)
            if end is None and len(tokens) < max_new_tokens:
                left.append(row)
            else:
                ended.append((key, tokens[:end]))
        return ended, self._only(left) if ended and left else self if left else None

    def _only(self, rows: list[int]) -> "_Rows":
        kept = torch.tensor(rows, device=self.ids.device)
        mask = self.mask[kept]
        start = int(mask.any(0).int().argmax())  # columns of padding alone
        for index, layer in enumerate(self.cache.layers):
            if isinstance(layer, _RoomyLayer):
                self.cache.layers[index] = layer.only(kept, start)
            else:
                layer.keys, layer.values = layer.keys[kept, :, start:], layer.values[kept, :, start:]
        keys = [self.keys[row] for row in rows]
        return _Rows(keys, self.ids[kept, start:], mask[:, start:], self.made[kept], self.cache)


class _EnoughEnded(StoppingCriteria):
    """Ends a row with its answer, and all rows as soon as enough have ended."""

    def __init__(self, made: Tensor, enough: int, max_new_tokens: int, eos_token_id: list[int]):
        self._left, self._enough = max_new_tokens - made, enough
        self._stops = torch.tensor(eos_token_id, device=made.device)
        self._ended = torch.zeros_like(made, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        self._left = self._left - 1
        self._ended |= torch.isin(input_ids[:, -1], self._stops) | (self._left <= 0)
        return torch.ones_like(self._ended) if self._ended.sum() >= self._enough else self._ended


def _with_ones(mask: Tensor, count: int) -> Tensor:
    return nn.functional.pad(mask, (0, count), value=1)
