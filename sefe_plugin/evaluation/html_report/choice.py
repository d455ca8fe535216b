"""Which questions of large test sets a page shows: those whose answers change, and the same ones every time."""

import random
from collections import deque
from collections.abc import Sequence


def shares(sizes: Sequence[int], most: int) -> list[int]:
    """Share out a number of rows among test sets; what a small one does not need the others get.

    Example:
        >>> shares([2000, 80, 2000], 1000)
        [460, 80, 460]
    """
    given, left = [0] * len(sizes), most
    for place, index in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        given[index] = min(sizes[index], left // (len(sizes) - place))
        left -= given[index]
    return given


def choose(groups: Sequence[Sequence[bool]], size: int, most: int) -> list[int]:
    """Choose questions, from each group in turn, and then from the rest.

    Args:
        groups: For each group, whether a question belongs to it; the groups in order of interest.
        size: Number of questions.
        most: How many to choose.

    Returns:
        Their indices, in order; equal input gives equal indices.

    Example:
        >>> choose([[False, True, False, False]], 4, 1)
        [1]
    """
    if size <= most:
        return list(range(size))
    order = list(range(size))
    random.Random(0).shuffle(order)  # a test set may be sorted
    waiting = [deque(index for index in order if group[index]) for group in groups]
    chosen: dict[int, None] = {}
    while len(chosen) < most and any(waiting):
        for queue in waiting:
            while queue and queue[0] in chosen:
                queue.popleft()
            if queue and len(chosen) < most:
                chosen[queue.popleft()] = None
    for index in order:
        if len(chosen) >= most:
            break
        chosen[index] = None
    return sorted(chosen)
