"""A recipe that cannot start."""

import re
from collections.abc import Mapping
from pathlib import Path


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
