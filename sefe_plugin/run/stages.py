"""Which test sets are scored after each task of a sequence, and before the first; nothing else decides it.

Example, with ``score_unseen: true``, two tasks and one retention set: before the first task `charts`, `receipts` and
`general` are scored, and the same three after each task. Without the key only `general` is scored before the first
task, `charts` and `general` after it, and all three after the second.

A stage is a task by its number from 0, after which it is; `BASE` is the stage before the first.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.evaluation.scorers import NO_SCORER, Spec, plain_spec


#: The stage before the first task, and the name that its folder ends in.
BASE, BASE_NAME = -1, "base"

#: The host's recipe of a task, and that of a scoring alone.
TASK_FILE, SCORE_FILE = "task.yaml", "score.yaml"


def stages_of(recipe: Mapping[str, Any]) -> range:
    """Return the stages of a recipe in their order; `BASE` is one where something is scored before the first task.

    Example:
        >>> list(stages_of({"tasks": [{}, {}]})), list(stages_of({"tasks": [{}, {}], "score_unseen": True}))
        ([0, 1], [-1, 0, 1])
    """
    return range(BASE if has_base_row(recipe) else 0, len(recipe["tasks"]))


def has_base_row(recipe: Mapping[str, Any]) -> bool:
    """Tell whether the untouched base is scored before the first task."""
    return bool(recipe.get("score_unseen") or recipe.get("retention_sets"))


def stage_name(recipe: Mapping[str, Any], index: int) -> str:
    """Return the name that the folder of a stage ends in."""
    return BASE_NAME if index == BASE else recipe["tasks"][index]["name"]


def scored_after(recipe: Mapping[str, Any], index: int) -> list[dict[str, Any]]:
    """Return the test sets that are scored at a stage; after a task its own test set is the last, if it has one.

    With the scorer "none" they are answered only.

    Args:
        recipe: A recipe as plain data, with its "tasks".
        index: The stage.

    Returns:
        Mappings with `name`, `dataset`, `scorer` and, where they hold, `official`, the official rule that scores the
        answers as well; `max_samples`, how many records are answered; and `own: true` for the stage's own test set.

    Example:
        >>> tasks = [{"name": name, "test_dataset": f"{name}_test", "scorer": "box"} for name in "ABC"]
        >>> [test_set["name"] for test_set in scored_after({"tasks": tasks}, 1)]
        ['A', 'B']
        >>> [test_set["name"] for test_set in scored_after({"tasks": tasks, "score_unseen": True}, 1)]
        ['A', 'C', 'B']
    """
    unseen, limit, official = recipe.get("score_unseen"), recipe.get("max_test_samples"), _official_rules(recipe)
    tested = {place: task for place, task in enumerate(recipe["tasks"]) if task.get("test_dataset") is not None}
    sets = {place: _test_set(task, task.get("max_test_samples", limit), official) for place, task in tested.items()}
    last = [{**sets[index], "own": True}] if index in sets else []
    others = [one for place, one in sets.items() if place < index or (unseen and place != index)]
    retention = [{**one, **_limit(limit)} for one in recipe.get("retention_sets") or ()]
    return [*others, *retention, *last]


def scored_in(place: Path, recipe: Mapping[str, Any], index: int) -> list[dict[str, Any]]:
    """Return the test sets that a finished stage was scored on, as far as the recipe still has them.

    With `score_unseen` a task that joined the sequence later, or has another test set since, is not among them.

    Args:
        place: The folder of the stage.
        recipe: As in `scored_after`, whose scorers are returned.
        index: The stage.
    """
    sets = scored_after(recipe, index)
    if not recipe.get("score_unseen"):
        return sets
    asked = asked_in(place)
    return [one for one in sets if asked is None or (one["name"], one["dataset"]) in asked]


def asked_in(place: Path) -> set[tuple[str, str]] | None:
    """Return name and dataset of each test set that a stage was scored on last; None where no recipe of it is there.

    A task is scored by the process that trains it, or by one of its own.
    """
    for file in (place / SCORE_FILE, place / TASK_FILE):
        if file.is_file():
            keys = yaml.safe_load(file.read_text(encoding="utf-8"))
            return {(one["name"], one["dataset"]) for one in keys.get("test_sets") or ()}
    return None


def scorers_of(recipe: Mapping[str, Any]) -> dict[str, Spec | None]:
    """Return the scorer of each test set of a recipe: those of its tasks, then its retention sets."""
    sets = (*recipe["tasks"], *(recipe.get("retention_sets") or ()))
    return {one["name"]: plain_spec(one.get("scorer")) for one in sets}


def with_scorers(recipe: Mapping[str, Any], scorers: Mapping[str, Spec]) -> dict[str, Any]:
    """Return a recipe with other scorers of some test sets, by their names."""

    def changed(entries) -> list[dict[str, Any]]:
        return [{**one, "scorer": scorers.get(one["name"], one.get("scorer"))} for one in entries]

    parts = {key: changed(recipe[key]) for key in ("tasks", "retention_sets") if recipe.get(key)}
    return {**recipe, **parts}


def stages_scored_otherwise(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[int]:
    """Return the stages of a recipe at which another recipe scores one of the same test sets in another way."""
    before, after = scorers_of(old), scorers_of(new)
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    return [index for index in stages_of(old) if changed & _names_after(old, index)]


def _names_after(recipe: Mapping[str, Any], index: int) -> set[str]:
    return {one["name"] for one in scored_after(recipe, index)}


def unscored_sets(recipe: Mapping[str, Any]) -> list[str]:
    """Return the names of the tasks and retention sets of a recipe that get no scores.

    Example:
        >>> unscored_sets({"tasks": [{"name": "A", "scorer": "box"}, {"name": "B", "scorer": "none"}, {"name": "C"}]})
        ['B', 'C']
    """
    return [name for name, scorer in scorers_of(recipe).items() if scorer in (None, NO_SCORER)]


def _test_set(task: Mapping[str, Any], limit: int | None, official: Mapping[str, str | None]) -> dict[str, Any]:
    test_set = {"name": task["name"], "dataset": task["test_dataset"], "scorer": task.get("scorer"), **_limit(limit)}
    rule = task.get("official") or official.get(task["name"])
    return test_set | ({"official": rule} if rule else {})


def _limit(limit: int | None) -> dict[str, int]:
    return {} if limit is None else {"max_samples": limit}


def _official_rules(recipe: Mapping[str, Any]) -> dict[str, str | None]:
    benchmark = recipe.get("benchmark")
    return {task.name: task.official for task in load_benchmark(benchmark).tasks} if benchmark else {}
