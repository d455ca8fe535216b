"""The steps of a task, each recorded when it is whole, so that none is done twice."""

from pathlib import Path

from sefe_plugin.files import sync_tree, write_json
from sefe_plugin.run.records import read_record


STEPS_FILE = "steps.json"

TRAINED, SCORED, CARRIED = "trained", "scored", "carried"


def steps_of(folder: Path) -> list[str]:
    """Return the steps of a task that are whole, in the order in which they became so.

    Args:
        folder: The task's folder, or that of one of its phases.

    Raises:
        RunFolderError: If the file of steps is damaged.
    """
    file = folder / STEPS_FILE
    if not file.exists():
        return []
    known = (TRAINED, SCORED, CARRIED)
    return read_record(
        file,
        f"a list of the steps that are whole, each one of {known}",
        lambda steps: isinstance(steps, list) and all(isinstance(step, str) and step in known for step in steps),
        "Remove the file to do the steps of this task anew.",
    )


def forget_step(folder: Path, step: str) -> None:
    """Let a step be done again."""
    write_json(folder / STEPS_FILE, [whole for whole in steps_of(folder) if whole != step])


def record_step(folder: Path, step: str) -> None:
    """Record that a step is whole; call it when all its files are on disk, in one process."""
    steps = steps_of(folder)
    if step not in steps:
        sync_tree(folder)  # the files of the step outlive a loss of power if its record does
        write_json(folder / STEPS_FILE, [*steps, step])
