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

    def prepare(self, folder: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Draw the data of a run from its `seed`.

        Args:
            folder: Dataset folder of the run.
            arguments: The recipe's keys.

        Returns:
            The key `dataset_dir` for the run.
        """
        data.write_data(folder, seed=arguments.get("seed", 42))
        self.write_retention_sets(folder, arguments)
        return {"dataset_dir": str(folder)}

    def write_retention_sets(self, folder: Path, arguments: Mapping[str, Any]) -> None:
        """Write the test set of no task, if the recipe names it: without it all files are as they always were.

        Args:
            folder: Dataset folder of the run, with the data of the tasks.
            arguments: The recipe's keys.
        """
        if arguments.get("retention_sets") or self.retention_sets[0] in (name for _, name in looked_at(arguments)):
            from sefe_plugin.benchmarks.minicoin.general import add_general

            add_general(folder, seed=arguments.get("seed", 42))
