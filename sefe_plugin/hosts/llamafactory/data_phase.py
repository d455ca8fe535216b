"""Tells a task's progress when the host reads and tokenizes its data."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sefe_plugin.run.progress import DATA, LOADING, ProgressFile


#: The progress of the task that loads its data and its model; None before and after that.
_told: ContextVar[ProgressFile | None] = ContextVar("_told", default=None)


@contextmanager
def loading(progress: ProgressFile) -> Iterator[None]:
    """Let the host's reading of data be a phase of its own, as long as data and model are loaded."""
    progress.begin(LOADING)
    token = _told.set(progress)
    try:
        yield
    finally:
        _told.reset(token)


@contextmanager
def reading() -> Iterator[Callable[[Mapping[str, Any]], None] | None]:
    """Call what happens in the context the phase of data, where a task is loading.

    Yields:
        Takes what the host has read: its parts by name, such as "train_dataset"; None where no task is loading.
    """
    progress = _told.get()
    # a method may read further data once the training has begun, which is its own work
    if progress is None or progress.phase != LOADING:
        yield None
        return

    def read(parts: Mapping[str, Any]) -> None:
        from datasets import IterableDataset

        samples = parts.get("train_dataset")
        if samples is not None and not isinstance(samples, IterableDataset):
            progress.count(len(samples))

    progress.begin(DATA)
    yield read
    progress.begin(LOADING)
