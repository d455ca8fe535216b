"""What key elements take, in memory and on disk, worked out from the shapes of the matrices."""

from collections.abc import Sequence

from sefe_plugin.methods.reglora.key_elements import key_count
from sefe_plugin.methods.reglora.union import DECODED_ELEMENTS


#: A byte of the code of key elements skips up to 247 positions (`codec`).
_SKIP = 248


def key_element_bytes(ratio: float, rows: int, cols: int) -> float:
    """Return the bytes of the code of one task's key elements in one matrix, were they spread evenly at random.

    One byte each, and one for every gap of at least 248 positions; crowded ones take a few percent more.
    """
    return key_count(ratio, rows, cols) * (1 + (1 - ratio) ** _SKIP)


def key_element_memory(matrices: Sequence[tuple[int, int]], ratio: float, tasks: int) -> float:
    """Return the bytes of the key elements of earlier tasks in memory, where those of small matrices are decoded too.

    Args:
        matrices: (out_features, in_features) of every adapted matrix.
        ratio: M.
        tasks: Number of earlier tasks.
    """
    total = 0.0
    for rows, cols in matrices:
        total += tasks * key_element_bytes(ratio, rows, cols)
        if rows * cols <= DECODED_ELEMENTS:
            # an int32 position and a count for every element of any task
            total += 5 * rows * cols * (1 - (1 - ratio) ** tasks)
    return total
