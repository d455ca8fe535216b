"""Words for messages."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


#: Longest word that a hint is looked for: a longer one is no slip of the pen.
_LONGEST_WORD = 100

#: Most characters of a value that a message shows.
_MOST_SHOWN = 300


def near(word: Any, known: Iterable[str], likeness: float = 0.6) -> str:
    """Return the hint at the known word that is most like `word`, or nothing.

    Args:
        word: What was found.
        known: What it could be.
        likeness: How like a known word must be, in [0, 1], as `difflib` counts it.

    Example:
        >>> near("minicoi", ["coin", "minicoin"])
        ' Did you mean `minicoin`?'
    """
    if not isinstance(word, str) or len(word) > _LONGEST_WORD:
        return ""
    matches = get_close_matches(word, list(known), n=1, cutoff=likeness)
    return meant(matches[0]) if matches and matches[0] != word else ""


def meant(word: str) -> str:
    """Return the hint at one word."""
    return f" Did you mean `{word}`?"


def size_in_words(size: int) -> str:
    """Return a number of bytes to be read: 1 GB is 10^9 bytes, as disks have it.

    Example:
        >>> size_in_words(14_126_000_000), size_in_words(1_500)
        ('14.1 GB', '1.5 kB')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.1f} kB"


def shown(value: Any, most: int = _MOST_SHOWN) -> str:
    """Return a value as a message shows it: as Python writes it, cut where it is long.

    Args:
        value: What was found.
        most: Characters of it that are shown at most.

    Example:
        >>> shown("32"), shown([1] * 1000)[-12:]
        ("'32'", '1, 1, 1, ...')
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes neither very long numbers nor very deep lists
        text = f"a value of the type {type(value).__name__}, too large to show"
    return text if len(text) <= most else f"{text[:most].rstrip()} ..."


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


def counted(count: int, one: str, several: str | None = None) -> str:
    """Return a number with its noun.

    Args:
        count: How many there are.
        one: The noun for one.
        several: The noun for any other number; `one` with an s if None.

    Example:
        >>> counted(1, "test set"), counted(2, "test set"), counted(35, "matrix", "matrices")
        ('1 test set', '2 test sets', '35 matrices')
    """
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def number(value: int | None) -> str:
    """Return a number to be read; "?" for one that is not known."""
    return "?" if value is None else f"{value:,}"
