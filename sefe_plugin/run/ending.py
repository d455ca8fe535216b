"""How a run ended before all its tasks were complete, kept in its folder for those who look at it later."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from sefe_plugin.files import write_json
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.records import read_record


ENDING_FILE = "ending.json"


class Ending(NamedTuple):
    """How a run ended.

    Attributes:
        failed: Whether by an error; it was stopped otherwise, by Ctrl-C or SIGTERM.
        said: The error, in words.
        time: When, in seconds of Unix time.
    """

    failed: bool
    said: str
    time: float


@contextmanager
def recorded_ending(folder: RunFolder) -> Iterator[None]:
    """Record how the work in a run folder ends, if it does not end well; what an earlier start has recorded goes.

    A run that is killed records nothing. Nor does it where the disk is full, which its error says.
    """
    file = folder.path / ENDING_FILE
    file.unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        said = str(error) or ("Stopped by Ctrl-C." if stopped else type(error).__name__)
        ending = Ending(not stopped, said, time.time())
        with suppress(OSError):
            write_json(file, ending._asdict())
        raise


def read_ending(folder: RunFolder) -> Ending | None:
    """Return how the last start of a run ended; None where it has recorded nothing.

    Raises:
        RunFolderError: If the record is damaged.
    """
    file = folder.path / ENDING_FILE
    if not file.is_file():
        return None
    rule = f"a mapping with {Ending._fields}"
    return Ending(**read_record(file, rule, _is_ending, "Remove it; nothing else needs it."))


def _is_ending(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and set(content) == set(Ending._fields)
        and isinstance(content["failed"], bool)
        and isinstance(content["said"], str)
        and isinstance(content["time"], int | float)
    )
