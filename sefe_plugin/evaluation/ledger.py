"""The ledger of a run: where its time went, phase by phase, as data and as tables.

Example: the ledger of a task that was trained for 30 of its 40 seconds::

    {"task": "charts", "seconds": 40.0, "besides": 25.0,
     "phases": [{"phase": "start-up", "seconds": 10.0},
                {"phase": "training", "seconds": 30.0, "count": 600, "unit": "samples", "per_second": 20.0}]}
"""

from collections.abc import Mapping, Sequence
from typing import Any


CHECKS, START_UP, DATA, MODEL, METHOD = "checks", "start-up", "data", "model", "method"
TRAINING, SAVING, SCORING, CARRY, REST = "training", "saving", "scoring", "carry", "rest"

#: Phase -> what belongs to it, in the order of the tables.
PHASES: dict[str, str] = {
    CHECKS: "recipe, keys and data tried and the libraries loaded, before the first task of a command",
    START_UP: "a process started and the host loaded, while the sequence waits",
    DATA: "records read and tokenized, test sets read",
    MODEL: "tokenizer, model and adapter loaded",
    METHOD: "the method's work before the first step and after the last one: key elements read, found and written",
    TRAINING: "the optimizer steps, with evaluation and checkpoints between them",
    SAVING: "adapter or model saved",
    SCORING: "answers generated and scored",
    CARRY: "what the next task starts from",
    REST: "ends of processes, digests of data, records of the sequence itself",
}

ABOUT = (
    "In seconds. Besides is the share of everything but training. The time of processes that were stopped counts as "
    "well."
)

ABOUT_PHASES = (
    "All tasks together. Peak memory is the most that the first process of a task had held by the end of the phase, "
    "and on its GPU the most that PyTorch had allocated; written is what this process wrote, with its log."
)

#: A table: its heads, and rows of texts.
Table = tuple[list[str], list[list[str]]]


def ledger(tasks: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    """Sum up what the tasks of a run took.

    Args:
        tasks: Each task's name, and what its processes have recorded: entries with "phase" and "seconds", and with
            "count" and "unit", "tokens", "peak_memory", "device_memory" and "written" where they are known.

    Returns:
        "tasks", a list of each task's "task", "phases", "seconds" and "besides"; and the last three over all tasks.
    """
    found = [{"task": task, **_summed(entries)} for task, entries in tasks]
    return {"tasks": found, **_summed([entry for _, entries in tasks for entry in entries])}


def _summed(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    phases = [_phase(name, [entry for entry in entries if entry["phase"] == name]) for name in PHASES]
    phases = [phase for phase in phases if phase is not None]
    seconds = sum(phase["seconds"] for phase in phases)
    training = sum(phase["seconds"] for phase in phases if phase["phase"] == TRAINING)
    besides = round(100 * (1 - training / seconds), 2) if training and seconds else None
    return {"phases": phases, "seconds": round(seconds, 3), "besides": besides}


def _phase(name: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not entries:
        return None
    phase: dict[str, Any] = {"phase": name, "seconds": round(sum(entry["seconds"] for entry in entries), 3)}
    for key, rate in (("count", "per_second"), ("tokens", "tokens_per_second")):
        counted = [entry for entry in entries if entry.get(key)]
        if counted:
            phase[key] = sum(entry[key] for entry in counted)
            if seconds := sum(entry["seconds"] for entry in counted):
                phase[rate] = round(phase[key] / seconds, 3)  # of the entries that are counted
            if key == "count":
                phase["unit"] = counted[-1]["unit"]
    for key, together in (("peak_memory", max), ("device_memory", max), ("written", sum)):
        known = [entry[key] for entry in entries if entry.get(key) is not None]
        if known:
            phase[key] = together(known)
    return phase


def task_table(found: Mapping[str, Any]) -> Table:
    """Return the seconds of each task, and of all, phase by phase; phases that no task has are left out."""
    names = [phase["phase"] for phase in found["phases"]]
    rows = [[one["task"], *_seconds(one, names)] for one in found["tasks"]]
    return ["task", *names, "all", "besides, %"], [*rows, ["all tasks", *_seconds(found, names)]]


def phase_table(found: Mapping[str, Any]) -> Table:
    """Return what each phase took in all tasks: seconds, share, rate, memory and bytes."""
    heads = ["phase", "s", "share, %", "samples or answers per s", "tokens per s"]
    heads += ["peak memory, GB", "peak GPU memory, GB", "written, MB", "what it is"]
    rows = [
        [
            phase["phase"],
            _number(phase["seconds"]),
            _number(100 * phase["seconds"] / found["seconds"] if found["seconds"] else None),
            _number(phase.get("per_second")),
            _number(phase.get("tokens_per_second")),
            _number(phase.get("peak_memory"), 1e9),
            _number(phase.get("device_memory"), 1e9),
            _number(phase.get("written"), 1e6),
            PHASES[phase["phase"]],
        ]
        for phase in found["phases"]
    ]
    return _without_empty(heads, rows)


def run_table(ledgers: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the seconds of several runs, phase by phase, each over all of its tasks.

    Args:
        ledgers: Run -> its ledger, of the runs that have one.
    """
    present = {phase["phase"] for found in ledgers.values() for phase in found["phases"]}
    names = [name for name in PHASES if name in present]
    rows = [[run, str(len(found["tasks"])), *_seconds(found, names)] for run, found in ledgers.items()]
    return ["run", "recorded tasks", *names, "all", "besides, %"], rows


def _seconds(found: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    of = {phase["phase"]: phase["seconds"] for phase in found["phases"]}
    return [*(_number(of.get(name)) for name in names), _number(found["seconds"]), _number(found["besides"])]


def _without_empty(heads: list[str], rows: list[list[str]]) -> Table:
    kept = [place for place, _ in enumerate(heads) if place == 0 or any(row[place] != "-" for row in rows)]
    return [heads[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _number(value: float | None, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:.2f}"
