"""What training on a task does for other tasks, and what it costs in abilities of no task: pure arithmetic.

``a[i][j]`` is the accuracy on task j after training task i, in percent, ``zero_shot[j]`` that of the untouched base,
and ``single[j]`` the accuracy on task j of a model that was trained on it alone. Retention sets have a row for the
base and one after each task. None stands for what was not scored; a value is None where an entry that it needs is.
Tasks that nobody scores are named by their indices, as `unscored`, and no mean goes over them.

Source: Fwd-Prompt (arXiv 2401.09181) names forward transfer FWD and leaves its formula open, so two readings are here.
`unseen_transfer` extends that of GEM (arXiv 1706.08840), which looks at the next task only, to all later tasks;
`learning_transfer` compares with the task trained alone.

The doctests share this matrix of three tasks:

    >>> accuracy = [[80.0, 12.0, 20.0], [60.0, 90.0, 30.0], [50.0, 70.0, 40.0]]
"""

from collections.abc import Collection, Sequence

from sefe_plugin.evaluation.metrics import (
    Loss,
    Matrix,
    difference,
    mean_of,
    num_scored_tasks,
    scored_tasks,
    split_loss,
)


Row = Sequence[float | None]


def unseen_transfer(accuracy: Matrix, zero_shot: Row, unscored: Collection[int] = ()) -> list[float | None]:
    """Compute for each stage t but the last the mean over tasks i > t of ``a[t][i] - zero_shot[i]``.

    Above 0 where training on the tasks so far helps those that come later.

    Example:
        >>> unseen_transfer([[80.0, 12.0, 20.0], [60.0, 90.0, 30.0], [50.0, 70.0, 40.0]], [5.0, 10.0, 14.0])
        [4.0, 16.0]
    """
    count = len(zero_shot)
    later = ((t, [i for i in scored_tasks(count, unscored) if i > t]) for t in range(count - 1))
    return [mean_of(difference(accuracy[t][i], zero_shot[i]) for i in tasks) for t, tasks in later]


def learning_transfer(accuracy: Matrix, single: Row, unscored: Collection[int] = ()) -> list[float | None]:
    """Compute for each stage t the mean over tasks i <= t of ``a[i][i] - single[i]``.

    Above 0 where tasks are learned better in the sequence than alone.

    Example:
        >>> learning_transfer([[80.0, 12.0, 20.0], [60.0, 90.0, 30.0], [50.0, 70.0, 40.0]], [80.0, 84.0, 46.0])
        [0.0, 3.0, 0.0]
    """
    gains = [difference(accuracy[i][i], value) for i, value in enumerate(single)]
    return [mean_of(gains[i] for i in scored_tasks(t + 1, unscored)) for t in range(len(gains))]


def mean_over_stages(
    values: Row, accuracy: Matrix, unscored: Collection[int] = (), later: bool = False
) -> float | None:
    """Compute the mean of the values of those stages that are trained, as far as `num_scored_tasks` counts them.

    A stage that no scored task has a part in does not count.

    Args:
        values: Of each stage.
        accuracy: The accuracy matrix.
        unscored: Indices of tasks that nobody scores.
        later: Whether the values are of the tasks after each stage, and not of those up to it.

    Example:
        >>> mean_over_stages([4.0, 16.0], [[80.0, 12.0, 20.0], [None, None, None], [None, None, None]])
        4.0
    """
    tasks = scored_tasks(len(accuracy), unscored)
    stages = [t for t in range(len(values)) if any(i > t if later else i <= t for i in tasks)]
    return mean_of(values[t] for t in stages if t < num_scored_tasks(accuracy, unscored))


def retention_losses(accuracy: Matrix, formats: Matrix) -> list[Loss | None]:
    """Split for each retention set what tuning cost, from the untouched base to the last row that has a score.

    The parts are those of `metrics.split_forgetting`: superficial by a lost answer format, essential by lost content.

    Args:
        accuracy: In percent; the first row is the base's, the others are after each task.
        formats: Answers in the right format, in percent, in the same shape.

    Example:
        >>> retention_losses([[80.0], [60.0], [30.0]], [[80.0], [70.0], [40.0]])
        [Loss(drop=50.0, superficial=35.0, essential=15.0)]
    """
    losses: list[Loss | None] = []
    for column in range(len(accuracy[0]) if accuracy else 0):
        scored = [row for row in range(1, len(accuracy)) if accuracy[row][column] is not None]
        rows = (0, scored[-1]) if scored else ()
        ends = [matrix[row][column] for matrix in (accuracy, formats) for row in rows]
        losses.append(split_loss(*ends) if ends and None not in ends else None)
    return losses
