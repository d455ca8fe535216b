"""`include`: a recipe that takes all keys of another one, and has few of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sefe_plugin.files import is_file
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.words import shown


#: The word of a recipe file. It is resolved when the file is read, so no run ever sees it.
INCLUDE = "include"


def resolve_includes(file: Path, read: Callable[[Path], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Path]]:
    """Read a recipe with all that it includes.

    A key replaces the included recipe's key of the same name as a whole, `tasks` too. Paths in values mean what they
    mean in any recipe: they start from the working folder. Only the path of `include` itself starts from the folder of
    the file that holds it.

    Args:
        file: The recipe.
        read: Reads the keys of one file.

    Returns:
        The keys, without `include`; and for each key that an included recipe supplies, the file that holds it.

    Raises:
        RecipeError: If `include` is not the path of one recipe, or recipes include each other in a circle.
    """
    keys: dict[str, Any] = {}
    places: dict[str, Path] = {}
    for place, own in reversed(include_chain(file, read)):
        keys |= own
        places |= dict.fromkeys(own, place)
    return keys, {key: place for key, place in places.items() if place != file}


def include_chain(file: Path, read: Callable[[Path], dict[str, Any]]) -> list[tuple[Path, dict[str, Any]]]:
    """Return a recipe, the one that it includes, the one that this includes, and so on, each with its own keys.

    Raises:
        RecipeError: As `resolve_includes` does.
    """
    chain = [(file, read(file))]
    while INCLUDE in (keys := chain[-1][1]):
        holder = chain[-1][0]
        base = _base(holder, keys.pop(INCLUDE))
        files = [place for place, _ in chain]
        if base.resolve() in [place.resolve() for place in files]:
            circle = " -> ".join(map(str, [*files, base]))
            raise RecipeError(str(holder), [f"`{INCLUDE}` goes in a circle: {circle}. Remove one of them."])
        chain.append((base, read(base)))
    return chain


def _base(file: Path, name: Any) -> Path:
    """Return the file that a recipe includes."""
    if not isinstance(name, str) or not name.strip():
        rule = f"the path of one recipe, from the folder of {file.name}"
        raise RecipeError(str(file), [f"`{INCLUDE}` must be {rule}; got {shown(name)}."])
    base = file.parent / name
    if not is_file(base):
        raise RecipeError(str(file), [f"`{INCLUDE}: {name}`: {base} does not exist. Mend the path."])
    return base
