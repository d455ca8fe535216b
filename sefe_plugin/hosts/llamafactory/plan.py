"""The plan of a sequence recipe: the host measures the model and the data, `sefe_plugin.plan` does the sums."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.benchmarks.base import PublishedSize
from sefe_plugin.carry import CARRIES
from sefe_plugin.hosts.llamafactory.architecture import measure_architecture
from sefe_plugin.hosts.llamafactory.host import read_recipe
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.lengths import Lengths
from sefe_plugin.hosts.llamafactory.trial import try_sequence
from sefe_plugin.hosts.llamafactory.trial_process import with_data
from sefe_plugin.plan.disk import disk_space
from sefe_plugin.plan.memory import gpu_memory, read_setting
from sefe_plugin.plan.plan import Plan
from sefe_plugin.plan.sizes import Architecture, PlanError, TaskSize
from sefe_plugin.plan.steps import optimizer_steps
from sefe_plugin.recipe.load import Recipe, RecipeError, load_recipe
from sefe_plugin.zero import read_deepspeed


#: Bytes of a test record whose file is not there: a question with its ids.
_RECORD_BYTES = 300


def make_plan(file: Path, overrides: list[str], gpus: int | None = None) -> Plan:
    """Work out what a sequence recipe will take, without the model's weights.

    Args:
        file: the recipe.
        overrides: `key=value`, as on the command line of the host.
        gpus: on all nodes together; those visible here, or one, if None.

    Returns:
        The plan, with the recipe's errors if it has some that do not keep it from being planned: CoIN's data missing.

    Raises:
        RecipeError: if the recipe has other errors, or data that has no published sizes is missing.
        PlanError: if the recipe describes no sequence, or if the model's configuration or the DeepSpeed configuration
            is not on this machine.
    """
    keys = read_recipe(file, overrides)
    try:
        recipe, errors = load_recipe(keys, str(file), host_keys()), []
    except RecipeError as error:
        errors = error.errors
        try:
            recipe = load_recipe(keys, str(file), host_keys(), check_data=False)
        except RecipeError:
            raise error from None
    published = load_benchmark(recipe.benchmark).published_sizes() if recipe.benchmark else {}
    if errors and not published:
        raise RecipeError(str(file), errors)
    if not recipe.tasks:
        raise PlanError(f"{file} describes no sequence. Give it `tasks` or a `benchmark`.")
    notes = _try(recipe, with_records=not errors)
    processes = gpus or torch.cuda.device_count() or 1
    arguments = dict(recipe.arguments)
    architecture = measure_architecture(arguments)
    tasks = _task_sizes(recipe, architecture.image_tokens, published if errors else None)
    keys_of_tasks = [{**arguments, **task.overrides} for task in recipe.tasks]
    steps = [_steps(size.samples, keys, processes) for keys, size in zip(keys_of_tasks, tasks, strict=True)]
    different = [keys for i, keys in enumerate(keys_of_tasks) if keys not in keys_of_tasks[:i]]
    memory = max(
        (
            _memory(architecture if keys == arguments else measure_architecture(keys), keys, processes, tasks)
            for keys in different
        ),
        key=lambda parts: parts["total"],
    )
    disk = disk_space(architecture, arguments, tasks, steps)
    return Plan(
        str(file),
        errors,
        processes,
        _global_batch(arguments, processes),
        architecture,
        tasks,
        steps,
        memory,
        disk,
        notes,
    )


def _try(recipe: Recipe, with_records: bool) -> list[str]:
    """Let the host try a recipe as before a training; return what it could not try here.

    Args:
        recipe: The checked recipe.
        with_records: Whether its data is there.

    Raises:
        RecipeError: With all that the host would refuse.
    """
    here, bar = torch.cuda.is_available(), sys.stderr
    if with_records:
        with tempfile.TemporaryDirectory() as folder, with_data(recipe, Path(folder)) as (ready, tasks):
            found = try_sequence(ready, tasks, here, bar)
    else:
        found = try_sequence(recipe, [], here, bar)
    parts = [found, *(part for _, part in sorted(found["tasks"].items()))]
    if errors := [error for part in parts for error in part["errors"]]:
        raise RecipeError(recipe.source, errors)
    return [note for part in parts for note in part["notes"]]


def _steps(samples: int | None, keys: Mapping[str, Any], processes: int) -> int | None:
    """Return the optimizer steps of a task; None where packing makes them depend on the text of every sample."""
    if samples is None or keys.get("packing") or keys.get("neat_packing"):
        return None
    return optimizer_steps(samples, keys, processes)


def _memory(
    architecture: Architecture, keys: Mapping[str, Any], processes: int, tasks: Sequence[TaskSize]
) -> dict[str, int]:
    """Return the memory of a GPU where a task with these keys is the last one and has the longest sample of all."""
    return gpu_memory(
        architecture,
        keys,
        read_setting(read_deepspeed(keys), processes),
        earlier_tasks=len(tasks) - 1,
        tokens=max(task.longest_tokens for task in tasks),
        stacked_adapters=CARRIES[keys["carry"]].stacked_adapters(len(tasks) - 1),
    )


def _global_batch(arguments: Mapping[str, Any], processes: int) -> int:
    accumulated = int(arguments.get("gradient_accumulation_steps", 1))
    return processes * int(arguments.get("per_device_train_batch_size", 8)) * accumulated


def _task_sizes(recipe: Recipe, image_tokens: int, published: Mapping[str, PublishedSize] | None) -> list[TaskSize]:
    """Measure every task; a benchmark's data is drawn or found as for a run, in a folder that is then removed.

    Where the data is missing, published sizes stand in.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = dict(recipe.arguments)
        if recipe.benchmark is not None and published is None:
            arguments |= load_benchmark(recipe.benchmark).prepare(Path(folder), arguments)
        lengths = Lengths(arguments, image_tokens)
        if published is None:
            return [lengths.of_task(task) for task in recipe.tasks]
        average, longest = lengths.estimate()
        limit = recipe.arguments.get("max_samples")
        sizes = [(task.name, published[task.name]) for task in recipe.tasks]
        return [
            TaskSize(
                name,
                min(size.train, int(limit or size.train)),
                average,
                longest,
                size.test,
                size.test * _RECORD_BYTES,
                "published",
            )
            for name, size in sizes
        ]
