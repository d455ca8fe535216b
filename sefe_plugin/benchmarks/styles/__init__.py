"""`styles`: seven small tasks on text, each in an answer format of its own, for real instruction-tuned models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks.base import Benchmark, BenchmarkTask
from sefe_plugin.benchmarks.styles.data import TRIAL_SIZE, write_data
from sefe_plugin.benchmarks.styles.tasks import TASKS


class Styles(Benchmark):
    """The seven tasks; nothing can be missing, because the data is drawn when a run starts."""

    name = "styles"
    tasks = tuple(BenchmarkTask(task.name, task.scorer, asd_by_rule=task.asd_by_rule) for task in TASKS)
    drawn = True

    def draw(self, folder: Path, arguments: Mapping[str, Any], for_trial: bool = False) -> None:
        """Draw the data of a run from its `seed`.

        Args:
            folder: Dataset folder of the run.
            arguments: The recipe's keys.
            for_trial: Whether to draw the first training samples only; the test sets, whose answers differ in
                length, are whole.
        """
        write_data(folder, arguments.get("seed", 42), TRIAL_SIZE if for_trial else None)
