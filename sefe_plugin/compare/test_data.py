"""Whether recipes with tasks of their own are scored on the same test sets, before the first of them runs."""

from collections.abc import Mapping
from pathlib import Path

from sefe_plugin.recipe.load import Recipe
from sefe_plugin.run.inputs import Inputs, essence, test_inputs


def differing_test_data(recipes: Mapping[str, Recipe]) -> list[str]:
    """List the test sets that have one name in two recipes and do not hold the same.

    Recipes that name the same folders name the same files: none of them is read.

    Args:
        recipes: Name of the arm -> its recipe. Those of a benchmark, which brings its own test sets, are passed over.
    """
    own = {name: recipe for name, recipe in recipes.items() if recipe.benchmark is None}
    places = {name: _folders(recipe) for name, recipe in own.items()}
    if len({*places.values()}) < 2:
        return []
    found, first, known = [], {}, {}
    for name, recipe in own.items():
        folders = places[name]
        known[folders] = _files(recipe, known.get(folders, {}))
        for test_set, record in known[folders].items():
            here = record.get("file", folders[1])
            other, expected, there = first.setdefault(test_set, (name, record, here))
            if essence(record) != essence(expected):
                found.append(
                    f"All recipes must be scored on the same test sets; {test_set} of {name} ({here}) does not hold "
                    f"what that of {other} does ({there}). Set `dataset_dir` and `media_dir` of both to the same."
                )
    return found


def _folders(recipe: Recipe) -> tuple[Path, Path]:
    data = recipe.arguments.get("dataset_dir") or "data"
    return Path(data).resolve(), Path(recipe.arguments.get("media_dir") or data).resolve()


def _files(recipe: Recipe, recorded: Inputs) -> Inputs:
    """Return the files and images of all test sets of a recipe."""
    named = [task.test_dataset for task in recipe.tasks if task.test_dataset is not None]
    named += [one["dataset"] for one in recipe.arguments.get("retention_sets") or ()]
    found = test_inputs(recipe.arguments, [{"dataset": name} for name in named], recorded)
    return {key: record for key, record in found.items() if "entry" not in record}
