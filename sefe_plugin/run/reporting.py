"""The report of a run, from what lies in its folder."""

from collections.abc import Sequence
from pathlib import Path

from sefe_plugin.carry import CARRIES
from sefe_plugin.evaluation.report_data import build_report
from sefe_plugin.files import write_json
from sefe_plugin.recipe.single_task import single_task_accuracy
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.records import is_accuracies, read_record
from sefe_plugin.run.stages import unscored_sets


def run_report(folder: RunFolder, tasks: Sequence[str]) -> dict:
    """Build the report of a run, finished or not.

    Args:
        folder: The run.
        tasks: The names of its tasks, in training order.

    Raises:
        RunFolderError: If scores of complete tasks are absent or damaged.
    """
    zero_shot, retention = folder.base_rows(tasks)
    manifest = folder.read_manifest() or {"recipe": {"tasks": []}, "complete": []}
    recipe = manifest["recipe"]
    carry = CARRIES.get(str(recipe.get("carry")))
    matrices = folder.matrices(tasks)
    unscored = unscored_sets(recipe)
    if unscored:  # of a task without scores, only its row tells that it is finished
        matrices = [matrix and matrix[: len(manifest["complete"])] for matrix in matrices]
    return build_report(
        tasks,
        *matrices,
        zero_shot=zero_shot,
        single_task=_single_task(folder, tasks),
        retention=retention,
        trained_alone=carry is not None and carry.alone,
        unscored=unscored,
    )


def record_single_task(folder: RunFolder, run: str | None, tasks: Sequence[str]) -> None:
    """Keep the accuracy of each task trained alone in the run folder, so that its report needs no other folder.

    Args:
        folder: The run.
        run: The folder of the reference; None removes what an earlier recipe named.
        tasks: The names of the tasks that are scored.
    """
    if run is None:
        folder.single_task_file.unlink(missing_ok=True)
    else:
        write_json(folder.single_task_file, single_task_accuracy(Path(run), tasks))


def _single_task(folder: RunFolder, tasks: Sequence[str]) -> list[float | None] | None:
    if not folder.single_task_file.is_file():
        return None
    rule = "a mapping from tasks to their accuracy, in percent"
    remedy = "Start the run again, which writes it anew."
    kept = read_record(folder.single_task_file, rule, is_accuracies, remedy)
    return [kept.get(task) for task in tasks]
