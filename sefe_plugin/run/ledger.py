"""What a task took, phase by phase: a small file beside its results, to which each of its processes adds.

Example: a task whose process was killed while it trained, and which a second one has trained to its end::

    [{"began": 1795000000.0, "phases": [{"phase": "start-up", "seconds": 9.2, ...},
                                        {"phase": "training", "seconds": 14.0, ...}]},
     {"began": 1795000100.0, "phases": [{"phase": "start-up", "seconds": 8.9, ...}, ...]}]
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sefe_plugin.evaluation import ledger
from sefe_plugin.files import write_json
from sefe_plugin.run import progress
from sefe_plugin.run.progress import Phase, all_progress
from sefe_plugin.run.records import read_record


LEDGER_FILE = "ledger.json"

#: Phase of a process -> that of the ledger.
_NAMES = {
    progress.PREPARING: ledger.START_UP,
    progress.DATA: ledger.DATA,
    progress.LOADING: ledger.MODEL,
    progress.METHOD: ledger.METHOD,
    progress.TRAINING: ledger.TRAINING,
    progress.SAVING: ledger.SAVING,
    progress.SCORING: ledger.SCORING,
    progress.CARRYING: ledger.CARRY,
}

#: What an entry may have beside "phase", "seconds" and "unit"; absent where it is not known.
_NUMBERS = ("count", "tokens", "peak_memory", "device_memory", "written")


def record_process(folder: Path, phases: Sequence[Phase], ended: float) -> None:
    """Add a process that has ended by itself.

    Args:
        folder: The task's.
        phases: What it has said of its progress; at least one.
        ended: When the sequence saw its end, in seconds of Unix time.
    """
    rest = {"phase": ledger.REST, "seconds": _rounded(ended - phases[-1].seen)}
    _add(folder, phases[0].began, [*map(_entry, phases), rest])


def record_rest(folder: Path, began: float, seconds: float, checks: float | None = None) -> None:
    """Add what the sequence itself took for a task, beside its processes.

    Args:
        folder: The task's.
        began: When the task began, in seconds of Unix time.
        seconds: How long that was, without the time of the processes.
        checks: Seconds from the start of the command to this task, if it is the command's first; None for others.
    """
    taken = {ledger.CHECKS: checks, ledger.REST: seconds}
    entries = [{"phase": name, "seconds": _rounded(took)} for name, took in taken.items() if took is not None]
    _add(folder, began, entries)


def record_stopped(folder: Path) -> None:
    """Add the processes whose end no sequence has seen, as far as they have said what they did.

    Call it before a further process of the task begins.

    Args:
        folder: The task's.
    """
    known = {process["began"] for process in read_processes(folder)}
    for phases in all_progress(folder):
        if phases[0].began not in known:
            _add(folder, phases[0].began, [*map(_entry, phases)])


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """Return what the processes of a task have recorded, as `evaluation.ledger` takes it; none of an earlier version.

    Raises:
        RunFolderError: If the file is damaged.
    """
    return [entry for process in read_processes(folder) for entry in process["phases"]]


def read_processes(folder: Path) -> list[dict[str, Any]]:
    """Return the processes of a task, the oldest first, each with "began" and its "phases".

    Raises:
        RunFolderError: If the file is damaged.
    """
    file = folder / LEDGER_FILE
    if not file.is_file():
        return []
    rule = "a list of processes, each with `began` and `phases`"
    return read_record(file, rule, _is_ledger, "Remove it; the run then has no ledger of this task.")


def _add(folder: Path, began: float, entries: list[dict[str, Any]]) -> None:
    processes = read_processes(folder)
    write_json(folder / LEDGER_FILE, [*processes, {"began": began, "phases": entries}])


def _entry(phase: Phase) -> dict[str, Any]:
    counts = {
        progress.DATA: (phase.done, "samples"),
        progress.TRAINING: (phase.trained, "samples"),
        progress.SCORING: (phase.done - phase.before, "answers"),
    }
    count, unit = counts.get(phase.name, (None, None))
    known = {
        "count": count or None,
        "unit": unit if count else None,
        "tokens": phase.tokens,
        "peak_memory": phase.memory,
        "device_memory": phase.device_memory,
        "written": phase.written,
    }
    return {
        "phase": _NAMES.get(phase.name, ledger.REST),
        "seconds": _rounded(phase.seen - phase.began),
        **{key: value for key, value in known.items() if value is not None},
    }


def _rounded(seconds: float) -> float:
    return round(max(0.0, seconds), 3)  # a clock that was set back gives no time


def _is_ledger(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(process, dict)
        and set(process) == {"began", "phases"}
        and _is_number(process["began"])
        and isinstance(process["phases"], list)
        and all(map(_is_entry, process["phases"]))
        for process in content
    )


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.get("phase") in ledger.PHASES
        and _is_number(entry.get("seconds"))
        and all(_is_number(entry[key]) for key in _NUMBERS if key in entry)
        and ("count" not in entry or isinstance(entry.get("unit"), str))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
