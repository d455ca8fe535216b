"""A sequence recipe: read, checked as a whole, and resolved into its tasks before anything starts."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks import OWN_ORDER, benchmark_names, load_benchmark, named_orders
from sefe_plugin.benchmarks.base import Benchmark
from sefe_plugin.carry import CARRIES
from sefe_plugin.files import MODEL_CONFIG_FILE, is_file
from sefe_plugin.methods import DEFAULT, looked_at, methods, unusable_methods
from sefe_plugin.options import plain_fault
from sefe_plugin.recipe.data_trial import data_errors, looked_at_errors, mix_errors, retention_data_errors
from sefe_plugin.recipe.keys import HostKeys, key_faults, without
from sefe_plugin.recipe.options import SEQUENCE_KEYS, all_keys_of_scope, key_value_errors, plugin_keys
from sefe_plugin.recipe.retention import name_rule_errors, retention_errors, scorer_errors
from sefe_plugin.recipe.secrets import secret_errors
from sefe_plugin.recipe.single_task import single_task_errors
from sefe_plugin.words import near, shown
from sefe_plugin.zero import read_deepspeed


#: Keys that every task has.
TASK_KEYS = ("name", "dataset", "test_dataset", "scorer")

#: Keys without which no data can be tried.
_DATA_KEYS = {"dataset_dir", "media_dir", "max_samples", "seed"}


class RecipeError(ValueError):
    """A recipe that cannot start, with all that is wrong with it.

    Attributes:
        source: Name of the recipe.
        errors: One sentence each: key or file, rule, value, remedy.
    """

    def __init__(self, source: str, errors: list[str]):
        self.source, self.errors = source, errors
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        super().__init__("\n".join([f"{source} cannot start: {count}.", *(f"  - {error}" for error in errors)]))

    def with_places(self, places: Mapping[str, Path]) -> "RecipeError":
        """Return the same, with the file of each key that an included recipe supplies (key -> file)."""
        return RecipeError(self.source, [with_place(error, places) for error in self.errors])


def with_place(error: str, places: Mapping[str, Path]) -> str:
    """Add to an error where the keys stand that its first sentence names, as far as an included recipe supplies them.

    Those that come later are advice.

    Example:
        >>> with_place("`seed` must be a whole number; got 'x'.", {"seed": Path("base.yaml")})
        "`seed` must be a whole number; got 'x'. (`seed` stands in base.yaml.)"
    """
    named = re.findall(r"`(\w+)", error.partition(". ")[0]) + ["tasks"] * error.startswith("task ")
    stands = [f"`{key}` stands in {places[key]}" for key in dict.fromkeys(named) if key in places]
    return f"{error} ({', '.join(stands)}.)" if stands else error


@dataclass(frozen=True)
class Task:
    """One task of a sequence.

    Attributes:
        name: Unique name, also part of its folder's name.
        dataset: The host's name(s) of its training data.
        test_dataset: The host's name of its test data.
        scorer: Name of the scorer of its answers.
        overrides: Host and plugin keys that differ for this task.
        official: Name of the official rule that scores its answers as well, or None.
    """

    name: str
    dataset: str
    test_dataset: str
    scorer: str
    overrides: Mapping[str, Any]
    official: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A checked sequence.

    Attributes:
        source: Where it came from, for messages.
        arguments: The keys that hold for every task, `cl_method` and `carry` among them.
        tasks: The tasks in order.
        output_dir: The run folder.
        benchmark: Name of the ready benchmark that supplies tasks and data, or None.
        task_order: Name of the order of the benchmark's tasks, or the tasks' names as the recipe lists them; None
            without a benchmark.
    """

    source: str
    arguments: Mapping[str, Any]
    tasks: tuple[Task, ...]
    output_dir: Path
    benchmark: str | None
    task_order: str | list[str] | None = None

    def to_dict(self) -> dict:
        """Return the recipe as plain data: what a run folder records to notice a change."""
        tasks = [{**{key: getattr(task, key) for key in TASK_KEYS}, **task.overrides} for task in self.tasks]
        return {**self.arguments, "benchmark": self.benchmark, "tasks": tasks}


