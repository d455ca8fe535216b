"""What the training of a task took, recorded beside its other results, and what it leaves on disk for later tasks."""

import resource
import sys
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from sefe_plugin.data.added import KEPT_FOLDER
from sefe_plugin.files import ADAPTER_WEIGHTS_FILE, bytes_of, write_json
from sefe_plugin.run.records import read_record


COST_FILE = "cost.json"

#: Bytes of one unit of `ru_maxrss`.
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024


class Cost(NamedTuple):
    """What one training took, as its first process saw it.

    Attributes:
        seconds: From before the method first looks at the model until everything is saved, with evaluation and
            checkpoints on the way. Loading of the model and of the data is not part of it.
        steps: Optimizer steps in that time.
        steps_before: Steps of an earlier process that this one continued; their time is not known.
        step_seconds: Mean time of a step from its beginning to its end, without what comes between two steps: reading
            of data, evaluation, checkpoints.
        peak_memory: Bytes, of the last process.
        memory_of: What they were allocated on: "cuda", by PyTorch on this process's GPU; or "process", the resident
            memory of the process, libraries and all.
    """

    seconds: float
    steps: int
    steps_before: int
    step_seconds: float
    peak_memory: int
    memory_of: Literal["cuda", "process"]


def record_cost(folder: Path, cost: Cost) -> None:
    """Write what a training took into its folder."""
    write_json(folder / COST_FILE, cost._asdict())


def read_costs(folder: Path) -> list[Cost]:
    """Return what the trainings of a task took: those of its phases and its last one; none where none is recorded.

    Args:
        folder: The task's.

    Raises:
        RunFolderError: If a record is damaged.
    """
    phases = [file.parent for file in sorted(folder.glob(f"*/{COST_FILE}"))]
    return [cost for place in (*phases, folder) if (cost := read_cost(place))]


def read_cost(folder: Path) -> Cost | None:
    """Return what the training in a folder took; None where it is not recorded.

    Raises:
        RunFolderError: If the record is damaged.
    """
    file = folder / COST_FILE
    if not file.is_file():
        return None
    remedy = "Remove it; the run then has no costs."
    return Cost(**read_record(file, f"a mapping with {Cost._fields}", _is_cost, remedy))


def bytes_left(folder: Path, method_file: str | None) -> int:
    """Return the bytes of what a task leaves for later ones: adapter or trained model, method's file, kept samples.

    The base that `carry: merge` makes of the adapter is not counted, and nothing that the next task replaces.

    Args:
        folder: The task's.
        method_file: Name of what its method leaves, if anything.
    """
    names = {ADAPTER_WEIGHTS_FILE, method_file or ADAPTER_WEIGHTS_FILE}
    files = {*(folder / name for name in names), *folder.glob("model*.safetensors")}
    return bytes_of(*files, folder / KEPT_FOLDER)


def peak_memory_of_process() -> int:
    """Return the most bytes of memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MEMORY_UNIT


def bytes_written_by_process() -> int | None:
    """Return the bytes that this process has written so far, to files and to its log; None where it is not told.

    Linux alone tells it. What is written through memory that a file is mapped to is not counted.
    """
    if not psutil.LINUX:
        return None
    try:
        return psutil.Process().io_counters().write_chars
    except (psutil.AccessDenied, OSError, RuntimeError):  # a system that keeps it from its processes
        return None


def _is_cost(content: object) -> bool:
    return (
        isinstance(content, dict)
        and set(content) == set(Cost._fields)
        and all(isinstance(content[key], int | float) and content[key] >= 0 for key in Cost._fields[:-1])
        and content["memory_of"] in ("cuda", "process")
    )
