"""The report of a run, from what lies in its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sefe_plugin.carry import CARRIES
from sefe_plugin.evaluation.ledger import ledger
from sefe_plugin.evaluation.report_data import build_report
from sefe_plugin.files import write_json
from sefe_plugin.recipe.single_task import single_task_accuracy
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.ledger import read_ledger
from sefe_plugin.run.records import is_accuracies, read_record
from sefe_plugin.run.scores import Scores
from sefe_plugin.run.stages import BASE, BASE_NAME, has_base_row, unscored_sets


#: The host's default of `seed`.
DEFAULT_SEED = 42

#: What a report says beside its numbers; one that an earlier version of this plugin wrote may lack it.
ABOUT_KEYS = ("seed", "versions", "counts", "stderr_matrix", "lenient", "bwt_earlier", "parts", "ledger")


def run_report(folder: RunFolder, tasks: Sequence[str]) -> dict:
    """Build the report of a run, finished or not.

    Args:
        folder: The run.
        tasks: The names of its tasks, in training order.

    Raises:
        RunFolderError: If scores of complete tasks are absent or damaged.
    """
    scores = Scores(folder, tasks)
    zero_shot, retention = scores.base_rows()
    manifest = folder.read_manifest() or {"recipe": {"tasks": []}, "complete": []}
    recipe = manifest["recipe"]
    carry = CARRIES.get(str(recipe.get("carry")))
    matrices = scores.matrices()
    unscored = unscored_sets(recipe)
    if unscored:  # of a task without scores, only its row tells that it is finished
        matrices = [matrix and matrix[: len(manifest["complete"])] for matrix in matrices]
    errors, counts = scores.certainty()
    report = build_report(
        tasks,
        *matrices,
        zero_shot=zero_shot,
        single_task=_single_task(folder, tasks),
        retention=retention,
        trained_alone=carry is not None and carry.alone,
        stderr_matrix=errors,
        counts=counts,
        unscored=unscored,
        lenient_matrix=scores.lenient(),
        parts=scores.parts(),
    )
    return {**report, **provenance(recipe, manifest["complete"]), **_ledger(folder, manifest)}


def _ledger(folder: RunFolder, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return "ledger": what the base and the complete tasks took; nothing of an earlier version's run."""
    stages = [(BASE, BASE_NAME)] if has_base_row(manifest["recipe"]) and folder.has_scored_base() else []
    stages += [(index, entry["name"]) for index, entry in enumerate(manifest["complete"])]
    found = [(name, read_ledger(folder.task_folder(index, name))) for index, name in stages]
    recorded = [(name, entries) for name, entries in found if entries]
    return {"ledger": ledger(recorded)} if recorded else {}


def provenance(recipe: Mapping[str, Any], complete: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a report says of how its tasks were trained.

    Args:
        recipe: The recipe as plain data, with its "tasks".
        complete: The records of the complete tasks in the manifest.

    Returns:
        "seed", or a list of each task's where tasks differ; and "versions", each combination of versions once, in the
        order in which they came; nothing of an earlier version's run that has not recorded them.
    """
    seeds = [task.get("seed", recipe.get("seed", DEFAULT_SEED)) for task in recipe.get("tasks", ())]
    found = [task["versions"] for task in complete if "versions" in task]
    versions = [one for index, one in enumerate(found) if one not in found[:index]]
    said = {"seed": seeds[0] if len(set(seeds)) == 1 else seeds} if seeds else {}
    return said | ({"versions": versions} if versions else {})


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
