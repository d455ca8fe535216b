"""Answer Style Diversification by rule: recognise a task's own style and rewrite a sample into another.

Source: SEFE (arXiv 2505.02486), Answer Style Diversification. The paper lets a multimodal model write the distractors
and explanations; here both come from what the samples hold, so that no model is needed. The form of the rewritten
items (claims with a yes or no, lettered options) is this project's; the paper does not publish it.
"""

import random
from collections import Counter
from collections.abc import Iterable

from sefe_plugin.answers.boxes import parse_box
from sefe_plugin.answers.options import chosen_option, may_be_mark, option_mark, read_options
from sefe_plugin.answers.styles import (
    BRIEF,
    DETAILED,
    EXPLANATIONS,
    FORMAT_LINES,
    MULTIPLE_CHOICE,
    SHORT_ANSWER,
    STYLES,
    YES_NO,
)
from sefe_plugin.answers.texts import BOX, answer_key, count_words, split_question
from sefe_plugin.asd.assembly import Texts, assemble, distractors_needed
from sefe_plugin.asd.items import Item
from sefe_plugin.asd.pool import AnswerPool
from sefe_plugin.data.sample import Sample, UnsuitableSampleError


__all__ = [
    "BOX",
    "AnswerPool",
    "Sample",
    "UnsuitableSampleError",
    "native_style",
    "other_styles",
    "rewrite",
    "rewrite_item",
]

#: Longest answers, in words, that count as a short answer and as a brief explanation where no format line decides.
_SHORT_WORDS, _BRIEF_WORDS = 5, 35
_EMPTY, _MARK = "empty answer", "letter or number of an option"


def native_style(samples: Iterable[Sample], scored_as: str | None = None) -> str:
    """Recognise the answer style of a task from its samples.

    Each sample counts as multiple choice where its answer is the letter of one of its question's options, or a letter
    that the task's scorer takes for one. Else it counts for the style that its response-format line asks for; without
    one, for "box" where the question speaks of a bounding box, and else for the form of its answer: a box, yes or no,
    up to 5 words (short), up to 35 (brief), more (detailed). Yes and no count as short answers where other short
    answers occur. The style of more than half of the samples is the task's.

    Args:
        samples: The task's samples.
        scored_as: The style of the answers that the task's scorer reads, None where it is not known.

    Returns:
        One of `STYLES`, or "box".

    Raises:
        ValueError: Where there are no samples, no style has more than half of them, or the answers are letters of
            options that cannot be read.
    """
    lines, forms = Counter(), Counter()
    for sample in samples:
        _, stem, style = split_question(sample.question)
        if _is_choice(stem, sample.answer, style, scored_as):
            forms[MULTIPLE_CHOICE] += 1
        elif style is not None:
            lines[style] += 1
        elif scored_as != SHORT_ANSWER and may_be_mark(stem, sample.answer):
            forms[_MARK] += 1
        else:
            forms[_form(stem, sample.answer)] += 1
    if lines[SHORT_ANSWER] or forms[SHORT_ANSWER]:
        forms[SHORT_ANSWER] += forms.pop(YES_NO, 0)
    seen = lines + forms
    if not seen:
        raise ValueError(
            "the task has no sample of one question and one answer to recognise its own answer style by; conversations"
            " of several turns are rewritten by `asd_ratio` in the recipe alone"
        )
    style, count = max(seen.items(), key=lambda pair: pair[1], default=("", 0))
    if 2 * count > seen.total() and style == _MARK:
        raise ValueError(
            f"{count} of {seen.total()} answers are letters or numbers that may stand for options, and nobody knows "
            f"for which. Write options on lines 'A. ...', 'B. ...', with {FORMAT_LINES[MULTIPLE_CHOICE]!r} as the "
            f"question's last line; or, where they are answers themselves, {FORMAT_LINES[SHORT_ANSWER]!r}"
        )
    if 2 * count <= seen.total() or style == _EMPTY:
        raise ValueError(
            "the task's own answer style is not clear: more than half of its samples must share one, seen "
            f"{dict(seen)}; name the style, one of {[*STYLES, BOX]}"
        )
    return style


