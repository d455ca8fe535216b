"""Rewrite a share of a task's samples into the four answer styles that are not its own (SEFE's ASD)."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sefe_plugin.answers.styles import EXPLANATIONS, MULTIPLE_CHOICE, YES_NO
from sefe_plugin.asd.items import Item
from sefe_plugin.asd.pool import AnswerPool
from sefe_plugin.asd.rules import check_native, native_style, other_styles, rewrite_item
from sefe_plugin.data.sample import Sample, UnsuitableSampleError


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What a rewritten sample was.

    Attributes:
        index: Its place in the task, from 0.
        native_style: The task's own style.
        style: The style that it has now.
        question: Its question before.
        answer: Its answer before.
    """

    index: int
    native_style: str
    style: str
    question: str
    answer: str


class Rewrite(NamedTuple):
    """A sample chosen for another style.

    Attributes:
        index: Its place in the task, from 0.
        style: The style that it gets.
        truth: Whether it claims the gold answer, if it becomes a claim.
        item: The sample taken apart.
        sample: What the rules make of it; None where an explanation is to be made shorter or longer.
    """

    index: int
    style: str
    truth: bool
    item: Item
    sample: Sample | None


def diversify(
    samples: Sequence[Sample], ratio: float, seed: int, native: str | None = None, scored_as: str | None = None
) -> tuple[list[Sample], list[Origin]]:
    r"""Rewrite a share X of a task's samples in place, split equally over the four other styles.

    ``round(X * n)`` samples are rewritten, exactly. They are taken in a random order that depends on the seed and n
    alone, and their styles go round the four others in the paper's order: the shares differ by at most 1, the first
    styles get the remainder, and a larger X keeps every rewrite of a smaller one. Claims of the gold and of a wrong
    answer alternate, so constructed yes/no items are balanced up to 1. Each sample has its own random stream. The
    result is the same on every machine and Python version. Samples that no rule can rewrite are passed over.

    Source: SEFE (arXiv 2505.02486): X = 20 % is the paper's default, 5 % for each style.

    Args:
        samples: All training samples of one task.
        ratio: X, share of the samples to rewrite, in [0, 1].
        seed: Seed of the choice and of the rewriting.
        native: The task's own style, one of `STYLES` or "box"; None recognises it with `native_style`.
        scored_as: The style of the answers that the task's scorer reads, None where it is not known.

    Returns:
        As many samples in the same order, and one origin for each rewritten one, by rising index.

    Raises:
        ValueError: Where the ratio is out of range, the style cannot be recognised, the answers are explanations,
            or too few samples can be rewritten. Nothing is changed then.

    Example:
        >>> from sefe_plugin.answers.styles import FORMAT_LINES
        >>> line = FORMAT_LINES["short_answer"]
        >>> samples = [Sample(f"<image>\nWhat is it?\n{line}", name) for name in ("cat", "dog", "hen", "cow", "pig")]
        >>> new, origins = diversify(samples, ratio=0.2, seed=1)
        >>> origins[0].index, origins[0].style, new[origins[0].index].answer in ("Yes", "No")
        (0, 'yes_no', True)
    """
    check_ratio(ratio)
    result = list(samples)
    if round(ratio * len(samples)) == 0:
        return result, []
    native = native_style(samples, scored_as) if native is None else native
    check_native(native)
    origins = []
    for made in rewrites(len(samples), samples.__getitem__, ratio, seed, AnswerPool(samples, native, scored_as)):
        old = samples[made.index]
        result[made.index] = made.sample
        origins.append(Origin(made.index, native, made.style, old.question, old.answer))
    return result, sorted(origins, key=lambda origin: origin.index)


def check_ratio(ratio: float) -> None:
    """Refuse a share outside [0, 1].

    Raises:
        ValueError: Where the ratio is out of range or not a number.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be a share in [0, 1], got {ratio}; write 20 percent as 0.2")


def rewrites(
    count: int, read: Callable[[int], Sample], ratio: float, seed: int, pool: AnswerPool
) -> Iterator[Rewrite]:
    """Choose ``round(ratio * count)`` samples as `diversify` does, and rewrite them one by one.

    Args:
        count: Size of the task, n.
        read: Returns the sample at an index below n, or raises `UnsuitableSampleError` to have it passed over.
        ratio: X, share of the samples to rewrite, in [0, 1].
        seed: Seed of the choice and of the rewriting.
        pool: The task's answers and its own style.

    Yields:
        The chosen samples in the order of choice.

    Raises:
        ValueError: At the end, where too few samples can be rewritten.
    """
    wanted = round(ratio * count)
    styles = other_styles(pool.native)
    truth = random.Random(f"{seed}/truth").random() < 0.5
    rng = random.Random()
    done, passed, first = 0, 0, None
    for index in _random_order(count, seed) if wanted else ():
        style = styles[done % len(styles)]
        if style in (YES_NO, MULTIPLE_CHOICE):
            # Each sample has a stream of its own; seeding takes longer than writing the styles that draw nothing.
            rng.seed(f"{seed}/{index}")
        try:
            item = pool.item(read(index))
            by_rule = pool.native not in EXPLANATIONS or style in (YES_NO, MULTIPLE_CHOICE)
            sample = rewrite_item(item, style, pool, rng, truth) if by_rule else None
        except UnsuitableSampleError as reason:
            passed, first = passed + 1, first or reason
            continue
        yield Rewrite(index, style, truth, item, sample)
        if style == YES_NO and item.kind != YES_NO:
            truth = not truth
        done += 1
        if done == wanted:
            break
    if done < wanted:
        raise ValueError(
            f"{wanted} of {count} samples of style {pool.native!r} are to be rewritten, but only {done} can be; "
            f"lower the ratio or name another native style. First reason: {first}"
        )
    if passed:
        logger.warning("%d samples passed over that cannot be rewritten; the first: %s", passed, first)


def _random_order(count: int, seed: int) -> list[int]:
    rng = random.Random(f"{seed}/order")
    keys = [rng.random() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)
