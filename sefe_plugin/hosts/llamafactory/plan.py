"""The plan of a sequence recipe: the host measures the model and the data, `sefe_plugin.plan` does the sums."""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import datasets
import torch

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.benchmarks.base import PublishedSize
from sefe_plugin.carry import CARRIES
from sefe_plugin.data.added import mix_count, replay_counts
from sefe_plugin.hosts.llamafactory.architecture import measure_architecture
from sefe_plugin.hosts.llamafactory.host import read_recipe_with_places
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.lengths import Lengths
from sefe_plugin.hosts.llamafactory.trial import try_sequence
from sefe_plugin.hosts.llamafactory.trial_process import try_data, with_data
from sefe_plugin.hosts.llamafactory.vllm_python import scoring_python_errors
from sefe_plugin.methods import methods
from sefe_plugin.plan.answers import count_answers
from sefe_plugin.plan.disk import disk_space
from sefe_plugin.plan.memory import gpu_memory, read_setting
from sefe_plugin.plan.plan import Plan
from sefe_plugin.plan.request import Request, read_request
from sefe_plugin.plan.sizes import Architecture, TaskSize, TestSize
from sefe_plugin.plan.steps import optimizer_steps, own_samples
from sefe_plugin.recipe.errors import RecipeError, with_place
from sefe_plugin.recipe.load import Recipe, recipe_warnings
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
    keys, places = read_recipe_with_places(file, overrides)
    try:
        return plan_request(read_request(keys, str(file), host_keys()), places, gpus)
    except RecipeError as error:
        raise error.with_places(places) from None


def plan_request(request: Request, places: Mapping[str, Path], gpus: int | None = None) -> Plan:
    """Work out what a checked sequence will take, as `make_plan` does.

    Args:
        request: The sequence.
        places: Key -> the file that holds it, for those of included recipes.
        gpus: As in `make_plan`.
    """
    with _without_bars():
        return _plan(request, places, gpus)


