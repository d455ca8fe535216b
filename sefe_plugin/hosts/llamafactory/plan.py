"""The plan of a sequence recipe: the host measures the model and the data, `sefe_plugin.plan` does the sums."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.benchmarks.coin.sources import PUBLISHED_TEST_SIZE, PUBLISHED_TRAIN_SIZES
from sefe_plugin.hosts.llamafactory.architecture import measure_architecture
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.lengths import Lengths
from sefe_plugin.hosts.llamafactory.sequence import read_recipe
from sefe_plugin.plan.disk import disk_space
from sefe_plugin.plan.memory import gpu_memory, read_setting
from sefe_plugin.plan.plan import Plan
from sefe_plugin.plan.sizes import PlanError, TaskSize
from sefe_plugin.plan.steps import optimizer_steps
from sefe_plugin.recipe import Recipe, RecipeError, load_recipe, read_deepspeed


#: Bytes of a test record whose file is not there: a question with its ids.
_RECORD_BYTES = 300


def make_plan(file: Path, overrides: list[str], gpus: int | None = None) -> Plan:
    """Works out what a sequence recipe will take. Nothing is downloaded, and no weights are loaded.

    Args:
        file: the recipe.
        overrides: `key=value`, as on the command line of the host.
        gpus: on all nodes together; those visible here, or one, if None.

    Returns:
        The plan, with the recipe's faults if it has some that do not keep it from being planned: missing data.

    Raises:
        RecipeError: if the recipe has other faults.
        PlanError: if the recipe describes no sequence, or if the model's configuration, the DeepSpeed configuration
            or data that has no published sizes is not on this machine.
    """
    keys = read_recipe(file, overrides)
    try:
        recipe, faults = load_recipe(keys, str(file), host_keys()), []
    except RecipeError as error:
        faults = error.faults
        try:
            recipe = load_recipe(keys, str(file), host_keys(), check_data=False)
        except RecipeError:
            raise error from None
    if not recipe.tasks:
        raise PlanError(f"{file} describes no sequence. Give it `tasks` or a `benchmark`.")
    processes = gpus or torch.cuda.device_count() or 1
    arguments = dict(recipe.arguments)
    architecture = measure_architecture(arguments)
    tasks = _task_sizes(recipe, architecture.image_tokens, complete=not faults)
    steps = [
        None if size.samples is None else optimizer_steps(size.samples, {**arguments, **task.overrides}, processes)
        for task, size in zip(recipe.tasks, tasks, strict=True)
    ]
    memory = gpu_memory(
        architecture,
        arguments,
        read_setting(read_deepspeed(arguments), processes),
        earlier_tasks=len(tasks) - 1,
        tokens=max(task.longest_tokens for task in tasks),
        stacked=arguments.get("carry") == "stack",
    )
    disk = disk_space(architecture, arguments, tasks, steps)
    return Plan(
        str(file), faults, processes, _global_batch(arguments, processes), architecture, tasks, steps, memory, disk
    )


def _global_batch(arguments: Mapping[str, Any], processes: int) -> int:
    accumulated = int(arguments.get("gradient_accumulation_steps", 1))
    return processes * int(arguments.get("per_device_train_batch_size", 8)) * accumulated


def _task_sizes(recipe: Recipe, image_tokens: int, complete: bool) -> list[TaskSize]:
    """Measures every task; a benchmark's data is drawn or found as for a run, in a folder that is then removed."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = dict(recipe.arguments)
        if recipe.benchmark is not None and complete:
            arguments |= load_benchmark(recipe.benchmark).prepare(Path(folder), arguments)
        lengths = Lengths(arguments, image_tokens)
        if complete:
            return [lengths.of_task(task) for task in recipe.tasks]
        if recipe.benchmark != "coin":
            raise PlanError("the data is missing, so neither samples nor steps can be counted.")
        average, longest = lengths.estimate()
        limit = recipe.arguments.get("max_samples")
        return [
            TaskSize(
                task.name,
                min(PUBLISHED_TRAIN_SIZES[task.name], int(limit or PUBLISHED_TRAIN_SIZES[task.name])),
                average,
                longest,
                PUBLISHED_TEST_SIZE,
                PUBLISHED_TEST_SIZE * _RECORD_BYTES,
                "published",
            )
            for task in recipe.tasks
        ]
