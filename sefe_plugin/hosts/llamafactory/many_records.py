"""Many records, each tried by the same steps, in this process or in several."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch


#: Records that a process tries before it reports.
_CHUNK = 64
#: Below this number of records other processes take longer to start than they save.
_WORTH_PROCESSES = 512


def spread(count: int, limit: int) -> list[int]:
    """Return at most `limit` of the numbers below `count`, evenly spread.

    Example:
        >>> spread(10, 4), spread(3, 4)
        ([0, 2, 5, 7], [0, 1, 2])
    """
    return [i * count // limit for i in range(limit)] if count > limit else list(range(count))


def sampling_note(name: str, tried: int, count: int) -> str:
    """Return the sentence that says how many of the records of a dataset were tried, where these are not all."""
    if not tried:
        return f"no record of {name!r} was tried (`trial_samples: 0`)."
    return f"{tried:,} of {count:,} records of {name!r} were tried, evenly spread (`trial_samples`)."


def tried(trial: Callable[[Any], Any], records, numbers: Sequence[int], workers: int | None) -> Iterator:
    """Yield what `trial` makes of the records at `numbers`, in their order.

    Args:
        trial: Given a record; raises nothing, and its result can be sent between processes.
        records: Gives a record for its number.
        numbers: Which records.
        workers: Number of processes; this one alone where there are few records.
    """
    if (workers or 1) < 2 or len(numbers) < _WORTH_PROCESSES:
        yield from (trial(records[number]) for number in numbers)
        return
    chunks = [numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK)]
    context = multiprocessing.get_context("fork")  # what the host has loaded is shared
    with ProcessPoolExecutor(min(workers, len(chunks)), context, _start_worker, (trial, records)) as pool:
        for results in pool.map(_try_chunk, chunks):
            yield from results


def _start_worker(trial: Callable[[Any], Any], records) -> None:
    torch.set_num_threads(1)  # the threads of the parent do not exist here
    _worker.update(trial=trial, records=records)


def _try_chunk(numbers: Sequence[int]) -> list:
    return [_worker["trial"](_worker["records"][number]) for number in numbers]


_worker: dict[str, Any] = {}
