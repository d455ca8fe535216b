"""Where in a run the process of a task is, told by the folder of its results."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sefe_plugin.evaluation.metrics import mean_of
from sefe_plugin.run.costs import COST_FILE, read_cost, read_costs
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.stages import BASE, unscored_sets


class Place(NamedTuple):
    """The folder of a stage of a run, or of a phase of a method within it.

    Attributes:
        run: The run.
        tasks: The names of all its tasks.
        unscored: Those of them, and other test sets, that get no scores.
        index: The stage, in the words of `stages`.
        folder: The folder.
    """

    run: RunFolder
    tasks: list[str]
    unscored: list[str]
    index: int
    folder: Path

    @property
    def name(self) -> str:
        """The folder within that of the run, such as ``mine/2_receipts``."""
        return str(self.folder.relative_to(self.run.path.parent))

    def steps_before(self) -> int:
        """Return the optimizer steps of all trainings before the one of this folder.

        Raises:
            RunFolderError: If a record of what a training took is damaged.
        """
        if self.index == BASE:
            return 0
        *earlier, own = [self.run.task_folder(index, self.tasks[index]) for index in range(self.index + 1)]
        costs = [cost for folder in earlier for cost in read_costs(folder)]
        costs += [read_cost(file.parent) for file in own.glob(f"*/{COST_FILE}") if file.parent != self.folder]
        return sum(cost.steps + cost.steps_before for cost in costs)

    def mean_accuracy(self, scores: Mapping[str, Mapping[str, float]]) -> float | None:
        """Return the mean accuracy of the tasks so far, in percent; None where there is none, or one is absent."""
        learned = [name for name in self.tasks[: self.index + 1] if name not in self.unscored]
        return mean_of(scores.get(name, {}).get("accuracy") for name in learned)


def place_of(folder: Path) -> Place | None:
    """Return the place of a folder; None where it belongs to no run.

    A `manifest.json` that is no sequence's may stand above any folder. A sequence has read its own before.
    """
    for own in (folder, folder.parent):
        run = RunFolder(own.parent)
        try:
            manifest = run.read_manifest()
        except RunFolderError:
            continue
        if manifest is not None:
            tasks = [task["name"] for task in manifest["recipe"]["tasks"]]
            stages = {run.task_folder(index, name).name: index for index, name in enumerate(tasks)}
            stages[run.base_folder.name] = BASE
            if own.name in stages:
                return Place(run, tasks, unscored_sets(manifest["recipe"]), stages[own.name], folder)
    return None
