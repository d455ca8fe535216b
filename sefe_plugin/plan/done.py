"""What of a sequence its run folder holds already, and what is left of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import Any

from sefe_plugin.files import bytes_of
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.run.costs import read_costs
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.steps import TRAINED, steps_of
from sefe_plugin.words import duration, number, size_in_words


@dataclass(frozen=True)
class Done:
    """The state of a run folder.

    Attributes:
        folder: Its path.
        complete: Names of the complete tasks.
        trained: Places of the tasks that need no further training, from 0: the complete ones, and one that is only to
            be scored or carried on.
        foreign: Whether it holds complete tasks that are not the first ones of the recipe: a run would be refused.
        bytes: That its files take.
        step_seconds: Seconds of training for each optimizer step of the complete tasks, with evaluation and
            checkpoints on the way; None where none is recorded.
    """

    folder: str
    complete: Sequence[str] = ()
    trained: Sequence[int] = ()
    foreign: bool = False
    bytes: int = 0
    step_seconds: float | None = None

    @property
    def free(self) -> int:
        """Bytes that are free on its disk now."""
        return disk_usage(_existing(Path(self.folder))).free

    def left(self, steps: Sequence[int | None], disk: int) -> dict[str, Any]:
        """Return what is left of a plan.

        Args:
            steps: Optimizer steps of every task, None where they are not known.
            disk: Bytes of the finished run.

        Returns:
            "steps", None where they are not known; "seconds" of training, None where they or the time of a step are
            not known; "disk", the bytes that are still to come.
        """
        ahead = [number for index, number in enumerate(steps) if index not in self.trained]
        number = None if None in ahead else sum(ahead)
        seconds = None if number is None or self.step_seconds is None else round(number * self.step_seconds)
        return {"steps": number, "seconds": seconds, "disk": max(disk - self.bytes, 0)}


def read_done(recipe: Recipe) -> Done:
    """Read the run folder of a recipe.

    Raises:
        RunFolderError: If a file of it is damaged.
    """
    folder = RunFolder(recipe.output_dir)
    manifest = folder.read_manifest()
    complete = [record["name"] for record in manifest["complete"]] if manifest else []
    names = [task.name for task in recipe.tasks]
    if complete != names[: len(complete)]:
        return Done(str(recipe.output_dir), complete, foreign=True)
    folders = [folder.task_folder(index, name) for index, name in enumerate(names)]
    costs = [cost for place in folders[: len(complete)] for cost in read_costs(place)]
    steps = sum(cost.steps for cost in costs)
    return Done(
        str(recipe.output_dir),
        complete,
        [index for index, place in enumerate(folders) if index < len(complete) or TRAINED in steps_of(place)],
        bytes=bytes_of(recipe.output_dir),
        step_seconds=sum(cost.seconds for cost in costs) / steps if steps else None,
    )


def format_head(recipe: Recipe, done: Done) -> str:
    """Say in two lines what is planned, and how far it is; all this is known before the host is loaded."""
    keys: Mapping[str, Any] = recipe.arguments
    count = len(recipe.tasks)
    tasks = f"{count} task{'s' * (count != 1)}: {', '.join(task.name for task in recipe.tasks)}"
    if done.foreign:
        state = f"it holds a run of other tasks, {', '.join(done.complete)}: choose another `output_dir`"
    elif done.complete:
        state = f"{len(done.complete)} of {count} tasks are complete ({', '.join(done.complete)})"
    else:
        state = "no task is complete"
    return f"{recipe.source}: {tasks}; {keys['cl_method']}, carry {keys['carry']}\n{done.folder}: {state}"


def format_left(done: Done, left: Mapping[str, Any]) -> list[str]:
    """Return the lines that say what is left: training, time and disk.

    Args:
        done: The state of the run folder.
        left: What `Done.left` returned.
    """
    lines = [f"  {'training':<22}{number(left['steps'])} steps"]
    if left["seconds"] is not None and left["steps"]:
        rate = f"{done.step_seconds:.2g} s a step, as measured on the complete tasks"
        lines.append(f"  {'time':<22}{duration(left['seconds'])} of training, at {rate}; scoring comes on top")
    elif left["steps"] != 0:
        lines.append(f"  {'time':<22}not known: no complete task of this run has measured a step")
    short = "; THIS IS NOT ENOUGH" if left["disk"] > done.free else ""
    there = f"{size_in_words(done.bytes)} are there, " if done.bytes else ""
    lines.append(f"  {'disk':<22}{size_in_words(left['disk'])}; {there}{size_in_words(done.free)} are free{short}")
    return lines


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())
