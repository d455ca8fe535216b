"""The small JSON files of a run folder, read and checked: a damaged one is named before anything is trained."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sefe_plugin.evaluation.scorers.base import MOST_ACCURACY
from sefe_plugin.files import read_json
from sefe_plugin.words import shown


class RunFolderError(ValueError):
    """A run folder that cannot be used, with the reason and the remedy."""


def read_record(file: Path, rule: str, holds: Callable[[Any], bool], remedy: str) -> Any:
    """Read a JSON file of a run folder.

    Args:
        file: The file.
        rule: What it must hold, in words.
        holds: Whether its content is that.
        remedy: What to do where it is not.

    Raises:
        RunFolderError: If it is absent, no JSON, or holds something else.
    """
    try:
        content = read_json(file)
    except FileNotFoundError:
        raise RunFolderError(f"{file} is missing. {remedy}") from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{file} is damaged: {error}. {remedy}") from error
    if not holds(content):
        raise RunFolderError(f"{file} is damaged: it must hold {rule}; got {shown(content)}. {remedy}")
    return content


def is_manifest(content: Any) -> bool:
    """Tell whether a manifest, of whatever version, has the parts that are read of it."""
    if not isinstance(content, dict):
        return False
    recipe, complete = content.get("recipe"), content.get("complete")
    tasks = recipe.get("tasks") if isinstance(recipe, dict) else None
    return (
        _is_named(tasks)
        and _is_named(recipe.get("retention_sets") or [])
        and _is_named(complete)
        and [task["name"] for task in tasks[: len(complete)]] == [task["name"] for task in complete]
        and all(_is_versions(task["versions"]) for task in complete if "versions" in task)
    )


def is_scores(content: Any) -> bool:
    """Tell whether scores have an accuracy and a share of formatted answers for every test set, in percent.

    Both are null where nothing is scored, the latter also where the scorer tells no format.
    """
    return isinstance(content, dict) and all(
        isinstance(scores, dict)
        and "format" in scores
        and (_is_unscored(scores) or is_accuracy(scores.get("accuracy")))
        and all(is_accuracy(scores.get(key) or 0.0) for key in ("official", "lenient"))
        and all(scores.get(key) is None or _is_percent(scores[key]) for key in ("format", "stderr"))
        and ("count" not in scores or (type(scores["count"]) is int and scores["count"] > 0))
        for scores in content.values()
    )


def is_accuracies(content: Any) -> bool:
    """Tell whether a record has nothing but percentages by name."""
    return isinstance(content, dict) and all(map(is_accuracy, content.values()))


def _is_unscored(scores: dict) -> bool:
    return all(key in scores and scores[key] is None for key in ("accuracy", "format"))


def _is_named(entries: Any) -> bool:
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) and not {"/", "\0"} & {*entry["name"]}
        for entry in entries
    )


def _is_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(number, str) for number in value.values())


def is_accuracy(value: Any) -> bool:
    """Tell whether a value can be an accuracy; a mean of caption metrics may exceed 100."""
    return _is_percent(value, MOST_ACCURACY)


def _is_percent(value: Any, most: float = 100) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 <= value <= most
