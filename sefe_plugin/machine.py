"""What `sefe doctor` finds out about the machine: memory, disk, hub."""

import shutil
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple


_GB = 1e9

#: Free bytes on a disk, and of memory, below which a sequence is at risk.
_DISK, _MEMORY = 20 * _GB, 4 * _GB

#: Seconds to wait for the hub.
_HUB_TIME = 3.0


class Check(NamedTuple):
    """One finding.

    Attributes:
        level: "fault" if no sequence, or not what was asked for, can run; "warning" if some cannot.
        name: What was looked at.
        text: What was found, and how to mend it.
    """

    level: Literal["ok", "warning", "fault"]
    name: str
    text: str


def disk_checks(folder: Path) -> Iterator[Check]:
    """Check that a folder, which need not exist yet, can be written and has room."""
    existing = _existing(folder)
    if fault := _write_fault(existing):
        yield Check("fault", "disk", f"{existing} cannot be written: {fault}. Choose another folder.")
        return
    free = shutil.disk_usage(existing).free
    found = f"{free / _GB:.1f} GB free at {existing}"
    if free < _DISK:
        advice = "A 7B model carried on takes 14 GB for each task. `sefe plan RECIPE` says what a recipe takes."
        yield Check("warning", "disk", f"{found}. {advice}")
    else:
        yield Check("ok", "disk", found)


def memory_checks() -> Iterator[Check]:
    """Check that there is memory for a process of the host and a small model."""
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / _GB:.1f} of {memory.total / _GB:.1f} GB free"
    if memory.available < _MEMORY:
        advice = "A model that is loaded or merged has to fit. End other programs, or take a larger machine."
        yield Check("warning", "memory", f"{found}. {advice}")
    else:
        yield Check("ok", "memory", found)


def hub_checks() -> Iterator[Check]:
    """Check the hub, from which models and data are loaded by name, and the folder that keeps them."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    if fault := _write_fault(_existing(cache)):
        advice = "Set HF_HOME to a folder of your own, or name models by their folders."
        yield Check("warning", "hub cache", f"{cache} cannot be written: {fault}. {advice}")
    else:
        yield Check("ok", "hub cache", str(cache))
    if constants.HF_HUB_OFFLINE:
        text = "switched off (HF_HUB_OFFLINE): models and data are folders, or in the cache"
        yield Check("ok", "hub", text)
    elif fault := _unreachable(constants.ENDPOINT):
        advice = "Name models and data by their folders and set HF_HUB_OFFLINE=1, or set HF_ENDPOINT to a mirror."
        yield Check("warning", "hub", f"{constants.ENDPOINT} does not answer: {fault}. {advice}")
    else:
        yield Check("ok", "hub", constants.ENDPOINT)


def _existing(folder: Path) -> Path:
    """Return the folder itself, or the nearest one above that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _write_fault(folder: Path) -> str | None:
    """Return why nothing can be written into a folder, or None if it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        return error.strerror or str(error)
    return None


def _unreachable(address: str) -> str | None:
    """Return why an address does not answer, or None if it does, at the latest after `_HUB_TIME`.

    A thread asks, because looking up a name has no time limit of its own.
    """
    faults = [f"no answer within {_HUB_TIME:.0f} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - the hub that the user has set
            with urllib.request.urlopen(request, timeout=_HUB_TIME):  # noqa: S310
                faults.clear()
        except urllib.error.HTTPError:
            faults.clear()  # an answer
        except urllib.error.URLError as error:
            faults[:] = [str(error.reason)]
        except (OSError, ValueError) as error:
            faults[:] = [str(error)]

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HUB_TIME)
    return faults[0] if faults else None
