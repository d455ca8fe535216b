"""A sequence recipe: read, checked as a whole, and resolved into its tasks before anything starts."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks import OWN_ORDER, benchmark_names, load_benchmark
from sefe_plugin.benchmarks.base import Benchmark
from sefe_plugin.carry import CARRIES
from sefe_plugin.evaluation.scorers import scorer_of, settled_spec
from sefe_plugin.files import MODEL_CONFIG_FILE, is_file
from sefe_plugin.methods import DEFAULT, looked_at, methods
from sefe_plugin.recipe.checks import name_errors, other_methods_errors, other_training_errors, value_errors
from sefe_plugin.recipe.data_trial import (
    dataset_names,
    looked_at_errors,
    mix_errors,
    retention_data_errors,
    trained_test_sets,
)
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.home import with_home
from sefe_plugin.recipe.keys import HostKeys, key_faults, without
from sefe_plugin.recipe.options import SEQUENCE_KEYS, TASK_KEYS, all_keys_of_scope
from sefe_plugin.recipe.retention import retention_errors
from sefe_plugin.recipe.secrets import secret_errors
from sefe_plugin.recipe.single_task import single_task_errors
from sefe_plugin.recipe.tasks import (
    Task,
    keys_of_tasks,
    listed_order,
    ordered,
    read_tasks,
    tasks_of_benchmark,
    with_task_keys,
)
from sefe_plugin.words import near, shown


#: Keys without which no data can be tried.
_DATA_KEYS = {"dataset_dir", "media_dir", "max_samples", "seed"}


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

    @property
    def is_drawn(self) -> bool:
        """Whether its benchmark draws its data by rule: before the run there is none, and a trial has a part of it."""
        return self.benchmark is not None and load_benchmark(self.benchmark).drawn

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
    arguments = with_home(arguments, host)
    name = arguments.get("benchmark")
    benchmark = load_benchmark(name) if name in benchmark_names() else None
    common = {key: value for key, value in arguments.items() if key not in SEQUENCE_KEYS}
    if benchmark is not None:
        common = {**benchmark.defaults(), **common}
    faults = key_faults(common, host)
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
        order = listed_order(arguments.get("task_order", OWN_ORDER))
        tasks, order_errors = ordered(own := tasks_of_benchmark(benchmark), order)
        # without an order, the keys of tasks are checked nevertheless
        tasks, key_errors = with_task_keys(tasks or own, arguments.get("task_keys") or [], common, host)
        errors += order_errors + key_errors
        errors += _asd_errors(common, tasks, benchmark)
        errors += _twice_errors(common, tasks, benchmark) if check_data else []
    elif "tasks" in arguments:
        tasks, task_errors = read_tasks(arguments["tasks"], common, host, check_data)
        errors += task_errors
    errors += _mix_errors(common, tasks, benchmark is not None)
    if benchmark is not None:
        errors += _foreign_data_errors(common, tasks, benchmark)
        errors += _undrawn_data_errors(common, tasks, benchmark) if benchmark.drawn else []
    else:
        errors += looked_at_errors(common, keys_of_tasks(common, tasks))
    retention = retention_errors(common, [task.name for task in tasks], benchmark, check_data)
    if not retention and benchmark is None:
        retention = retention_data_errors(common, keys_of_tasks(common, tasks))
    if check_data:
        errors += _scorer_errors(tasks, () if retention else common.get("retention_sets") or ())
    errors += retention + (single_task_errors(common, [t.name for t in tasks if t.is_scored]) if tasks else [])
    if tasks and common.get("score_unseen") and not any(task.test_dataset for task in tasks):
        errors.append("`score_unseen` has no effect: no task has a `test_dataset`. Remove it.")
    if "task_order" in arguments and "benchmark" not in arguments:
        errors.append(
            "`task_order` orders the tasks of a `benchmark`. Drop it and write `tasks` in the order you want; got "
            f"{shown(arguments['task_order'])}."
        )

    if "task_keys" in arguments and "benchmark" not in arguments:
        errors.append("`task_keys` are for tasks of a `benchmark`. Write them into the entries of `tasks`.")

    if errors:
        raise RecipeError(source, errors)
    tasks = [replace(task, scorer=settled_spec(task.scorer)) if task.scorer else task for task in tasks]
    if sets := common.get("retention_sets"):
        common["retention_sets"] = [{**one, "scorer": settled_spec(one["scorer"])} for one in sets]
    return Recipe(source, common, tuple(tasks), Path(common["output_dir"]), name, order)


def _scorer_errors(tasks: Sequence[Task], retention_sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """List what the scorers do not find on this machine, each once."""
    specs = [(task.name, task.scorer) for task in tasks if task.scorer]
    specs += [(one["name"], one["scorer"]) for one in retention_sets]
    named: dict[str, list[str]] = {}
    for name, spec in specs:
        for fault in scorer_of(spec).setup_faults():
            named.setdefault(fault, []).append(name)
    return [f"`scorer` of {', '.join(names)}: {fault}" for fault, names in named.items()]


def recipe_warnings(recipe: Recipe) -> list[str]:
    """List what is doubtful in a recipe, one sentence each; the files of a benchmark are its own affair."""
    if recipe.benchmark and not recipe.is_drawn:
        return []
    return trained_test_sets(keys_of_tasks(recipe.arguments, recipe.tasks))


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


def _asd_errors(common: Mapping[str, Any], tasks: Sequence[Task], benchmark: Benchmark) -> list[str]:
    """Name the tasks whose answers are free texts, such as captions, and are to be rewritten, which no rule can do."""
    by_model = {task.name for task in benchmark.tasks if not task.asd_by_rule}
    names = [task.name for task in tasks if task.name in by_model and {**common, **task.overrides}.get("asd_ratio")]
    if not names:
        return []
    entries = ", ".join(f"{{name: {name}, asd_ratio: 0}}" for name in names)
    return [
        f"`asd_ratio`: the answers of {' and '.join(names)} are free texts, and no rule can write them in other "
        f"styles. Leave these tasks as they are, `task_keys: [{entries}]`; or let a model write their styles ahead of "
        "time (`sefe asd build`), and name the result there as `dataset`, too."
    ]


def _twice_errors(common: Mapping[str, Any], tasks: Sequence[Task], benchmark: Benchmark) -> list[str]:
    """Name the tasks that would rewrite samples which are in other answer styles already."""
    names = [task.name for task in tasks if {**common, **task.overrides}.get("asd_ratio")]
    reason = benchmark.diversified(common) if names else None
    if reason is None:
        return []
    return [f"`asd_ratio`: {reason}, diversified already. Set `asd_ratio: 0` for {', '.join(names)}."]


def _mix_errors(common: Mapping[str, Any], tasks: Sequence[Task], is_benchmark: bool) -> list[str]:
    """List general datasets that are none: a task's own data, or its test set."""
    if is_benchmark and any(keys.get("mix") for keys in (common, *(task.overrides for task in tasks))):
        return [
            "`mix` needs a `dataset_info.json` of yours, and a `benchmark` brings its own. List its tasks as `tasks`, "
            "or remove `mix`."
        ]
    return mix_errors(keys_of_tasks(common, tasks))


