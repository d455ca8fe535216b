"""A question and its answer in another style, put together from an item and the texts that the style needs."""

import random
from typing import NamedTuple

from sefe_plugin.answers.options import option_lines
from sefe_plugin.answers.styles import BRIEF, DETAILED, FORMAT_LINES, MULTIPLE_CHOICE, SHORT_ANSWER, YES_NO
from sefe_plugin.answers.texts import answer_key
from sefe_plugin.asd.items import Item
from sefe_plugin.asd.pool import shuffled
from sefe_plugin.data.sample import Sample, UnsuitableSampleError


class Texts(NamedTuple):
    """What a rewritten sample takes from outside the sample: from a rule or from a model.

    Attributes:
        distractors: Wrong answers for a claim or for options.
        answer: The answer itself: an explanation, or an explanation's short form.
    """

    distractors: tuple[str, ...] = ()
    answer: str = ""


def distractors_needed(item: Item, style: str, truth: bool) -> int:
    """Count the wrong answers that an item in a style takes: 3, 1 or none.

    Args:
        item: The item; a yes or no has the other of the two as its wrong answer.
        style: The style that it is rewritten into.
        truth: Whether a yes/no item claims the gold answer.
    """
    if item.kind == YES_NO or style not in (YES_NO, MULTIPLE_CHOICE):
        return 0
    return 3 if style == MULTIPLE_CHOICE else 0 if truth else 1


def assemble(item: Item, style: str, texts: Texts, rng: random.Random, truth: bool) -> Sample:
    """Write the sample: image placeholders, the question, its response-format line; and the answer.

    Args:
        item: The question and its gold answer.
        style: The style to write, one of `STYLES`.
        texts: As many distractors as `distractors_needed` says, or the answer of the other styles.
        rng: Orders the options; only its ``random()`` is used.
        truth: Whether a yes/no item claims the gold answer.

    Raises:
        UnsuitableSampleError: Where options would stand beside others that the question has already.
    """
    body, answer = _WRITERS[style](item, texts, rng, truth)
    return Sample(f"{item.head}{body}\n{FORMAT_LINES[style]}", answer)


def _yes_no(item: Item, texts: Texts, rng: random.Random, truth: bool) -> tuple[str, str]:
    if item.kind == YES_NO:
        return item.choice(), answer_key(item.gold).capitalize()
    return item.claim(item.gold if truth else texts.distractors[0]), "Yes" if truth else "No"


def _multiple_choice(item: Item, texts: Texts, rng: random.Random, truth: bool) -> tuple[str, str]:
    if item.mentions_options:
        raise UnsuitableSampleError(
            f"the question has options already, and nobody knows which is right: {item.stem!r:.200}"
        )
    gold, wrong = item.gold, texts.distractors
    if item.kind == YES_NO:
        gold = answer_key(gold).capitalize()
        wrong = ("No",) if gold == "Yes" else ("Yes",)
    options = shuffled([gold, *wrong], rng)
    return "\n".join([item.choice(), *option_lines(options)]), chr(ord("A") + options.index(gold))


def _short_answer(item: Item, texts: Texts, rng: random.Random, truth: bool) -> tuple[str, str]:
    return item.choice(), texts.answer


def _explanation(item: Item, texts: Texts, rng: random.Random, truth: bool) -> tuple[str, str]:
    return item.open(), texts.answer


_WRITERS = {
    YES_NO: _yes_no,
    MULTIPLE_CHOICE: _multiple_choice,
    SHORT_ANSWER: _short_answer,
    BRIEF: _explanation,
    DETAILED: _explanation,
}
