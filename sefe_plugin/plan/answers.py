"""How many questions of test sets a sequence answers, and what is answered how often."""

from collections.abc import Mapping, Sequence
from operator import mul
from typing import Any

from sefe_plugin.plan.sizes import TaskSize, TestSize
from sefe_plugin.run.stages import scored_after, stages_of


def times_scored(arguments: Mapping[str, Any], num_tasks: int) -> list[int]:
    """Return how often the test set of each task is scored in the whole sequence.

    Args:
        arguments: the recipe's keys.
        num_tasks: how many there are.

    Example:
        >>> times_scored({}, 2), times_scored({"score_unseen": True}, 2)
        ([2, 1], [3, 3])
    """
    tasks = [{"name": index, "test_dataset": ""} for index in range(num_tasks)]
    recipe = {"tasks": tasks, "score_unseen": arguments.get("score_unseen")}
    scored = [one["name"] for index in stages_of(recipe) for one in scored_after(recipe, index)]
    return [scored.count(index) for index in range(num_tasks)]


def count_answers(
    arguments: Mapping[str, Any], tasks: Sequence[TaskSize], retention: Sequence[TestSize]
) -> dict[str, int]:
    """Return the number of questions that are answered, by what they are of.

    Args:
        arguments: the recipe's keys.
        tasks: the data of the tasks.
        retention: the sizes of the retention sets.

    Returns:
        "tasks so far", and where the recipe asks for them "unseen tasks" and "retention sets"; "total" is their sum.
    """
    counts = times_scored(arguments, len(tasks))
    so_far = sum((len(tasks) - index) * task.test_records for index, task in enumerate(tasks))
    parts = {"tasks so far": so_far}
    if arguments.get("score_unseen"):
        parts["unseen tasks"] = sum(map(mul, counts, (task.test_records for task in tasks))) - so_far
    if retention:
        parts["retention sets"] = (len(tasks) + 1) * sum(one.records for one in retention)
    return {**parts, "total": sum(parts.values())}