def _foreign_data_errors(common: Mapping[str, Any], tasks: Sequence[Task], benchmark: Benchmark) -> list[str]:
    """List datasets that the method looks at and the benchmark does not write."""
    own = [*benchmark.retention_sets, *(task.dataset for task in tasks)]
    return [
        f"`{key}` must name datasets of {own}, which `benchmark: {benchmark.name}` writes; got {shown(name)}."
        f"{near(name, own)}"
        for key, name in looked_at(common)
        if name not in own
    ]


def _undrawn_data_errors(common: Mapping[str, Any], tasks: Sequence[Task], benchmark: Benchmark) -> list[str]:
    """List data that a recipe names although its benchmark draws all data by rule, into the run folder."""
    name = f"`benchmark: {benchmark.name}`"
    errors = [
        f"`{key}` cannot be set with {name}, which draws its data into the run folder. Remove it, or list tasks "
        f"of yours as `tasks` in place of `benchmark`; got {shown(common[key])}."
        for key in ("dataset_dir", "media_dir")
        if common.get(key) is not None
    ]
    own = [dataset for task in tasks_of_benchmark(benchmark) for dataset in (task.dataset, task.test_dataset)]
    named = [("", {"eval_dataset": common.get("eval_dataset")})]
    named += [(f"`task_keys` ({task.name}): ", {"dataset": task.dataset, **task.overrides}) for task in tasks]
    return errors + [
        f"{where}`{key}` must name datasets that {name} draws; got {shown(dataset)}."
        f"{near(dataset, own) or f' They are called as {own[0]!r} and {own[1]!r} are.'}"
        for where, keys in named
        for key, dataset in dataset_names(keys)
        if key != "mix" and dataset not in own
    ]


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
    return errors + model_errors(common.get("model_name_or_path"))


def model_errors(model: str | None) -> list[str]:
    """List why a base model is none: a folder without a configuration; a name of the hub is not looked up."""
    if model and _is_local(model) and not is_file(Path(model) / MODEL_CONFIG_FILE):
        return [f"`model_name_or_path` names the folder {shown(model)}, which holds no config.json. Mend the path."]
    return []


def _is_local(model: str) -> bool:
    """Tell whether a model is a path: it exists, or is no name of the hub, which is `name` or `owner/name`."""
    is_there = os.path.exists(model)  # noqa: PTH110 - `Path.exists` fails at a path that is too long
    return is_there or model.startswith(("/", ".", "~")) or model.count("/") > 1
