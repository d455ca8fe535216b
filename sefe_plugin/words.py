"""Words for messages."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


#: Longest word that a hint is looked for: a longer one is no slip of the pen.
_LONGEST_WORD = 100

#: Most characters of a value that a message shows.
_MOST_SHOWN = 300


def near(word: Any, known: Iterable[str]) -> str:
    """Return the hint at the known word that is most like `word`, or nothing.

    Example:
        >>> near("minicoi", ["coin", "minicoin"])
        ' Did you mean `minicoin`?'
    """
    if not isinstance(word, str) or len(word) > _LONGEST_WORD:
        return ""
    matches = get_close_matches(word, list(known), n=1)
    return f" Did you mean `{matches[0]}`?" if matches and matches[0] != word else ""


def shown(value: Any) -> str:
    """Return a value as a message shows it: as Python writes it, cut where it is long.

    Example:
        >>> shown("32"), shown([1] * 1000)[-12:]
        ("'32'", '1, 1, 1, ...')
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes neither very long numbers nor very deep lists
        text = f"a value of the type {type(value).__name__}, too large to show"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN].rstrip()} ..."


def duration(seconds: float) -> str:
    """Return a time in the two largest units that matter.

    Example:
        >>> duration(41.6), duration(200), duration(7500)
        ('42 s', '3 min 20 s', '2 h 5 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