def load_recipe(arguments: Mapping[str, Any], source: str, host: HostKeys, check_data: bool = True) -> Recipe:
    """Check a sequence recipe and resolve it.

    Args:
        arguments: All keys of the recipe, command-line overrides applied.
        source: Name of the recipe for messages, usually its path.
        host: The host's keys.
        check_data: Whether missing data is an error.

    Returns:
        The recipe, with the defaults of its benchmark and of its method filled in.

    Raises:
        RecipeError: With all errors at once.
    """
    name = arguments.get("benchmark")
    benchmark = load_benchmark(name) if name in benchmark_names() else None
    common = {key: value for key, value in arguments.items() if key not in SEQUENCE_KEYS}
    if benchmark is not None:
        common = {**benchmark.defaults(), **common}
    faults = key_faults(common, host.keys)
    common = without(common, faults)  # of which alone values are read
    check_data = check_data and not faults.keys() & _DATA_KEYS
    errors = [*faults.values(), *secret_errors(common, host.secrets)]
    common, method_errors = _with_method(common, host, faults)
    errors += method_errors + value_errors(common) + other_training_errors(common, host)
    errors += _sequence_errors(common, host, faults)
    if "tasks" in arguments and "benchmark" in arguments:
        errors.append("`tasks` and `benchmark` exclude each other: a benchmark brings its own tasks. Drop one.")
    if "benchmark" in arguments and benchmark is None:
        errors.append(
            f"`benchmark` must be one of {benchmark_names()}; got {shown(name)}.{near(name, benchmark_names())}"
        )

    tasks: list[Task] = []
    order = None
    if benchmark is not None:
        errors += benchmark.errors(common) if check_data else []
        order = arguments.get("task_order", OWN_ORDER)
        tasks, order_errors = _ordered(_benchmark_tasks(benchmark), order)
        errors += order_errors
    elif "tasks" in arguments:
        tasks, task_errors = _read_tasks(arguments["tasks"], common, host, check_data)
        errors += task_errors
    errors += _mix_errors(common, tasks, benchmark is not None)
    if benchmark is not None:
        errors += _foreign_data_errors(common, tasks, benchmark)
    else:
        errors += looked_at_errors(common, _named_keys(common, tasks))
    retention = retention_errors(common, [task.name for task in tasks], benchmark, check_data)
    if not retention and benchmark is None:
        retention = retention_data_errors(common, _named_keys(common, tasks))
    errors += retention + (single_task_errors(common, [task.name for task in tasks]) if tasks else [])
    if "task_order" in arguments and "benchmark" not in arguments:
        errors.append(
            "`task_order` orders the tasks of a `benchmark`. Drop it and write `tasks` in the order you want; got "
            f"{shown(arguments['task_order'])}."
        )

    if errors:
        raise RecipeError(source, errors)
    return Recipe(source, common, tuple(tasks), Path(common["output_dir"]), name, order)


def carry_errors(recipe: Recipe) -> list[str]:
    """List what its way to carry tasks on cannot work with; asked again when more is known of the base."""
    return CARRIES[recipe.arguments["carry"]].errors(recipe.arguments)


