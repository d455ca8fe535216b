"""How far two texts are from each other: edits, and the longest common subsequence."""

from collections.abc import Sequence


def edit_distance(first: Sequence, second: Sequence) -> int:
    """Count the fewest insertions, deletions and replacements that turn one sequence into the other (Levenshtein).

    Example:
        >>> edit_distance("car", "cat"), edit_distance("", "cat"), edit_distance("kitten", "sitting")
        (1, 3, 3)
    """
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(second, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


def similarity(first: str, second: str) -> float:
    """Return 1 - edit distance / longer length, in [0, 1]; 1 for two empty texts.

    Example:
        >>> round(similarity("car", "cat"), 3), similarity("2019", "2018"), similarity("no", "yes")
        (0.667, 0.75, 0.0)
    """
    longer = max(len(first), len(second))
    return 1.0 - edit_distance(first, second) / longer if longer else 1.0


def common_length(first: Sequence, second: Sequence) -> int:
    """Return the length of the longest common subsequence.

    Example:
        >>> common_length("a dog runs on grass".split(), "the dog on the grass".split())
        3
    """
    row = [0] * (len(second) + 1)
    for one in first:
        before = 0
        for j, other in enumerate(second, start=1):
            before, row[j] = row[j], before + 1 if one == other else max(row[j], row[j - 1])
    return row[-1]
