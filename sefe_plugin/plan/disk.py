"""What a run leaves on disk, task by task."""

from collections.abc import Mapping, Sequence
from typing import Any

from sefe_plugin.carry import CARRIES
from sefe_plugin.methods import DEFAULT, methods
from sefe_plugin.plan.answers import times_scored
from sefe_plugin.plan.memory import is_autocast, saved_state_bytes
from sefe_plugin.plan.sizes import Architecture, TaskSize, TestSize
from sefe_plugin.plan.steps import checkpoints
from sefe_plugin.zero import read_deepspeed


#: What a line of predictions has beside its record: the answer and its key.
_ANSWER_BYTES = 32
#: A sample as it is kept for later tasks: a question and an answer of a line or two, and the names of its pictures.
_SAMPLE_BYTES = 250


def disk_space(
    architecture: Architecture,
    arguments: Mapping[str, Any],
    tasks: Sequence[TaskSize],
    steps: Sequence[int | None],
    retention: Sequence[TestSize] = (),
) -> dict[str, int]:
    """Work out what a run takes on disk at most, shortly before its end.

    Args:
        architecture: the model and its adapter.
        arguments: the recipe's keys.
        tasks: the data of the tasks.
        steps: optimizer steps of each training, None where unknown; a method may train a task several times.
        retention: the test sets that belong to no task.

    Returns:
        Bytes by part; "total" is their sum.
    """
    count = len(tasks)
    method = methods()[arguments.get("cl_method") or DEFAULT]
    carry = CARRIES[arguments.get("carry") or method.carries[0]]
    is_full = method.parametrisation == "full"
    trained_bytes = model_bytes(architecture, arguments) if is_full else architecture.trainable_bytes
    phases = len(method.phases(arguments))
    trainings = count * phases  # each leaves what it has trained
    parts: dict[str, float] = {"models" if is_full else "adapters": trainings * trained_bytes}
    parts |= {name: count * size for name, size in method.disk(architecture, arguments).items()}
    parts |= carry.disk(architecture, count, arguments)
    # a checkpoint holds what is trained and, to be continued from, the states of its optimizer
    states = 0 if arguments.get("save_only_model") else saved_state_bytes(arguments)
    checkpoint = trained_bytes + states * architecture.trainable_parameters
    left = [checkpoints(number, arguments) if number else 0 for number in steps]
    of_tasks = [sum(left[start : start + phases]) for start in range(0, len(left), phases)]
    parts["checkpoints"] = checkpoint * (sum if arguments.get("keep_checkpoints") else max)([0, *of_tasks])
    if arguments.get("replay_ratio"):
        limit = arguments.get("replay_size")
        kept = [min(task.samples or 0, limit or task.samples or 0) for task in tasks]
        parts["kept samples"] = _SAMPLE_BYTES * sum(kept)
    scored = [(task.test_bytes, task.test_records) for task in tasks] + [(one.bytes, one.records) for one in retention]
    times = [*times_scored(arguments, count), *[count + 1] * len(retention)]
    parts["predictions"] = sum(
        number * (size + _ANSWER_BYTES * records) for number, (size, records) in zip(times, scored, strict=True)
    )
    parts = {name: round(size) for name, size in parts.items()}
    return {**parts, "total": sum(parts.values())}


def model_bytes(architecture: Architecture, arguments: Mapping[str, Any]) -> int:
    """Return the bytes of a fully fine-tuned model: what is trained as it is trained, the rest in its own precision.

    DeepSpeed holds and saves all of it in one precision.
    """
    if read_deepspeed(arguments) is not None:
        return (2 if is_autocast(arguments) else 4) * architecture.parameters
    own = 4 if architecture.weight_type == "float32" else 2
    return architecture.saved_bytes - own * architecture.trainable_parameters + architecture.trainable_bytes
