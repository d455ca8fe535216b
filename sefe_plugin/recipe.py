"""A sequence recipe: read, checked as a whole, and resolved into its tasks before anything starts."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks import BENCHMARKS, OWN_ORDER, load_benchmark, named_orders
from sefe_plugin.evaluation.scorers import SCORERS
from sefe_plugin.options import FILLED_IN_KEYS, SEQUENCE_KEYS, option_faults
from sefe_plugin.recipe_data import data_faults
from sefe_plugin.recipe_keys import HostKey, key_faults, near


_TASK_KEYS = ("name", "dataset", "test_dataset", "scorer")

#: Keys with one possible value in a sequence, and why.
_FIXED = {
    "stage": ("sft", "tasks are trained by supervised fine-tuning"),
    "do_train": (True, "every task is trained"),
    "finetuning_type": ("lora", "each task trains a fresh LoRA"),
}

#: Keys that cannot be part of a sequence, and why.
_REFUSED = {
    "dataset": "each task names its own dataset",
    "adapter_name_or_path": "the sequence carries the adapters itself",
    "create_new_adapter": "every task starts a fresh adapter",
    "do_predict": "the sequence scores the test sets itself",
    "predict_with_generate": "the sequence scores the test sets itself",
    "resume_from_checkpoint": "the same command resumes by itself",
    "use_hyper_parallel": "its training is not the one that this plugin extends",
    "overwrite_output_dir": "the same command resumes by itself; for a fresh start choose another `output_dir`",
}

#: Keys that a task cannot override.
_WHOLE_SEQUENCE = (
    *SEQUENCE_KEYS,
    *FILLED_IN_KEYS,
    *_REFUSED,
    *_FIXED,
    "carry",
    "output_dir",
    "model_name_or_path",
    "reglora_key_ratio",
    "reglora_selection",
    "dataset_dir",  # each task is followed by the test sets of all before it
    "media_dir",
    "template",
)


class RecipeError(ValueError):
    """A recipe that cannot start, with all its faults.

    Attributes:
        faults: one sentence each: key or file, rule, value, remedy.
    """

    def __init__(self, source: str, faults: list[str]):
        self.faults = faults
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"{source} cannot start: {count}.", *(f"  - {fault}" for fault in faults)]))


@dataclass(frozen=True)
class Task:
    """One task of a sequence.

    Attributes:
        name: unique name, also part of its folder's name.
        dataset: the host's name(s) of its training data.
        test_dataset: the host's name of its test data.
        scorer: name of the scorer of its answers.
        overrides: host and plugin keys that differ for this task.
        official: name of the official rule that scores its answers as well, or None.
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
        source: where it came from, for messages.
        arguments: the keys that hold for every task.
        tasks: the tasks in order.
        output_dir: the run folder.
        benchmark: name of the ready benchmark that supplies tasks and data, or None.
        task_order: name of the order of the benchmark's tasks, or the tasks' names as the recipe lists them; None
            without a benchmark.
    """

    source: str
    arguments: Mapping[str, Any]
    tasks: tuple[Task, ...]
    output_dir: Path
    benchmark: str | None
    task_order: str | list[str] | None = None

    def to_dict(self) -> dict:
        """Returns the recipe as plain data: what a run folder records to notice a change."""
        tasks = [{**{key: getattr(task, key) for key in _TASK_KEYS}, **task.overrides} for task in self.tasks]
        return {**self.arguments, "benchmark": self.benchmark, "tasks": tasks}


def load_recipe(
    arguments: Mapping[str, Any], source: str, host_keys: Mapping[str, HostKey], check_data: bool = True
) -> Recipe:
    """Checks a sequence recipe and resolves it.

    Args:
        arguments: all keys of the recipe, command-line overrides applied.
        source: name of the recipe for messages, usually its path.
        host_keys: the host's keys.
        check_data: whether missing data is a fault.

    Returns:
        The recipe, with the defaults of its benchmark filled in.

    Raises:
        RecipeError: with all faults at once.
    """
    benchmark_name = arguments.get("benchmark")
    benchmark = load_benchmark(benchmark_name) if benchmark_name in BENCHMARKS else None
    common = {key: value for key, value in arguments.items() if key not in SEQUENCE_KEYS}
    if benchmark is not None:
        common = {**benchmark.defaults(), **common}

    faults = key_faults(common, host_keys) + option_faults(common)
    faults += _deepspeed_faults(common) + _carry_faults(common) + _sequence_faults(common)
    if "tasks" in arguments and "benchmark" in arguments:
        faults.append("`tasks` and `benchmark` exclude each other: a benchmark brings its own tasks. Drop one.")
    if "benchmark" in arguments and benchmark is None:
        hint = near(benchmark_name, BENCHMARKS)
        faults.append(f"`benchmark` must be one of {tuple(BENCHMARKS)}; got {benchmark_name!r}.{hint}")

    tasks: list[Task] = []
    order = None
    if benchmark is not None:
        faults += benchmark.faults(common) if check_data else []
        tasks = [
            Task(task.name, f"{stem}_train", f"{stem}_test", task.scorer, {}, task.official)
            for task in benchmark.TASKS
            if (stem := f"{benchmark_name}_{task.name.lower()}")
        ]
        order = arguments.get("task_order", OWN_ORDER)
        tasks, order_faults = _ordered(tasks, order)
        faults += order_faults
    elif "tasks" in arguments:
        tasks, task_faults = _read_tasks(arguments["tasks"], common, host_keys, check_data)
        faults += task_faults
    if "task_order" in arguments and "benchmark" not in arguments:
        faults.append(
            "`task_order` orders the tasks of a `benchmark`. Drop it and write `tasks` in the order you want; got "
            f"{arguments['task_order']!r}."
        )

    if faults:
        raise RecipeError(source, faults)
    return Recipe(source, common, tuple(tasks), Path(common["output_dir"]), benchmark_name, order)


def single_run_faults(arguments: Mapping[str, Any], host_keys: Mapping[str, HostKey]) -> list[str]:
    """Lists the faults of a recipe for one ordinary run that uses keys of the plugin."""
    faults = key_faults(arguments, host_keys) + option_faults(arguments) + _deepspeed_faults(arguments)
    if "carry" in arguments:
        faults.append("`carry` belongs to a sequence. Add `tasks` or `benchmark`, or remove it.")
    faults += [
        f"`{key}` follows training. Set `do_train: true`, or remove it."
        for key in ("test_sets", "merge_adapter")
        if arguments.get(key) and not arguments.get("do_train")
    ]
    if arguments.get("test_sets") and arguments.get("scoring_backend", "generate") != "generate":
        faults.append(
            "`scoring_backend` belongs to a sequence. Set `scoring_backend: generate`, or remove `test_sets`."
        )
    if arguments.get("merge_adapter") and not faults:
        if arguments.get("finetuning_type", "lora") != "lora":
            faults.append(f"`merge_adapter` needs `finetuning_type: lora`; got {arguments['finetuning_type']!r}.")
        if merges_apart(arguments):
            faults.append(
                "`merge_adapter` cannot merge into weights that are quantized or partitioned (DeepSpeed ZeRO-3). "
                "Remove it, and merge afterwards with `llamafactory-cli export`."
            )
    return faults


def merges_apart(arguments: Mapping[str, Any]) -> bool:
    """Tells whether the trained model cannot take its adapter in, so that another process merges it into the base.

    Weights are quantized, or in parts on several devices (DeepSpeed ZeRO-3).

    Args:
        arguments: checked keys of one task.
    """
    return bool(arguments.get("quantization_bit")) or _zero_stage(arguments) == 3


def read_deepspeed(arguments: Mapping[str, Any]) -> dict | None:
    """Returns the DeepSpeed configuration that `deepspeed` holds, as a mapping or JSON text, or names; None without.

    Raises:
        OSError, ValueError: if it cannot be read.
    """
    value = arguments.get("deepspeed")
    if isinstance(value, str):
        value = json.loads(value if value.lstrip().startswith("{") else Path(value).read_text(encoding="utf-8"))
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"it holds {value!r}")
    return value


def _deepspeed_faults(arguments: Mapping[str, Any]) -> list[str]:
    try:
        config = read_deepspeed(arguments) or {}
    except (OSError, ValueError) as error:
        return [f"`deepspeed` must be a DeepSpeed configuration or a JSON file with one; {error}."]
    if config.get("optimizer") and arguments.get("projector_learning_rate") is not None:
        return [
            "`projector_learning_rate` needs the Trainer's optimizer, but the configuration of `deepspeed` brings its "
            "own. Remove its section `optimizer`."
        ]
    return []


def _zero_stage(arguments: Mapping[str, Any]) -> int:
    """Returns the ZeRO stage of a run, 0 without DeepSpeed."""
    return (read_deepspeed(arguments) or {}).get("zero_optimization", {}).get("stage", 0)


def _ordered(tasks: list[Task], order: Any) -> tuple[list[Task], list[str]]:
    """Puts a benchmark's tasks into a named or a listed order."""
    by_name = {task.name: task for task in tasks}
    named = named_orders(list(by_name))
    if isinstance(order, list) and all(isinstance(name, str) for name in order):
        faults = [
            f"`task_order`: {name!r} is no task of the benchmark.{near(name, by_name)}"
            for name in order
            if name not in by_name
        ]
        faults += [
            f"`task_order` must name every task once; it names {name!r} {order.count(name)} times."
            for name in by_name
            if order.count(name) != 1
        ]
    elif isinstance(order, str) and order in named:
        order, faults = named[order], []
    else:
        rule = f"one of {tuple(named)} or a list of all tasks of the benchmark"
        faults = [f"`task_order` must be {rule}; got {order!r}.{near(order, named)}"]
    return ([] if faults else [by_name[name] for name in order]), faults


