"""Where wrong answers come from: the task's other answers, the nearest group first."""

import random
import sys
from collections.abc import Iterable, Iterator, Sequence

from sefe_plugin.answers.boxes import box_nearby, box_notation, fewest_decimals, parse_box, strip_zeros
from sefe_plugin.answers.styles import MULTIPLE_CHOICE
from sefe_plugin.answers.texts import (
    BOX,
    answer_key,
    answer_kind,
    content_words,
    has_placeholder,
    is_whole,
    split_question,
    strip_periods,
)
from sefe_plugin.asd.items import Item, Region, parse_item
from sefe_plugin.data.sample import Sample, UnsuitableSampleError


#: Draws from one group, whole where it is smaller, before the next wider one is tried.
_DRAWS = 12


class AnswerPool:
    """The answers of one task, grouped so that a wrong answer fits the question.

    A wrong answer is drawn from the answers to the same question (templated questions, as in OCR-VQA), else to
    questions with the same first two words ("What color", "How many"), else from all of the same kind (yes/no,
    number, words), else from all. Draws follow the answers' frequency, so frequency does not give the gold away.

    Args:
        samples: All samples of the task.
        native: The task's own answer style.
        scored_as: The style of the answers that the task's scorer reads, None where it is not known.

    Attributes:
        native: The task's own answer style.
        scored_as: As in the arguments.
        shares: Whether all boxes are given in shares of the image: none goes beyond 1.
        decimals: The fewest decimals that a number of a box has; less than others have where zeros are not written.
    """

    def __init__(self, samples: Iterable[Sample], native: str, scored_as: str | None = None):
        self.native, self.scored_as = native, scored_as
        self.shares, self.decimals = True, sys.maxsize
        self._groups: dict[tuple[str, ...], list[str]] = {}
        # A multiple-choice sample brings its own wrong answers.
        if native != MULTIPLE_CHOICE:
            for sample in samples:
                self._add(sample)
        self._distinct = {keys: list(dict.fromkeys(self._groups[keys])) for keys in self._groups if len(keys) < 2}

    def distractors(self, item: Item, count: int, rng: random.Random) -> list[str]:
        """Draw wrong answers that differ from the gold and from one another in what they say, however it is spelled.

        A sample's own options are not compared so: they differ where their texts do.

        Args:
            item: The question and its gold answer.
            count: How many are wanted.
            rng: Source of randomness; only its ``random()`` is used, which no Python version may change.

        Returns:
            1 to `count` texts; fewer than `count` only where the task has no more.

        Raises:
            UnsuitableSampleError: Where the task has no other answer at all.
        """
        found: list[str] = []
        key_of = strip_periods if item.options else answer_key if isinstance(item, Region) else content_words
        taken = {key_of(item.gold)}
        for candidate in self._candidates(item, rng):
            key = key_of(candidate)
            if key not in taken and item.admits(candidate):
                taken.add(key)
                found.append(candidate)
                if len(found) == count:
                    break
        if not found:
            raise UnsuitableSampleError(f"the task has no answer other than {item.gold!r} that is clearly wrong")
        return found

    def item(self, sample: Sample) -> Item:
        """Take one of the task's samples apart.

        Raises:
            UnsuitableSampleError: Where the text does not have the parts that its style needs.
        """
        return parse_item(sample, self.native, self.shares, self.scored_as)

    def _add(self, sample: Sample) -> None:
        answer = sample.answer.strip()
        if has_placeholder(answer) or not is_whole(answer):
            return
        if self.native == BOX:
            box = parse_box(answer)
            if box is None:
                return
            self.shares = self.shares and max(box) <= 1
            self.decimals = min(self.decimals, fewest_decimals(answer))
            keys = ((BOX,),)
        else:
            keys = _group_keys(split_question(sample.question)[1], answer_kind(answer))
        for key in keys:
            self._groups.setdefault(key, []).append(answer)

    def _candidates(self, item: Item, rng: random.Random) -> Iterator[str]:
        if item.options:
            yield from shuffled(item.options, rng)
        elif isinstance(item, Region):
            yield from self._boxes(item, rng)
        else:
            yield from self._answers(item, rng)

    def _boxes(self, item: Region, rng: random.Random) -> Iterator[str]:
        nearby, notation = rng.random() < 0.5, box_notation(item.gold)
        for _ in range(4 * _DRAWS):
            # Without the image's size, a box that is made up may lie outside of it.
            made_up = nearby and item.shares
            if made_up:
                yield strip_zeros(notation % box_nearby(item.box, rng), self.decimals)
            else:
                yield pick(self._groups[BOX,], rng)
            nearby = not nearby
        yield from _around(self._distinct[BOX,], rng)

    def _answers(self, item: Item, rng: random.Random) -> Iterator[str]:
        gold, lower = answer_key(item.gold), item.gold.islower()
        for token in shuffled(item.tokens, rng):
            key = answer_key(token)
            # Gold "stop", sign "STO" or "STOPS": the sign may be the right answer misread, so it is no wrong answer.
            # The rule: a token that is a part of the gold answer, or holds it, is passed over.
            if key and key not in gold and gold not in key and answer_kind(token) == item.kind:
                # Gold "stop", sign "EXIT": the capitals alone would tell which answer is wrong, so it becomes "exit".
                # The rule: where the gold answer is in lower case, the wrong one is too.
                yield token.lower() if lower else token
        keys = _group_keys(item.stem, item.kind)
        for group in (self._groups.get(key, ()) for key in keys):
            yield from shuffled(group, rng) if len(group) <= _DRAWS else (pick(group, rng) for _ in range(_DRAWS))
        for key in keys[2:]:
            yield from _around(self._distinct.get(key, ()), rng)


def pick(values: Sequence[str], rng: random.Random) -> str:
    """Draw one value; uses ``rng.random()`` alone."""
    return values[int(rng.random() * len(values))]


def shuffled(values: Sequence[str], rng: random.Random) -> list[str]:
    """Return the values in random order; uses ``rng.random()`` alone."""
    values = list(values)
    for i in range(len(values) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        values[i], values[j] = values[j], values[i]
    return values


def _group_keys(stem: str, kind: str) -> tuple[tuple[str, ...], ...]:
    question = stem.split("\n", 1)[0]
    opening = " ".join(question.split(None, 2)[:2])
    keys = (kind, "question", question), (kind, "opening", opening.casefold()), (kind,)
    # Yes and no answer no question that has another answer.
    return keys if kind == "yes_no" else (*keys, ())


def _around(values: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Walk once around the values from a random start."""
    start = int(rng.random() * len(values))
    for i in range(len(values)):
        yield values[(start + i) % len(values)]
