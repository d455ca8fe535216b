"""The answers of complete tasks scored again from their predictions, without the model: by other scorers, say."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks import load_benchmark, official_rule
from sefe_plugin.data.test_sets import gold_faults, listed_faults
from sefe_plugin.evaluation.report import build_report, load_report, write_report
from sefe_plugin.evaluation.results import SCORES_FILE, predictions_file, score_rows
from sefe_plugin.evaluation.scorers import SCORERS
from sefe_plugin.files import write_json
from sefe_plugin.json_lines import read_json_lines
from sefe_plugin.run.folder import RunFolder, RunFolderError, scorers_of, stages_scored_otherwise
from sefe_plugin.words import near


#: File of a task -> its content.
Scores = dict[Path, dict[str, dict]]


def rescore_run(path: Path, scorers: Mapping[str, str]) -> dict:
    """Score all complete tasks of a run again, and write scores and report anew.

    Args:
        path: The run folder.
        scorers: Task -> another scorer for it; the run's own for all others.

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
                raise RunFolderError(f"{task!r} is no task of {path}; it has {', '.join(known)}.{near(task, known)}")
            if scorer not in SCORERS:
                raise RunFolderError(
                    f"a scorer must be one of {tuple(SCORERS)}; got {scorer!r}.{near(scorer, SCORERS)}"
                )
        if not complete:
            raise RunFolderError(f"{path} has no complete task whose answers could be scored.")
        tasks = [{**task, "scorer": scorers.get(task["name"], task["scorer"])} for task in recipe["tasks"]]
        changed = {**recipe, "tasks": tasks}
        scores = _new_scores(folder, changed, range(len(complete)), set(known))
        shown, title = _shown(path, len(tasks))
        stages = {*range(len(complete)), *stages_scored_otherwise(recipe, changed)}
        folder.forget_scores(recipe, sorted(stages), len(complete))
        folder.complete_task(changed, complete)
        write_scores(scores)
        names = list(known)
        report = {**shown, **build_report(names, *folder.matrices(names))}
        if len(complete) == len(names):
            write_report(path, report, title)
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
    names = list(scorers_of(before))[:count]
    if names != list(scorers_of(recipe))[:count]:
        return {}  # the run does not go on with this recipe
    missing = [i for i in range(count) if not (folder.task_folder(i, names[i]) / SCORES_FILE).is_file()]
    stale = [i for i in stages_scored_otherwise(before, recipe) if i < count]
    old, new = scorers_of(before), scorers_of(recipe)
    changed = {name for name in names if old[name] != new[name]}
    return _new_scores(folder, recipe, sorted({*missing, *stale}), changed)


def write_scores(scores: Scores) -> None:
    """Write the scores of tasks."""
    for file, content in scores.items():
        write_json(file, content)


def _new_scores(
    folder: RunFolder, recipe: Mapping[str, Any], stages: Sequence[int], checked: Collection[str]
) -> Scores:
    """Score the answers given after some tasks by the scorers of a recipe.

    Args:
        folder: The run.
        recipe: The recipe.
        stages: The tasks, from 0.
        checked: The test sets whose gold answers are checked.
    """
    official, scorers = _official_rules(recipe), scorers_of(recipe)
    names = list(scorers)
    scores: Scores = {}
    for index in stages:
        task_folder = folder.task_folder(index, names[index])
        content = scores[task_folder / SCORES_FILE] = {}
        for name in names[: index + 1]:
            file = predictions_file(task_folder, name)
            try:
                rows = rows_with_golds(read_json_lines(file), scorers[name])
                if name in checked and (faults := gold_faults(rows, SCORERS[scorers[name]])):
                    raise ValueError(listed_faults(faults))
                rule = official.get(name)
                content[name] = score_rows(scorers[name], rows, rule and official_rule(rule))
            except FileNotFoundError:
                raise RunFolderError(
                    f"{file} is missing, without which {task_folder / SCORES_FILE} cannot be written."
                ) from None
            except ValueError as error:
                raise RunFolderError(f"{file} cannot be scored by {scorers[name]!r}: {error}.") from error
    return scores


def rows_with_golds(rows: Sequence[dict], scorer: str) -> list[dict]:
    """Return predictions with the gold answer where a scorer reads it, whichever scorer they were written for."""
    own = SCORERS[scorer]
    fields = {other.gold for other in SCORERS.values()}
    return [
        row
        if {own.gold, *own.alternatives} & row.keys() or not fields & row.keys()
        else {**row, own.gold: next(row[field] for field in fields if field in row)}
        for row in rows
    ]


def _official_rules(recipe: Mapping[str, Any]) -> dict[str, str | None]:
    benchmark = recipe.get("benchmark")
    return {task.name: task.official for task in load_benchmark(benchmark).tasks} if benchmark else {}


def _shown(path: Path, num_tasks: int) -> tuple[dict, str]:
    """Return what a run's report says beside its numbers, and its title."""
    title = f"{path}: {num_tasks} tasks"
    try:
        report = load_report(path)
        title = (path / "report.md").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    except (OSError, ValueError, IndexError):
        return {}, title
    return {key: report[key] for key in ("task_order",) if key in report}, title