def _sequence_faults(common: Mapping[str, Any]) -> list[str]:
    faults = []
    for key in ("model_name_or_path", "template", "output_dir"):
        if not isinstance(common.get(key), str) or not common[key]:
            faults.append(f"`{key}` is required in a sequence and must be text; got {common.get(key)!r}.")
    for key, (value, reason) in _FIXED.items():
        if common.get(key, value) != value:
            faults.append(f"`{key}` must be {value!r} in a sequence ({reason}); got {common[key]!r}.")
    for key, reason in _REFUSED.items():
        if common.get(key):
            faults.append(f"`{key}` cannot be set in a sequence: {reason}. Remove it; got {common[key]!r}.")
    for key in FILLED_IN_KEYS:
        if key in common:
            faults.append(f"`{key}` is filled in by the sequence for each task. Remove it; got {common[key]!r}.")
    model = common.get("model_name_or_path")
    if isinstance(model, str) and _is_local(model) and not (Path(model) / "config.json").is_file():
        faults.append(f"`model_name_or_path` names the folder {model!r}, which holds no config.json. Mend the path.")
    return faults


def _carry_faults(arguments: Mapping[str, Any]) -> list[str]:
    if arguments.get("carry") != "stack":
        return []
    faults = [
        f"`{key}` cannot be combined with `carry: stack`: its weight change is not B A on the base. Drop one."
        for key in ("use_dora", "pissa_init")
        if arguments.get(key)
    ]
    if arguments.get("scoring_backend") == "vllm" and arguments.get("pad_images"):
        faults.append(
            "`pad_images` with `scoring_backend: vllm` needs merged models, which hold the padding processor. Set "
            "`carry: merge` or `scoring_backend: generate`."
        )
    return faults


