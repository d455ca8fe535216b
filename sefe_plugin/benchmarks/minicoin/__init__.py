"""Mini-CoIN: eight small tasks in CoIN's formats, and a tiny LLaVA that a CPU trains on them in minutes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks.base import Benchmark, BenchmarkTask
from sefe_plugin.benchmarks.minicoin import data
from sefe_plugin.methods import looked_at


#: The shipped tiny LLaVA, made by `sefe minicoin build`.
BASE = Path(__file__).parent / "base"


class MiniCoIN(Benchmark):
    """Mini-CoIN's eight tasks; nothing can be missing, because the data is drawn when a run starts."""

    name = "minicoin"
    tasks = tuple(BenchmarkTask(task.name, task.scorer) for task in data.TASKS)
    retention_sets = ("minicoin_general_test",)
    drawn = True

    def defaults(self) -> dict[str, Any]:
        """Return the keys mini-CoIN brings: the tiny base model and its template."""
        return {"model_name_or_path": str(BASE), "template": "llava", "default_system": ""}

    def draw(self, folder: Path, arguments: Mapping[str, Any], for_trial: bool = False) -> None:
        """Draw the data of a run from its `seed`.

        Args:
            folder: Dataset folder of the run.
            arguments: The recipe's keys.
            for_trial: Whether to draw the first samples only; the gold answers of a task are all of one length.
        """
        data.write_data(folder, arguments.get("seed", 42), **(data.TRIAL_SIZES if for_trial else {}))
        self.write_retention_sets(folder, arguments)

    def write_retention_sets(self, folder: Path, arguments: Mapping[str, Any]) -> None:
        """Write the test set of no task, if the recipe names it: without it all files are as they always were.

        Args:
            folder: Dataset folder of the run, with the data of the tasks.
            arguments: The recipe's keys.
        """
        if arguments.get("retention_sets") or self.retention_sets[0] in (name for _, name in looked_at(arguments)):
            from sefe_plugin.benchmarks.minicoin.general import add_general

            add_general(folder, seed=arguments.get("seed", 42))
