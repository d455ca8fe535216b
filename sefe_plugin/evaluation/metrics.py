"""Continual-learning metrics on the accuracy matrix: pure arithmetic.

``a[i][j]`` is the accuracy on task j, in percent, after training task i; None where it was not scored. All metrics
describe the tasks up to the last row t that is scored on every task learned so far (``a[t][0..t]``), as if the
sequence ended there: those of a finished sequence are the published ones, those of an unfinished one are the metrics
of its first tasks. A metric is None where an entry that it needs is missing.

Tasks that nobody scores have a column of None. Each function takes their indices as `unscored`, and means go over the
other tasks: after the training of such a task, too, the others are scored.

Source: CoIN (arXiv 2403.08350) and SEFE (arXiv 2505.02486) for MFT, MFN, MAA and BWT; T = t + 1 below.

The doctests share this matrix:

    >>> accuracy = [[80.0, None, None], [60.0, 90.0, None], [50.0, 70.0, 40.0]]
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple


Matrix = Sequence[Sequence[float | None]]


class Loss(NamedTuple):
    """What became of one task, in points of percent; a gain is negative.

    Attributes:
        drop: Accuracy just after its training minus accuracy at the end.
        superficial: The part of the drop that goes with answers in a wrong format.
        essential: The part that goes with wrong content in the right format.
    """

    drop: float
    superficial: float
    essential: float


def num_scored_tasks(matrix: Matrix, unscored: Collection[int] = ()) -> int:
    """Return T: one more than the last row that is scored on every task learned so far; 0 without such a row.

    A row before the first task that can be scored is complete as it is.

    Example:
        >>> num_scored_tasks([[80.0, None, None], [60.0, 90.0, None], [50.0, None, None]])
        2
        >>> num_scored_tasks([[80.0, None], [60.0, None]], unscored=[1])
        2
    """
    rows = [i for i, row in enumerate(matrix) if None not in (row[j] for j in scored_tasks(i + 1, unscored))]
    return rows[-1] + 1 if rows else 0


def scored_tasks(count: int, unscored: Collection[int]) -> list[int]:
    """Return the indices below `count` of the tasks that are scored."""
    return [j for j in range(count) if j not in unscored]


def mean_finetune_accuracy(matrix: Matrix, unscored: Collection[int] = ()) -> float | None:
    """Compute MFT: the mean over tasks i of ``a[i][i]``, the accuracy just after learning each task.

    Example:
        >>> mean_finetune_accuracy([[80.0, None, None], [60.0, 90.0, None], [50.0, 70.0, 40.0]])
        70.0
    """
    return mean_of(matrix[i][i] for i in scored_tasks(num_scored_tasks(matrix, unscored), unscored))


def mean_final_accuracy(matrix: Matrix, unscored: Collection[int] = ()) -> float | None:
    """Compute MFN: the mean over tasks j of ``a[T-1][j]``, the accuracy after learning all tasks.

    Example:
        >>> round(mean_final_accuracy([[80.0, None, None], [60.0, 90.0, None], [50.0, 70.0, 40.0]]), 2)
        53.33
    """
    count = num_scored_tasks(matrix, unscored)
    return mean_of(matrix[count - 1][j] for j in scored_tasks(count, unscored))


def mean_average_accuracy(matrix: Matrix, unscored: Collection[int] = ()) -> float | None:
    """Compute MAA: the mean over rows i of the mean over ``j <= i`` of ``a[i][j]``.

    Rows before the first scored task have no mean and do not count.

    Example:
        >>> round(mean_average_accuracy([[80.0, None, None], [60.0, 90.0, None], [50.0, 70.0, 40.0]]), 2)
        69.44
    """
    learned = ((i, scored_tasks(i + 1, unscored)) for i in range(num_scored_tasks(matrix, unscored)))
    return mean_of(mean_of(matrix[i][j] for j in tasks) for i, tasks in learned if tasks)


def backward_transfer(matrix: Matrix, unscored: Collection[int] = ()) -> float | None:
    """Compute BWT: the mean over all T tasks j of ``a[T-1][j] - a[j][j]``; below 0 where tasks were forgotten.

    CoIN and SEFE divide by T although the last term is always 0, so BWT = MFN - MFT. MCITlib and MLLM-CL divide by
    T - 1 (`backward_transfer_of_earlier`).

    Example:
        >>> round(backward_transfer([[80.0, None, None], [60.0, 90.0, None], [50.0, 70.0, 40.0]]), 2)
        -16.67
    """
    count = num_scored_tasks(matrix, unscored)
    return mean_of(difference(matrix[count - 1][j], matrix[j][j]) for j in scored_tasks(count, unscored))


def backward_transfer_of_earlier(matrix: Matrix, unscored: Collection[int] = ()) -> float | None:
    """Compute BWT over T - 1: the mean over the earlier tasks ``j < T-1`` of ``a[T-1][j] - a[j][j]``.

    Source: MCITlib, MLLM-CL (arXiv 2506.05453) and CF-Router. None where there is no earlier task.

    Example:
        >>> backward_transfer_of_earlier([[80.0, None, None], [60.0, 90.0, None], [50.0, 70.0, 40.0]])
        -25.0
    """
    last = num_scored_tasks(matrix, unscored) - 1
    return mean_of(difference(matrix[last][j], matrix[j][j]) for j in scored_tasks(last, unscored))


def forgetting(matrix: Matrix, unscored: Collection[int] = ()) -> float | None:
    """Compute the mean over the earlier tasks ``j < T-1`` of ``max(a[i][j] for j <= i < T-1) - a[T-1][j]``.

    Source: Chaudhry et al. 2018 (arXiv 1801.10112), Eq. 2; the best accuracy since the task was learned, not before.
    None where there is no earlier task.

    Example:
        >>> forgetting([[80.0, None, None], [60.0, 90.0, None], [50.0, 70.0, 40.0]])
        25.0
    """
    last = num_scored_tasks(matrix, unscored) - 1
    best = ((j, _max(matrix[i][j] for i in range(j, last))) for j in scored_tasks(last, unscored))
    return mean_of(difference(peak, matrix[last][j]) for j, peak in best)


def split_forgetting(accuracy: Matrix, formats: Matrix, unscored: Collection[int] = ()) -> list[Loss | None]:
    """Split each task's drop into what its format and what its content lost.

    With f the share of answers in the right format and c = a / f the accuracy among those, a = f * c. From "just
    learned" (f0, c0) to "now" (f1, c1) the drop falls into two parts that add up to it exactly:

        superficial = (f0 - f1) * (c0 + c1) / 2        essential = (c0 - c1) * (f0 + f1) / 2

    i.e. the Shapley values of the two factors: each part is the loss from one factor, averaged over both orders in
    which the factors can change. Where f1 = 0 no answer shows the content, so c1 = c0 and all of the drop is
    superficial; likewise for f0. The names are SEFE's (arXiv 2505.02486), the formula is this project's.

    Args:
        accuracy: ``a[i][j]`` in percent. A right answer must have the right format (a <= f), as `scorers` sees to.
        formats: ``f[i][j]``, answers in the right format, in percent.
        unscored: Indices of tasks that nobody scores.

    Returns:
        One entry for each task (column of the matrix); None for tasks not scored yet.

    Example:
        The first task forgot its format (80 to 40) and its content (all right to three quarters right); the other is
        the last one and lost nothing.

        >>> split_forgetting([[80.0, None], [30.0, 60.0]], [[80.0, None], [40.0, 90.0]])
        [Loss(drop=50.0, superficial=35.0, essential=15.0), Loss(drop=0.0, superficial=0.0, essential=0.0)]
    """
    num_tasks = max((len(row) for row in accuracy), default=0)
    last = num_scored_tasks(accuracy, unscored) - 1
    losses: list[Loss | None] = []
    for j in range(num_tasks):
        ends = [accuracy[j][j], accuracy[last][j], formats[j][j], formats[last][j]] if j <= last else [None]
        losses.append(None if None in ends else split_loss(*ends))
    return losses


def split_loss(accuracy0: float, accuracy1: float, format0: float, format1: float) -> Loss:
    """Split one drop, from the state 0 to the state 1, as `split_forgetting` does; all in percent.

    Example:
        >>> split_loss(80.0, 30.0, 80.0, 40.0)
        Loss(drop=50.0, superficial=35.0, essential=15.0)
    """
    # A share without right formats says nothing of the content: the other end's stands in.
    content1 = accuracy1 / format1 if format1 else None
    content0 = accuracy0 / format0 if format0 else content1 or 0.0
    content1 = content0 if content1 is None else content1
    return Loss(
        drop=accuracy0 - accuracy1,
        superficial=(format0 - format1) * (content0 + content1) / 2,
        essential=(content0 - content1) * (format0 + format1) / 2,
    )


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of values; None where there is none, or one of them is None."""
    values = list(values)
    return math.fsum(values) / len(values) if values and None not in values else None


def _max(values: Iterable[float | None]) -> float | None:
    values = list(values)
    return None if None in values else max(values)


def difference(first: float | None, second: float | None) -> float | None:
    """Return `first - second`; None where one of them is None."""
    return None if first is None or second is None else first - second
