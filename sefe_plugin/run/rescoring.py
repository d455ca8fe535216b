"""Answers scored again from their predictions, without the model: by other scorers, say."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks import official_rule
from sefe_plugin.data.test_sets import gold_faults, listed_faults
from sefe_plugin.evaluation.report import load_report, write_report
from sefe_plugin.evaluation.results import SCORES_FILE, predictions_file, rows_with_golds, score_rows
from sefe_plugin.evaluation.scorers import Spec, scorer_of, settled_spec, spec_faults, spec_text
from sefe_plugin.files import write_json
from sefe_plugin.json_lines import read_json_lines
from sefe_plugin.run.details import run_details
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.reporting import run_report
from sefe_plugin.run.stages import (
    scored_in,
    scorers_of,
    stage_name,
    stages_scored_otherwise,
    with_scorers,
)
from sefe_plugin.words import near


#: File of a task -> its content.
Scores = dict[Path, dict[str, dict]]


def rescore_run(path: Path, scorers: Mapping[str, Spec]) -> dict:
    """Score all complete tasks of a run again, and write scores and report anew.

    Args:
        path: The run folder.
        scorers: Task or retention set -> another scorer for it; the run's own for all others.

    Returns:
        The report.

    Raises:
        RunFolderError: If there is no such run, task or scorer, or an answer cannot be scored; nothing is changed.
    """
    folder = RunFolder(path)
    if folder.read_manifest() is None:
        raise RunFolderError(f"{path} holds no run. Name the `output_dir` of a sequence.")
    with folder.lock():
        manifest = folder.read_manifest()
        recipe, complete = manifest["recipe"], manifest["complete"]
        known = scorers_of(recipe)
        for task, scorer in scorers.items():
            if task not in known:
                raise RunFolderError(
                    f"{task!r} is no task{' or retention set' * bool(recipe.get('retention_sets'))} of {path}; it has "
                    f"{', '.join(known)}.{near(task, known)}"
                )
            if known[task] is None:
                raise RunFolderError(f"{task!r} of {path} has no `test_dataset`, so there are no answers to score.")
            if faults := spec_faults(scorer):
                raise RunFolderError("\n".join(faults))
        if not complete:
            raise RunFolderError(f"{path} has no complete task whose answers could be scored.")
        changed = with_scorers(recipe, {task: settled_spec(scorer) for task, scorer in scorers.items()})
        finished = folder.finished_stages(recipe, len(complete))
        scores = _new_scores(folder, changed, finished, set(known))
        names = [task["name"] for task in recipe["tasks"]]
        shown, title = _shown(path, len(names))
        stages = {*finished, *stages_scored_otherwise(recipe, changed)}
        folder.forget_scores(recipe, sorted(stages), len(complete))
        folder.complete_task(changed, complete)
        write_scores(scores)
        report = {**shown, **run_report(folder, names)}
        write_report(path, report, title, run_details(folder))
    return report


def scores_to_mend(folder: RunFolder, recipe: Mapping[str, Any]) -> Scores:
    """Compute the scores that a run's complete tasks need before the run goes on with `recipe`.

    These are all of them where a scorer has changed, and those that are missing after a rescoring that was stopped.
    Nothing is written: call `write_scores` when the run folder has taken up the recipe.

    Raises:
        RunFolderError: If an answer cannot be scored.
    """
    manifest = folder.read_manifest()
    if manifest is None:
        return {}
    before, count = manifest["recipe"], len(manifest["complete"])
    names = [task["name"] for task in before["tasks"][:count]]
    if names != [task["name"] for task in recipe["tasks"][:count]]:
        return {}  # the run does not go on with this recipe
    if _retained(before) != _retained(recipe):
        return {}  # nor with the answers to these
    stages = folder.finished_stages(recipe, count)
    places = {index: folder.task_folder(index, stage_name(recipe, index)) for index in stages}
    missing = [index for index, place in places.items() if not (place / SCORES_FILE).is_file()]
    stale = [index for index in stages_scored_otherwise(before, recipe) if index in places]
    old, new = scorers_of(before), scorers_of(recipe)
    changed = {name for name in old.keys() & new.keys() if old[name] != new[name]}
    return _new_scores(folder, recipe, sorted({*missing, *stale}), changed)


def _retained(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and datasets of the retention sets."""
    return [(one["name"], one["dataset"]) for one in recipe.get("retention_sets") or ()]


def write_scores(scores: Scores) -> None:
    """Write the scores of tasks."""
    for file, content in scores.items():
        write_json(file, content)


def _new_scores(
    folder: RunFolder, recipe: Mapping[str, Any], stages: Sequence[int], checked: Collection[str]
) -> Scores:
    """Score the answers given at some stages by the scorers of a recipe.

    Args:
        folder: The run.
        recipe: The recipe.
        stages: The stages.
        checked: The test sets whose gold answers are checked.
    """
    scores: Scores = {}
    for index in stages:
        place = folder.task_folder(index, stage_name(recipe, index))
        content = scores[place / SCORES_FILE] = {}
        for test_set in scored_in(place, recipe, index):
            name, scorer, rule = test_set["name"], test_set["scorer"], test_set.get("official")
            file = predictions_file(place, name)
            try:
                rows = rows_with_golds(read_json_lines(file), scorer)
                if name in checked and (faults := gold_faults(rows, scorer_of(scorer))):
                    raise ValueError(listed_faults(faults))
                content[name] = score_rows(scorer, rows, rule and official_rule(rule))
            except FileNotFoundError:
                raise RunFolderError(
                    f"{file} is missing, without which {place / SCORES_FILE} cannot be written."
                ) from None
            except ValueError as error:
                raise RunFolderError(f"{file} cannot be scored by {spec_text(scorer)!r}: {error}.") from error
    return scores


def _shown(path: Path, num_tasks: int) -> tuple[dict, str]:
    """Return what a run's report says beside its numbers, and its title."""
    title = f"{path}: {num_tasks} tasks"
    try:
        report = load_report(path)
        title = (path / "report.md").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    except (OSError, ValueError, IndexError):
        return {}, title
    return {key: report[key] for key in ("task_order",) if key in report}, title
