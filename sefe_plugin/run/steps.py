"""The steps of a task, each recorded when it is whole, so that none is done twice."""

import os
from pathlib import Path

from sefe_plugin.files import read_json, write_json


STEPS_FILE = "steps.json"

TRAINED, SCORED, CARRIED = "trained", "scored", "carried"


def steps_of(folder: Path) -> list[str]:
    """Return the steps of a task that are whole, in the order in which they became so.

    Args:
        folder: The task's folder, or that of one of its phases.
    """
    file = folder / STEPS_FILE
    return read_json(file) if file.is_file() else []


def record_step(folder: Path, step: str) -> None:
    """Record that a step is whole; call it when all its files are on disk, in one process."""
    steps = steps_of(folder)
    if step not in steps:
        os.sync()  # the files of the step outlive a loss of power if its record does
        write_json(folder / STEPS_FILE, [*steps, step])
