"""Words for messages."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def near(word: Any, known: Iterable[str]) -> str:
    """Return the hint at the known word that is most like `word`, or nothing.

    Example:
        >>> near("minicoi", ["coin", "minicoin"])
        ' Did you mean `minicoin`?'
    """
    matches = get_close_matches(str(word), list(known), n=1)
    return f" Did you mean `{matches[0]}`?" if matches and matches[0] != word else ""
