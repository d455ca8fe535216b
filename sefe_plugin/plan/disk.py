"""What a run leaves on disk, task by task."""

from collections.abc import Mapping, Sequence
from typing import Any

from sefe_plugin.plan.memory import key_element_bytes, saved_state_bytes
from sefe_plugin.plan.sizes import Architecture, TaskSize
from sefe_plugin.plan.steps import checkpoints


#: What a line of predictions has beside its record: the answer and its key.
_ANSWER_BYTES = 32


def disk_space(
    architecture: Architecture,
    arguments: Mapping[str, Any],
    tasks: Sequence[TaskSize],
    steps: Sequence[int | None],
) -> dict[str, int]:
    """Works out what a finished run takes on disk.

    Args:
        architecture: the model and its adapter.
        arguments: the recipe's keys.
        tasks: the data of the tasks.
        steps: optimizer steps of each task, None where unknown.

    Returns:
        Bytes by part; "total" is their sum.
    """
    count = len(tasks)
    stacked = arguments.get("carry", "merge") == "stack"
    parts: dict[str, float] = {"adapters": count * architecture.trainable_bytes, "key elements": 0}
    if arguments.get("use_reglora"):
        ratio = float(arguments.get("reglora_key_ratio", 0.02))
        parts["key elements"] = count * sum(key_element_bytes(ratio, *shape) for shape in architecture.matrices)
    parts["merged models"] = 0 if stacked else count * architecture.saved_bytes
    parts["stacked adapters"] = architecture.lora_bytes * count * (count + 1) / 2 if stacked else 0
    # a checkpoint holds the adapter and, to be continued from, the states of its optimizer
    states = 0 if arguments.get("save_only_model") else saved_state_bytes(arguments)
    checkpoint = architecture.trainable_bytes + states * architecture.trainable_parameters
    parts["checkpoints"] = checkpoint * sum(checkpoints(number, arguments) for number in steps if number)
    parts["predictions"] = sum(
        (count - index) * (task.test_bytes + _ANSWER_BYTES * task.test_records) for index, task in enumerate(tasks)
    )
    parts = {name: round(size) for name, size in parts.items()}
    return {**parts, "total": sum(parts.values())}