def other_styles(native: str) -> tuple[str, ...]:
    """Return the four styles that are not the task's own, in the paper's order; a box is grounding's short answer.

    Raises:
        ValueError: For an unknown style.
    """
    if native != BOX and native not in STYLES:
        raise ValueError(f"native style must be one of {[*STYLES, BOX]}, got {native!r}")
    own = SHORT_ANSWER if native == BOX else native
    return tuple(style for style in STYLES if style != own)


def rewrite(
    sample: Sample, style: str, answers_pool: AnswerPool, rng: random.Random, truth: bool | None = None
) -> Sample:
    r"""Ask and answer the same thing in another style.

    The new question ends with the style's response-format line in place of the old one and keeps the image in front.

    Args:
        sample: A sample in the task's own style, `answers_pool.native`.
        style: The style to rewrite it into, one of the other four.
        answers_pool: The task's answers, from which wrong ones are drawn.
        rng: Source of randomness; only its ``random()`` is used.
        truth: Whether a yes/no item claims the gold answer; None draws it.

    Returns:
        The rewritten sample.

    Raises:
        ValueError: Where the style is not one of the other four, or the task's answers are explanations.
        UnsuitableSampleError: Where the sample lacks the parts that a rule needs.

    Example:
        >>> from sefe_plugin.answers.styles import FORMAT_LINES
        >>> samples = [Sample(f"What is it?\n{FORMAT_LINES[SHORT_ANSWER]}", a) for a in ("cat", "dog")]
        >>> pool = AnswerPool(samples, SHORT_ANSWER)
        >>> rewrite(samples[0], YES_NO, pool, random.Random(0), truth=False)
        Sample(question='What is it?\nIs the answer dog?\nAnswer the question with yes or no.', answer='No')
    """
    if style not in other_styles(answers_pool.native):
        raise ValueError(
            f"style must be one of {other_styles(answers_pool.native)} for a task of style "
            f"{answers_pool.native!r}, got {style!r}"
        )
    check_native(answers_pool.native)
    item = answers_pool.item(sample)
    return rewrite_item(item, style, answers_pool, rng, rng.random() < 0.5 if truth is None else truth)


def check_native(native: str) -> None:
    """Refuse tasks whose answers are explanations, which no rule can shorten.

    Raises:
        ValueError: For the two explanation styles, and for an unknown style.
    """
    other_styles(native)
    if native in EXPLANATIONS:
        raise ValueError(
            f"answers of style {native!r} cannot be shortened by rule; let a model write the other styles ahead of "
            "time and train on the prepared file, or set the share of other styles to 0 for this task"
        )


def rewrite_item(item: Item, style: str, pool: AnswerPool, rng: random.Random, truth: bool) -> Sample:
    """Do the work of `rewrite` on a sample already taken apart."""
    count = distractors_needed(item, style, truth)
    distractors = tuple(pool.distractors(item, count, rng)) if count else ()
    answer = {SHORT_ANSWER: lambda: item.gold, BRIEF: item.brief, DETAILED: item.detailed}.get(style, str)()
    return assemble(item, style, Texts(distractors, answer), rng, truth)


def _is_choice(stem: str, answer: str, line: str | None, scored_as: str | None) -> bool:
    may_read = line in (None, SHORT_ANSWER)
    mark = option_mark(answer) if may_read or scored_as == MULTIPLE_CHOICE else None
    if mark is None:
        return False
    if scored_as == MULTIPLE_CHOICE and mark.sign.isalpha():
        return True
    return may_read and chosen_option(read_options(stem), answer) is not None


def _form(stem: str, answer: str) -> str:
    words = count_words(answer)
    if words == 0:
        return _EMPTY
    if "bounding box" in stem.lower() or parse_box(answer):
        return BOX
    if answer_key(answer) in ("yes", "no"):
        return YES_NO
    return SHORT_ANSWER if words <= _SHORT_WORDS else BRIEF if words <= _BRIEF_WORDS else DETAILED