def _needs_equal_targets(common: Mapping[str, Any]) -> bool:
    """Key elements and stacks are of the same matrices in every task."""
    return bool(common.get("use_reglora")) or common.get("carry") == "stack"


def _is_local(model: str) -> bool:
    """A hub name is `name` or `owner/name`; everything else, and whatever exists, is a path."""
    return Path(model).exists() or model.startswith(("/", ".", "~")) or model.count("/") > 1


def _read_tasks(
    entries: Any, common: Mapping[str, Any], host_keys: Mapping[str, HostKey], check_data: bool
) -> tuple[list[Task], list[str]]:
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        return [], [f"`tasks` must be a list of at least one mapping with the keys {_TASK_KEYS}; got {entries!r}."]
    tasks, faults = [], []
    first_at: dict[str, int] = {}
    for position, entry in enumerate(entries, start=1):
        where = f"task {position} ({entry.get('name', 'no name')})"
        entry_faults = []
        for key in _TASK_KEYS:
            if not isinstance(entry.get(key), str) or not entry[key]:
                entry_faults.append(f"`{key}` is required and must be text; got {entry.get(key)!r}.")
        name = str(entry.get("name"))
        if not re.fullmatch(r"[\w.-]+", name):
            entry_faults.append(f"`name` may hold letters, digits, `_`, `.` and `-`; got {name!r}.")
        if name.casefold() in first_at:
            entry_faults.append(f"the name {name!r} is taken by task {first_at[name.casefold()]}. Names must differ.")
        first_at.setdefault(name.casefold(), position)
        if isinstance(entry.get("scorer"), str) and entry["scorer"] not in SCORERS:
            entry_faults.append(
                f"`scorer` must be one of {tuple(SCORERS)}; got {entry['scorer']!r}.{near(entry['scorer'], SCORERS)}"
            )
        overrides = {key: value for key, value in entry.items() if key not in _TASK_KEYS}
        entry_faults += key_faults(overrides, host_keys)
        for rule in (option_faults, _deepspeed_faults, _carry_faults):
            entry_faults += [fault for fault in rule({**common, **overrides}) if fault not in rule(common)]
        entry_faults += [
            f"`{key}` belongs to the whole sequence. Move it out of the task; got {overrides[key]!r}."
            for key in (*_WHOLE_SEQUENCE, *(("lora_target",) if _needs_equal_targets(common) else ()))
            if key in overrides
        ]
        if not entry_faults:
            tasks.append(Task(name, entry["dataset"], entry["test_dataset"], entry["scorer"], overrides))
            entry_faults += data_faults({**common, **entry}) if check_data else []
        faults += [f"{where}: {fault}" for fault in entry_faults]
    return tasks, faults