def _with_method(
    common: Mapping[str, Any], host: HostKeys, faults: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Fill in the method, its way to carry tasks on, and what the host is asked to train."""
    name = common.get("cl_method") or DEFAULT
    errors = name_errors(common)
    if errors or "cl_method" in faults:
        return dict(common), errors
    method = methods()[name]
    carry = common.get("carry") or method.carries[0]
    if unknown := [way for way in method.carries if way not in CARRIES]:
        errors.append(f"`cl_method: {name}` has unknown ways to carry tasks on, {unknown}. Mend its package.")
    if str(carry) in CARRIES and carry not in method.carries:
        errors.append(f"`carry` must be one of {method.carries} with `cl_method: {name}`; got {carry!r}.")
    errors += other_methods_errors({**common, "cl_method": name})
    asked = host.parametrisations[method.parametrisation]
    return {**asked, **common, "cl_method": name, "carry": carry}, errors


def other_methods_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List options of methods that are not the one that trains: they would have no effect."""
    name = arguments.get("cl_method")
    otherwise = f"with `cl_method: {name}`" if name else "without it"
    return [
        f"`{key}` belongs to `cl_method: {owner}` and has no effect {otherwise}. Remove it; got {shown(value)}."
        for key, value in arguments.items()
        if key in plugin_keys() and (owner := plugin_keys()[key].method) not in (None, name)
    ]


def other_training_errors(arguments: Mapping[str, Any], host: HostKeys) -> list[str]:
    """List the host's keys under which no method of the plugin would act."""
    return [
        f"`{key}` switches to {training}, which this plugin does not extend. Remove it; got {arguments[key]!r}."
        for key, training in host.other_trainings.items()
        if arguments.get(key)
    ]


def name_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List why `cl_method` names no method that can be used."""
    name = arguments.get("cl_method")
    if name is None or (isinstance(name, str) and name in methods()):
        return []
    if isinstance(name, str) and name in unusable_methods():
        return [f"`cl_method: {name}` cannot be used. {unusable_methods()[name]}"]
    return [f"`cl_method` must be one of {tuple(methods())}; got {shown(name)}.{near(name, methods())}"]


def value_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List what is wrong with the plugin's keys, and with the host's beside them."""
    if errors := _deepspeed_errors(arguments):
        arguments = {key: value for key, value in arguments.items() if key != "deepspeed"}
    carry = CARRIES.get(str(arguments.get("carry")))
    return errors + key_value_errors(arguments) + (carry.errors(arguments) if carry else [])


def _deepspeed_errors(arguments: Mapping[str, Any]) -> list[str]:
    try:
        config = read_deepspeed(arguments) or {}
    except (OSError, ValueError) as error:
        return [f"`deepspeed` must be a DeepSpeed configuration or a JSON file with one; {error}."]
    sections = {name: config.get(name) for name in ("zero_optimization", "bf16", "fp16", "optimizer")}
    if isinstance(sections["optimizer"], dict):
        sections["params"] = sections["optimizer"].get("params")
    if odd := {name: value for name, value in sections.items() if not isinstance(value or {}, dict)}:
        return [f"`deepspeed`: `{name}` must be a mapping; got {shown(value)}." for name, value in odd.items()]
    if config.get("optimizer") and arguments.get("projector_learning_rate") is not None:
        return [
            "`projector_learning_rate` needs the Trainer's optimizer, but the configuration of `deepspeed` brings its "
            "own. Remove its section `optimizer`."
        ]
    return []


def _benchmark_tasks(benchmark) -> list[Task]:
    stems = {task.name: f"{benchmark.name}_{task.name.lower()}" for task in benchmark.tasks}
    return [
        Task(task.name, f"{stems[task.name]}_train", f"{stems[task.name]}_test", task.scorer, {}, task.official)
        for task in benchmark.tasks
    ]


def _ordered(tasks: list[Task], order: Any) -> tuple[list[Task], list[str]]:
    """Put a benchmark's tasks into a named or a listed order."""
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
        rule = f"one of {tuple(named)} or a list of all tasks of the benchmark"
        errors = [f"`task_order` must be {rule}; got {shown(order)}.{near(order, named)}"]
    return ([] if errors else [by_name[name] for name in order]), errors


def _mix_errors(common: Mapping[str, Any], tasks: Sequence[Task], is_benchmark: bool) -> list[str]:
    """List general datasets that are none: a task's own data, or its test set."""
    if is_benchmark and common.get("mix"):
        return [
            "`mix` needs a `dataset_info.json` of yours, and a `benchmark` brings its own. List its tasks as `tasks`, "
            "or remove `mix`."
        ]
    return mix_errors(_named_keys(common, tasks))


def _foreign_data_errors(common: Mapping[str, Any], tasks: Sequence[Task], benchmark: Benchmark) -> list[str]:
    """List datasets that the method looks at and the benchmark does not write."""
    own = [*benchmark.retention_sets, *(task.dataset for task in tasks)]
    return [
        f"`{key}` must name datasets of {own}, which `benchmark: {benchmark.name}` writes; got {shown(name)}."
        f"{near(name, own)}"
        for key, name in looked_at(common)
        if name not in own
    ]


def _named_keys(common: Mapping[str, Any], tasks: Sequence[Task]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each task and all its keys."""
    for task in tasks:
        yield task.name, {**common, **task.overrides, "dataset": task.dataset, "test_dataset": task.test_dataset}


def _sequence_errors(common: Mapping[str, Any], host: HostKeys, faults: Mapping[str, str]) -> list[str]:
    errors = [
        f"`{key}` is required in a sequence and must be text; got {shown(common.get(key))}."
        for key in ("model_name_or_path", "template", "output_dir")
        if not common.get(key) and key not in faults
    ]
    # the host takes an adapter's path for several at a comma, and every task's adapter lies below this folder
    if common.get("finetuning_type") == "lora" and "," in str(common.get("output_dir")):
        errors.append(f"`output_dir` must hold no comma; got {common['output_dir']!r}.")
    for key, (value, reason) in host.fixed.items():
        if common.get(key, value) != value:
            errors.append(f"`{key}` must be {value!r} in a sequence ({reason}); got {shown(common[key])}.")
    for key, reason in host.refused.items():
        if common.get(key):
            errors.append(f"`{key}` cannot be set in a sequence: {reason}. Remove it; got {shown(common[key])}.")
    for key in all_keys_of_scope("filled_in"):
        if key in common:
            errors.append(f"`{key}` is filled in by the sequence for each task. Remove it; got {shown(common[key])}.")
    model = common.get("model_name_or_path")
    if model and _is_local(model) and not is_file(Path(model) / MODEL_CONFIG_FILE):
        errors.append(
            f"`model_name_or_path` names the folder {shown(model)}, which holds no config.json. Mend the path."
        )
    return errors


def _is_local(model: str) -> bool:
    """Tell whether a model is a path: it exists, or is no name of the hub, which is `name` or `owner/name`."""
    is_there = os.path.exists(model)  # noqa: PTH110 - `Path.exists` fails at a path that is too long
    return is_there or model.startswith(("/", ".", "~")) or model.count("/") > 1


def _keys_of_the_whole(common: Mapping[str, Any], host: HostKeys) -> tuple[str, ...]:
    """Keys that a task cannot override."""
    method, carry = methods().get(str(common.get("cl_method"))), CARRIES.get(str(common.get("carry")))
    keys = [key for scope in ("sequence", "reporting", "filled_in") for key in all_keys_of_scope(scope)]
    keys += [*host.refused, *host.other_trainings, *host.fixed, *host.whole_sequence, *host.parametrisations["lora"]]
    keys += [key for part in (method, carry) if part for key in part.whole_sequence]
    return tuple(dict.fromkeys(keys))


def _read_tasks(
    entries: Any, common: Mapping[str, Any], host: HostKeys, check_data: bool
) -> tuple[list[Task], list[str]]:
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        rule = f"a list of at least one mapping with the keys {TASK_KEYS}"
        return [], [f"`tasks` must be {rule}; got {shown(entries)}."]
    tasks, errors = [], []
    first_at: dict[str, int] = {}
    known_before = value_errors(common)
    for position, entry in enumerate(entries, start=1):
        name = entry.get("name")
        where = f"task {position} ({_shortened(name)})"
        found = [
            f"`{key}` is required and must be text; got {shown(entry.get(key))}."
            for key in TASK_KEYS
            if not isinstance(entry.get(key), str) or not entry[key] or plain_fault(entry[key])
        ]
        if isinstance(name, str) and name:
            found += name_rule_errors(name)
            if name.casefold() in first_at:
                found.append(f"the name {name!r} is taken by task {first_at[name.casefold()]}. Names must differ.")
            first_at.setdefault(name.casefold(), position)
        scorer = entry.get("scorer")
        if isinstance(scorer, str) and scorer:
            found += scorer_errors(scorer)
        given = {key: value for key, value in entry.items() if key not in TASK_KEYS}
        faults = key_faults(given, host.keys)
        overrides = without(given, faults)
        found += [*faults.values(), *secret_errors(given, host.secrets)]
        found += [error for error in value_errors({**common, **overrides}) if error not in known_before]
        if common.get("cl_method") in methods():
            found += other_methods_errors({**overrides, "cl_method": common["cl_method"]})
        found += [
            f"`{key}` belongs to the whole sequence. Move it out of the task; got {shown(given[key])}."
            for key in _keys_of_the_whole(common, host)
            if key in given
        ]
        if not found:
            tasks.append(Task(name, entry["dataset"], entry["test_dataset"], scorer, overrides))
            found += data_errors({**common, **entry}) if check_data else []
        errors += [f"{where}: {error}" for error in found]
    return tasks, errors


def _shortened(name: Any) -> str:
    return "no name" if name is None else name if isinstance(name, str) and len(name) <= 100 else shown(name)
