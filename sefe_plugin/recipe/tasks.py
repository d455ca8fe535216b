"""The tasks of a sequence: those that a recipe lists, or those of a benchmark in the order it asks for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sefe_plugin.benchmarks import named_orders
from sefe_plugin.benchmarks.base import Benchmark
from sefe_plugin.carry import CARRIES
from sefe_plugin.evaluation.scorers import NO_SCORER, Spec, known_scorers, plain_spec, spec_faults
from sefe_plugin.methods import methods
from sefe_plugin.options import plain_fault
from sefe_plugin.recipe.checks import other_methods_errors, value_errors
from sefe_plugin.recipe.data_trial import data_errors
from sefe_plugin.recipe.keys import HostKeys, key_faults, without
from sefe_plugin.recipe.options import TASK_KEYS, all_keys_of_scope
from sefe_plugin.recipe.retention import name_rule_errors
from sefe_plugin.recipe.secrets import secret_errors
from sefe_plugin.words import near, shown


@dataclass(frozen=True)
class Task:
    """One task of a sequence.

    Attributes:
        name: Unique name, also part of its folder's name.
        dataset: The host's name(s) of its training data.
        test_dataset: The host's name of its test data; None where it is trained only.
        scorer: The scorer of its answers, as a recipe writes it; None without a test set.
        overrides: Host and plugin keys that differ for this task.
        official: Name of the official rule that scores its answers as well, or None.
    """

    name: str
    dataset: str
    test_dataset: str | None
    scorer: Spec | None
    overrides: Mapping[str, Any]
    official: str | None = None

    @property
    def is_scored(self) -> bool:
        """Whether its answers get scores."""
        return self.scorer not in (None, NO_SCORER)


def tasks_of_benchmark(benchmark: Benchmark) -> list[Task]:
    """Return the tasks of a benchmark in its own order."""
    stems = {task.name: f"{benchmark.name}_{task.name.lower()}" for task in benchmark.tasks}
    return [
        Task(task.name, f"{stems[task.name]}_train", f"{stems[task.name]}_test", task.scorer, {}, task.official)
        for task in benchmark.tasks
    ]


def listed_order(order: Any) -> Any:
    """Return an order with the names of a text that holds several as a list; any other value as it is.

    Example:
        >>> listed_order("Facts, Choices"), listed_order("reversed")
        (['Facts', 'Choices'], 'reversed')
    """
    is_several = isinstance(order, str) and "," in order
    return [name.strip() for name in order.split(",")] if is_several else order


def ordered(tasks: list[Task], order: Any) -> tuple[list[Task], list[str]]:
    """Put a benchmark's tasks into a named or a listed order.

    Args:
        tasks: All of them.
        order: What the recipe has under `task_order`, read by `listed_order`.

    Returns:
        The tasks, none where the order is at fault; and all errors.
    """
    by_name = {task.name: task for task in tasks}
    named = named_orders(list(by_name))
    if isinstance(order, list) and all(isinstance(name, str) for name in order):
        errors = [
            f"`task_order`: {shown(name)} is no task of the benchmark.{near(name, by_name)}"
            for name in order
            if name not in by_name
        ]
        errors += [
            f"`task_order` must name every task once; it names {name!r} {order.count(name)} times."
            for name in by_name
            if order.count(name) != 1
        ]
    elif isinstance(order, str) and order in named:
        order, errors = named[order], []
    else:
        rule = f"one of {tuple(named)} or all tasks of the benchmark, as a list or separated by commas"
        errors = [f"`task_order` must be {rule}; got {shown(order)}.{near(order, named)}"]
    return ([] if errors else [by_name[name] for name in order]), errors


def keys_of_tasks(common: Mapping[str, Any], tasks: Sequence[Task]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each task and all its keys."""
    for task in tasks:
        yield task.name, {**common, **task.overrides, "dataset": task.dataset, "test_dataset": task.test_dataset}


def read_tasks(
    entries: Any, common: Mapping[str, Any], host: HostKeys, check_data: bool
) -> tuple[list[Task], list[str]]:
    """Read the tasks that a recipe lists.

    Args:
        entries: What the recipe has under `tasks`.
        common: The keys that hold for every task.
        host: The host's keys.
        check_data: Whether missing data is an error.

    Returns:
        The tasks without an error, and all errors.
    """
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        rule = f"a list of at least one mapping with the keys {TASK_KEYS}, the last two where it is tested"
        return [], [f"`tasks` must be {rule}; got {shown(entries)}."]
    tasks, errors = [], []
    first_at: dict[str, int] = {}
    known_before = value_errors(common)
    for position, entry in enumerate(entries, start=1):
        name = entry.get("name")
        where = f"task {position} ({_shortened(name)})"
        found = list(_own_key_errors(entry))
        if isinstance(name, str) and name:
            found += name_rule_errors(name)
            if name.casefold() in first_at:
                found.append(f"the name {name!r} is taken by task {first_at[name.casefold()]}. Names must differ.")
            first_at.setdefault(name.casefold(), position)
        overrides, override_errors = _overrides(entry, TASK_KEYS, common, host, known_before)
        found += override_errors
        if not found:
            dataset = _as_text(entry["dataset"])
            tasks.append(Task(name, dataset, entry.get("test_dataset"), plain_spec(entry.get("scorer")), overrides))
            found += data_errors({**common, **entry}) if check_data else []
        errors += [f"{where}: {error}" for error in found]
    return tasks, errors


