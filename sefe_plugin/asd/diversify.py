"""Rewrite a share of a task's samples into the four answer styles that are not its own (SEFE's ASD)."""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from sefe_plugin.asd.items import Sample, UnsuitableSampleError, parse_item
from sefe_plugin.asd.pool import AnswerPool
from sefe_plugin.asd.rules import check_native, native_style, other_styles, rewrite_item
from sefe_plugin.asd.styles import YES_NO


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


def diversify(
    samples: Sequence[Sample], ratio: float, seed: int, native: str | None = None
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

    Returns:
        As many samples in the same order, and one origin for each rewritten one, by rising index.

    Raises:
        ValueError: Where the ratio is out of range, the style cannot be recognised, the answers are explanations,
            or too few samples can be rewritten. Nothing is changed then.

    Example:
        >>> from sefe_plugin.asd.styles import FORMAT_LINES
        >>> line = FORMAT_LINES["short_answer"]
        >>> samples = [Sample(f"<image>\nWhat is it?\n{line}", name) for name in ("cat", "dog", "hen", "cow", "pig")]
        >>> new, origins = diversify(samples, ratio=0.2, seed=1)
        >>> origins[0].index, origins[0].style, new[origins[0].index].answer in ("Yes", "No")
        (0, 'yes_no', True)
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be a share in [0, 1], got {ratio}; write 20 percent as 0.2")
    wanted = round(ratio * len(samples))
    result = list(samples)
    if wanted == 0:
        return result, []
    native = native_style(samples) if native is None else native
    check_native(native)
    styles = other_styles(native)
    pool = AnswerPool(samples, native)
    truth = random.Random(f"{seed}/truth").random() < 0.5
    origins: list[Origin] = []
    reasons: list[UnsuitableSampleError] = []
    for index in _random_order(len(samples), seed):
        style = styles[len(origins) % len(styles)]
        try:
            item = parse_item(samples[index], native, pool.extent)
            result[index] = rewrite_item(item, style, pool, random.Random(f"{seed}/{index}"), truth)
        except UnsuitableSampleError as reason:
            reasons.append(reason)
            continue
        if style == YES_NO and item.kind != YES_NO:
            truth = not truth
        origins.append(Origin(index, native, style, samples[index].question, samples[index].answer))
        if len(origins) == wanted:
            break
    if len(origins) < wanted:
        raise ValueError(
            f"{wanted} of {len(samples)} samples of style {native!r} are to be rewritten, but rules can rewrite only "
            f"{len(origins)}; lower the ratio or name another native style. First reason: {reasons[0]}"
        )
    if reasons:
        logger.warning("%d samples passed over that no rule can rewrite; the first: %s", len(reasons), reasons[0])
    return result, sorted(origins, key=lambda origin: origin.index)


def _random_order(count: int, seed: int) -> list[int]:
    rng = random.Random(f"{seed}/order")
    keys = [rng.random() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)
