"""Optimizer steps, as Transformers' Trainer counts them."""

import math
from collections.abc import Mapping
from typing import Any

from sefe_plugin.data.added import added_samples


def own_samples(samples: int, arguments: Mapping[str, Any]) -> int:
    """Return how many of a task's own samples are trained: the host first takes `val_size` of them away."""
    held_back = float(arguments.get("val_size", 0))
    return samples - (int(held_back) if held_back > 1 else math.ceil(held_back * samples))


def optimizer_steps(samples: int, arguments: Mapping[str, Any], processes: int, earlier_tasks: int = 0) -> int:
    """Return the number of optimizer steps of one task.

    Args:
        samples: of its own data, before the host takes `val_size` of them away.
        arguments: the task's keys.
        processes: that train together, each with batches of its own.
        earlier_tasks: how many there are.

    Example:
        >>> optimizer_steps(1000, {"replay_ratio": 0.1, "num_train_epochs": 1.0}, processes=1, earlier_tasks=1)
        138
        >>> optimizer_steps(1000, {"asd_ratio": 0.2, "asd_extra": True, "num_train_epochs": 1.0}, processes=1)
        150
        >>> optimizer_steps(12726, {"per_device_train_batch_size": 16, "num_train_epochs": 1.0}, processes=8)
        100
    """
    if int(arguments.get("max_steps", -1)) > 0:
        return int(arguments["max_steps"])
    samples = own_samples(samples, arguments)
    if arguments.get("asd_extra"):
        samples += round(float(arguments.get("asd_ratio") or 0) * samples)
    samples += added_samples(samples, arguments, earlier_tasks)
    batches = math.ceil(samples / (int(arguments.get("per_device_train_batch_size", 8)) * processes))
    steps = max(math.ceil(batches / int(arguments.get("gradient_accumulation_steps", 1))), 1)
    return math.ceil(float(arguments.get("num_train_epochs", 3.0)) * steps)


def checkpoints(steps: int, arguments: Mapping[str, Any]) -> int:
    """Return how many checkpoints a task of this many steps leaves in its folder.

    Trainer saves every `save_steps` steps and at the end, or after every epoch, and keeps `save_total_limit` of them.
    """
    strategy = str(arguments.get("save_strategy", "steps"))
    if strategy == "steps":
        every = float(arguments.get("save_steps", 500))
        every = math.ceil(every * steps) if every < 1 else int(every)
        count = math.ceil(steps / every)
    else:
        count = math.ceil(float(arguments.get("num_train_epochs", 3.0))) if strategy == "epoch" else 0
    limit = arguments.get("save_total_limit")
    return min(count, int(limit)) if limit else count
