"""Test sets of a sequence that belong to no task (`retention_sets`), checked like those of tasks.

Example::

    retention_sets:
    - name: general
      dataset: general_test
      scorer: short_answer
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sefe_plugin.benchmarks.base import Benchmark
from sefe_plugin.evaluation.scorers import spec_faults
from sefe_plugin.options import plain_fault
from sefe_plugin.recipe.data_trial import test_data_errors
from sefe_plugin.recipe.options import option_faults
from sefe_plugin.words import near, shown


#: Keys that every retention set has, and no other.
RETENTION_KEYS = ("name", "dataset", "scorer")

#: Bytes of the name of a task or of a test set, which is a part of names of files.
_LONGEST_NAME = 200


def name_rule_errors(name: str) -> list[str]:
    """List what keeps a name of a task or of a test set from being a part of names of files."""
    if re.fullmatch(r"[\w.-]+", name) and len(name.encode(errors="replace")) <= _LONGEST_NAME:
        return []
    rule = f"may hold letters, digits, `_`, `.` and `-`, at most {_LONGEST_NAME} bytes"
    return [f"`name` {rule}; got {shown(name)}."]


def retention_errors(
    arguments: Mapping[str, Any], tasks: Iterable[str], benchmark: Benchmark | None, check_data: bool
) -> list[str]:
    """List what is wrong with the retention sets of a sequence.

    Args:
        arguments: The keys that hold for every task.
        tasks: The names of the tasks.
        benchmark: What supplies the data, if the recipe names one.
        check_data: Whether missing data is an error.
    """
    entries = arguments.get("retention_sets")
    if entries is None or "retention_sets" in option_faults(arguments):
        return []
    if not entries:
        rule = f"a list of mappings with the keys {RETENTION_KEYS}"
        return [f"`retention_sets` must be {rule}; got {shown(entries)}. Leave it out for none."]
    errors = []
    taken = {name.casefold(): f"the task {name}" for name in tasks}
    for position, entry in enumerate(entries, start=1):
        found = _entry_errors(entry, taken)
        if not found and benchmark is not None:
            found = _foreign_errors(entry["dataset"], benchmark)
        elif not found and check_data:
            found = test_data_errors("dataset", entry["dataset"], entry["scorer"], arguments)
        if isinstance(entry.get("name"), str):
            taken.setdefault(entry["name"].casefold(), f"retention set {position}")
        errors += [f"`retention_sets`, entry {position} ({shown(entry.get('name'))}): {error}" for error in found]
    return errors


def _entry_errors(entry: Mapping[str, Any], taken: Mapping[str, str]) -> list[str]:
    errors = [
        f"`{key}` is required and must be text; got {shown(entry.get(key))}."
        for key in RETENTION_KEYS
        if not (_is_text(entry.get(key)) or (key == "scorer" and isinstance(entry.get(key), Mapping)))
    ]
    errors += [
        f"`{key}` is no key of a retention set, which has {RETENTION_KEYS}.{near(key, RETENTION_KEYS)} Remove it."
        for key in entry
        if key not in RETENTION_KEYS
    ]
    if errors:
        return errors
    name = entry["name"]
    errors = name_rule_errors(name) + spec_faults(entry["scorer"])
    if name.casefold() in taken:
        errors.append(f"the name {name!r} is taken by {taken[name.casefold()]}. Names must differ.")
    return errors


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not plain_fault(value)


def _foreign_errors(dataset: str, benchmark: Benchmark) -> list[str]:
    """Refuse a dataset that a benchmark does not write: the run's dataset folder is the benchmark's own."""
    own = benchmark.retention_sets
    if dataset in own:
        return []
    if not own:
        return [
            f"`benchmark: {benchmark.name}` writes no dataset for retention sets. List its tasks as `tasks`, with a "
            f"`dataset_info.json` of yours, or remove `retention_sets`; got {shown(dataset)}."
        ]
    rule = f"one of {own}, which `benchmark: {benchmark.name}` writes"
    return [f"`dataset` must be {rule}; got {shown(dataset)}.{near(dataset, own)}"]
