"""What is to be planned: a recipe, checked without the host and without its data where that is published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.benchmarks.base import PublishedSize
from sefe_plugin.plan.done import Done, read_done
from sefe_plugin.plan.sizes import PlanError
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.keys import HostKeys
from sefe_plugin.recipe.load import Recipe, load_recipe


@dataclass(frozen=True)
class Request:
    """A sequence that can be planned.

    Attributes:
        recipe: The checked recipe.
        errors: What keeps it from starting, but not from being planned: its data is missing.
        published: Published sizes of that data; None where the data is here.
        done: What its run folder holds.
    """

    recipe: Recipe
    errors: Sequence[str]
    published: Mapping[str, PublishedSize] | None
    done: Done


def read_request(keys: Mapping[str, Any], source: str, host: HostKeys) -> Request:
    """Check a recipe that is to be planned.

    Args:
        keys: Its keys.
        source: Its name, for messages.
        host: The host's keys.

    Raises:
        RecipeError: If it has errors, other than missing data of published size.
        PlanError: If it describes no sequence.
        RunFolderError: If its run folder is damaged.
    """
    try:
        recipe, errors = load_recipe(keys, source, host), []
    except RecipeError as error:
        errors = error.errors
        try:
            recipe = load_recipe(keys, source, host, check_data=False)
        except RecipeError:
            raise error from None
    published = load_benchmark(recipe.benchmark).published_sizes() if recipe.benchmark else {}
    if errors and not published:
        raise RecipeError(source, errors)
    if not recipe.tasks:
        raise PlanError(f"{source} describes no sequence. Give it `tasks` or a `benchmark`.")
    return Request(recipe, errors, published if errors else None, read_done(recipe))