def _plan(request: Request, places: Mapping[str, Path], gpus: int | None) -> Plan:
    recipe, errors, published = request.recipe, request.errors, request.published
    notes = recipe_warnings(recipe) + _try(recipe, with_records=not errors)
    processes = gpus or torch.cuda.device_count()
    if not processes:
        processes = 1
        notes.insert(0, "planned for 1 GPU; this machine has none. `--gpus N` plans for another number.")
    arguments = dict(recipe.arguments)
    architecture = measure_architecture(arguments)
    keys_of_tasks = [{**arguments, **task.overrides} for task in recipe.tasks]
    sizes, general, retention = _task_sizes(recipe, architecture.image_tokens, published)
    tasks = [_with_added(sizes[: index + 1], general[index], keys) for index, keys in enumerate(keys_of_tasks)]
    trainings = [_steps(size.samples, keys_of_tasks[index], processes, index) for index, size in enumerate(tasks)]
    steps = [None if None in counts else sum(counts) for counts in trainings]
    different = [keys for i, keys in enumerate(keys_of_tasks) if keys not in keys_of_tasks[:i]]
    memory = max(
        (
            _memory(architecture if keys == arguments else measure_architecture(keys), keys, processes, tasks)
            for keys in different
        ),
        key=lambda parts: parts["total"],
    )
    disk = disk_space(architecture, arguments, tasks, list(chain(*trainings)), retention)
    return Plan(
        recipe.source,
        [with_place(error, places) for error in errors],
        processes,
        _global_batch(arguments, processes),
        architecture,
        tasks,
        steps,
        memory,
        disk,
        notes,
        count_answers(arguments, tasks, retention),
        request.done,
    )


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the bars of `datasets` off the terminal while the context lasts; the trial has its own."""
    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()


def _try(recipe: Recipe, with_records: bool) -> list[str]:
    """Let the host try a recipe as before a training; return what it could not try here.

    Args:
        recipe: The checked recipe.
        with_records: Whether its data is there.

    Raises:
        RecipeError: With all that the host would refuse, and what `scoring_python` lacks.
    """
    here, bar = torch.cuda.is_available(), sys.stderr
    if with_records:
        with tempfile.TemporaryDirectory() as folder, with_data(recipe, Path(folder)) as (ready, tasks):
            found = try_data(ready, tasks, partial(try_sequence, here=here, bar=bar))
    else:
        found = try_sequence(recipe, [], here, bar)
    parts = [found, *(part for _, part in sorted(found["tasks"].items()))]
    if errors := scoring_python_errors(recipe) + [error for part in parts for error in part["errors"]]:
        raise RecipeError(recipe.source, errors)
    return [note for part in parts for note in part["notes"]]


def _with_added(
    sizes: Sequence[TaskSize], general: Mapping[str, tuple[float, int]], keys: Mapping[str, Any]
) -> TaskSize:
    """Return the size of the last task's data with that of the samples which join it.

    Args:
        sizes: Of its own data, and of that of the tasks before it.
        general: The mean and the longest number of tokens of its general datasets, as far as they are known.
        keys: Its keys.
    """
    *earlier, size = sizes
    if size.samples is None:
        return size
    own = own_samples(size.samples, keys)
    parts = [(own, size.mean_tokens, size.longest_tokens)]
    for count, task in zip(replay_counts(own, keys.get("replay_ratio") or 0.0, len(earlier)), earlier, strict=True):
        parts.append((count, task.mean_tokens, task.longest_tokens))
    for entry in keys.get("mix") or ():
        tokens = general.get(entry["dataset"], (size.mean_tokens, size.longest_tokens))
        parts.append((mix_count(own, entry["share"]), *tokens))
    counts, means, longest = zip(*parts, strict=True)
    mean = round(fmean(means, counts)) if any(counts) else size.mean_tokens
    return replace(size, added=sum(counts[1:]), mean_tokens=mean, longest_tokens=max(longest))


def _steps(samples: int | None, keys: Mapping[str, Any], processes: int, earlier_tasks: int) -> list[int | None]:
    """Return the optimizer steps of every training of a task.

    They are None where packing makes them depend on the text of every sample.
    """
    phases = methods()[keys["cl_method"]].phases(keys)
    if samples is None or keys.get("packing") or keys.get("neat_packing"):
        return [None] * len(phases)
    return [optimizer_steps(samples, {**keys, **phase.keys}, processes, earlier_tasks) for phase in phases]


def _memory(
    architecture: Architecture, keys: Mapping[str, Any], processes: int, tasks: Sequence[TaskSize]
) -> dict[str, int]:
    """Return the memory of a GPU where a task with these keys is the last one and has the longest sample of all."""
    return gpu_memory(
        architecture,
        keys,
        read_setting(read_deepspeed(keys), processes),
        earlier_tasks=0 if CARRIES[keys["carry"]].alone else len(tasks) - 1,
        tokens=max(task.longest_tokens for task in tasks),
        stacked_adapters=CARRIES[keys["carry"]].stacked_adapters(len(tasks) - 1),
    )


def _global_batch(arguments: Mapping[str, Any], processes: int) -> int:
    accumulated = int(arguments.get("gradient_accumulation_steps", 1))
    return processes * int(arguments.get("per_device_train_batch_size", 8)) * accumulated


def _task_sizes(
    recipe: Recipe, image_tokens: int, published: Mapping[str, PublishedSize] | None
) -> tuple[list[TaskSize], list[dict], list[TestSize]]:
    """Measure every task's own data, its general data as `Lengths.of_mix` does, and the retention sets.

    A benchmark's data is drawn or found as for a run, in a folder that is then removed. Where the data is missing,
    published sizes stand in.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = dict(recipe.arguments)
        if recipe.benchmark is not None and published is None:
            arguments |= load_benchmark(recipe.benchmark).prepare(Path(folder), arguments)
        lengths = Lengths(arguments, image_tokens)
        if published is None:
            return (
                [lengths.of_task(task) for task in recipe.tasks],
                [lengths.of_mix(task) for task in recipe.tasks],
                [
                    lengths.of_test_set(one["name"], one["dataset"], arguments.get("max_test_samples"))
                    for one in arguments.get("retention_sets") or ()
                ],
            )
        average, longest = lengths.estimate()
        limit, most = recipe.arguments.get("max_samples"), recipe.arguments.get("max_test_samples")
        sizes = [(task.name, published[task.name]) for task in recipe.tasks]
        found = [
            TaskSize(
                name,
                min(size.train, int(limit or size.train)),
                average,
                longest,
                min(size.test, int(most or size.test)),
                min(size.test, int(most or size.test)) * _RECORD_BYTES,
                "published",
            )
            for name, size in sizes
        ]
        return found, [{}] * len(found), []