def with_task_keys(
    tasks: Sequence[Task], entries: Any, common: Mapping[str, Any], host: HostKeys
) -> tuple[list[Task], list[str]]:
    """Give tasks of a benchmark the keys that a recipe has for them under `task_keys`.

    Args:
        tasks: The tasks.
        entries: What the recipe has there.
        common: The keys that hold for every task.
        host: The host's keys.

    Returns:
        The tasks, and all errors.
    """
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return list(tasks), [f"`task_keys` must be a list of mappings with the name of a task; got {shown(entries)}."]
    by_name, errors = {task.name: task for task in tasks}, []
    known_before, named = value_errors(common), set()
    for entry in entries:
        name = entry.get("name")
        if not isinstance(name, str):
            errors.append(f"`task_keys`: `name` is required and must be text; got {shown(name)}.")
            continue
        if name not in by_name or name in named:
            rule = "name each task of the benchmark once at most"
            errors.append(f"`task_keys` must {rule}; got {shown(name)}.{near(name, by_name.keys() - named)}")
            continue
        named.add(name)
        overrides, found = _overrides(entry, ("name", "dataset"), common, host, known_before)
        found += _own_key_errors({"name": name, "dataset": entry.get("dataset", by_name[name].dataset)})
        errors += [f"`task_keys` ({name}): {error}" for error in found]
        if not found:
            dataset = _as_text(entry.get("dataset", by_name[name].dataset))
            by_name[name] = replace(by_name[name], dataset=dataset, overrides=overrides)
    return list(by_name.values()), errors


def _overrides(
    entry: Mapping[str, Any],
    own: Sequence[str],
    common: Mapping[str, Any],
    host: HostKeys,
    known_before: Sequence[str],
) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of a task that override common ones, and what is wrong with them.

    Args:
        entry: All its keys.
        own: Those among them that override nothing.
        common: The keys that hold for every task.
        host: The host's keys.
        known_before: What is wrong with these.
    """
    given = {key: value for key, value in entry.items() if key not in own}
    faults = key_faults(given, host, in_task=True)
    overrides = without(given, faults)
    found = [*faults.values(), *secret_errors(given, host.secrets)]
    found += [error for error in value_errors({**common, **overrides}) if error not in known_before]
    if common.get("cl_method") in methods():
        found += other_methods_errors({**overrides, "cl_method": common["cl_method"]})
    found += [
        f"`{key}` belongs to the whole sequence. Move it out of the task; got {shown(given[key])}."
        for key in _keys_of_the_whole(common, host)
        if key in given
    ]
    return overrides, found


def _own_key_errors(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the keys of `TASK_KEYS` in an entry."""
    is_tested = entry.get("test_dataset") is not None
    for key in TASK_KEYS if is_tested else ("name", "dataset"):
        value = entry.get(key)
        if key == "dataset" and isinstance(value, list):
            if not value or not all(isinstance(name, str) and name and "," not in name for name in value):
                rule = "names of datasets without commas, as a list, or one text of them with commas between"
                yield f"`dataset` must be {rule}; got {shown(value)}."
        elif key == "test_dataset" and (isinstance(value, list) or "," in str(value)):
            yield (
                f"`test_dataset` must name one test set; got {shown(value)}. Put all records into one file, or name "
                "the others under `retention_sets`."
            )
        elif isinstance(value, str) and value and not plain_fault(value):
            yield from spec_faults(value) if key == "scorer" else ()
        elif key == "scorer" and isinstance(value, Mapping) and not plain_fault(value):
            yield from spec_faults(value)
        elif key == "scorer":
            yield f"`scorer` is required with `test_dataset` and must be {known_scorers()}; got {shown(value)}."
        else:
            yield f"`{key}` is required and must be text; got {shown(value)}."
    if not is_tested and entry.get("scorer") is not None:
        yield (
            f"`scorer` needs a `test_dataset`, whose answers it scores; got {shown(entry['scorer'])}. Name one; or "
            "remove `scorer`, and the task is only trained."
        )


def _as_text(names: str | list[str]) -> str:
    """Return names of datasets as the host's one text."""
    return names if isinstance(names, str) else ", ".join(names)


def _keys_of_the_whole(common: Mapping[str, Any], host: HostKeys) -> tuple[str, ...]:
    """Keys that a task cannot override."""
    method, carry = methods().get(str(common.get("cl_method"))), CARRIES.get(str(common.get("carry")))
    keys = [key for scope in ("sequence", "reporting", "filled_in") for key in all_keys_of_scope(scope)]
    keys += [*host.refused, *host.other_trainings, *host.fixed, *host.whole_sequence, *host.parametrisations["lora"]]
    keys += [key for part in (method, carry) if part for key in part.whole_sequence]
    return tuple(dict.fromkeys(keys))


def _shortened(name: Any) -> str:
    return "no name" if name is None else name if isinstance(name, str) and len(name) <= 100 else shown(name)
