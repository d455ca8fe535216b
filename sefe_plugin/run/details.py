"""What the page of a run shows beside its report, from its folder: all answers, what the tasks took, the recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sefe_plugin.data.test_sets import images_in, question_in
from sefe_plugin.evaluation.html_report.details import Question, RunDetails, SetAnswers, StageAnswers, TaskCost
from sefe_plugin.evaluation.results import predictions_file, rows_with_golds, without_prediction
from sefe_plugin.evaluation.scorers import Spec, judge_predictions, scorer_of, spec_text
from sefe_plugin.files import read_json
from sefe_plugin.json_lines import read_json_lines
from sefe_plugin.methods import methods
from sefe_plugin.run.costs import bytes_left, read_costs
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.stages import BASE, SCORE_FILE, TASK_FILE, scored_in, stage_name


#: From a stage to the test set that is scored there, as `scored_in` returns it.
_Scored = dict[int, dict[str, str]]


def run_details(folder: RunFolder) -> RunDetails:
    """Gather what a page shows of a run, finished or not.

    Answers that are not there any more, or that their scorer cannot read, are no error: the page says which and why.

    Args:
        folder: The run; one that has not started has no details.

    Raises:
        RunFolderError: If the manifest or a record of costs is damaged.
    """
    manifest = folder.read_manifest()
    if manifest is None:
        return RunDetails()
    recipe, complete = manifest["recipe"], manifest["complete"]
    costs = [_cost(folder, recipe, index, entry) for index, entry in enumerate(complete)]
    names = [*(task["name"] for task in recipe["tasks"]), *(one["name"] for one in recipe.get("retention_sets") or ())]
    scored: dict[str, _Scored] = {name: {} for name in names}
    for stage in folder.finished_stages(recipe, len(complete)):
        for one in scored_in(_place(folder, recipe, stage), recipe, stage):
            scored[one["name"]][stage] = one
    tasks = [task["name"] for task in recipe["tasks"]]
    read: dict[Path, dict[str, Any]] = {}
    sets = [
        _set_answers(folder, recipe, name, stages, tasks.index(name) if name in tasks else None, read)
        for name, stages in scored.items()
        if stages
    ]
    return RunDetails(recipe, costs, sets)


def _place(folder: RunFolder, recipe: Mapping[str, Any], stage: int) -> Path:
    return folder.task_folder(stage, stage_name(recipe, stage))


def _cost(folder: RunFolder, recipe: Mapping[str, Any], index: int, entry: Mapping[str, Any]) -> TaskCost:
    place = folder.task_folder(index, entry["name"])
    costs = read_costs(place)
    method = methods().get(recipe.get("cl_method"))
    return TaskCost(
        task=entry["name"],
        seconds=entry["seconds"],
        training=sum(cost.seconds for cost in costs) if costs else None,
        steps=sum(cost.steps for cost in costs) if costs else None,
        steps_before=sum(cost.steps_before for cost in costs),
        peak_memory=max((cost.peak_memory for cost in costs), default=None),
        memory_of=costs[-1].memory_of if costs else None,
        bytes_left=bytes_left(place, method.file if method else None),
    )


def _set_answers(
    folder: RunFolder,
    recipe: Mapping[str, Any],
    name: str,
    scored: _Scored,
    task: int | None,
    recipes: dict[Path, dict[str, Any]],
) -> SetAnswers:
    """Read all answers to a test set; its questions are those of the stage where it was learned.

    Args:
        folder: The run.
        recipe: Its keys.
        name: Of the test set.
        scored: The stages that have answered it.
        task: The number of its task, from 0; None where it is of none.
        recipes: The keys of the stages' own recipes by their folders, as far as they have been read; more are added.
    """
    learned = BASE if task is None else task
    known: list[dict] = []
    scorer = next(iter(scored.values()))["scorer"]
    found = SetAnswers(name, spec_text(scorer), task is None, learned)
    for stage in sorted(scored, key=lambda stage: (stage != learned, stage)):
        place = _place(folder, recipe, stage)
        file = predictions_file(place, name)
        try:
            rows = rows_with_golds(_rows(file), scorer)
            answers = [row["prediction"] for row in rows]
            read = StageAnswers(answers, judge_predictions(scorer, answers, rows))
            if place not in recipes:
                recipes[place] = _own_keys(place)
            entry, media_dir = _declared(folder, recipe, recipes[place], scored[stage]["dataset"])
        except (OSError, ValueError) as error:
            found.notes.append(f"the answers of {place.name} cannot be shown: {error}.")
            continue
        asked = [without_prediction(row) for row in rows]
        if not found.questions:
            found.questions = [_question(row, entry, scorer) for row in rows]
            found.media_dir, known = media_dir, asked
        elif asked != known:
            found.notes.append(f"the answers of {place.name} are not shown: they are answers to other questions.")
            continue
        found.stages[stage] = read
    return found


def _rows(file: Path) -> list[dict[str, Any]]:
    rows = read_json_lines(file)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get("prediction"), str):
            raise ValueError(f"{file}: record {number} must be a mapping with a text as `prediction`")
    return rows


def _own_keys(place: Path) -> dict[str, Any]:
    """Return the keys of a stage's own recipe; none where it is not there."""
    recipes = (place / name for name in (SCORE_FILE, TASK_FILE))
    file = next((file for file in recipes if file.is_file()), None)
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file else {}


def _declared(
    folder: RunFolder, recipe: Mapping[str, Any], keys: Mapping[str, Any], dataset: str
) -> tuple[dict[str, Any], Path]:
    """Return the entry of a dataset in `dataset_info.json`, and the folder that its images' paths start from.

    The entry is empty where it is not there any more.
    """
    # a benchmark's data is the run's own, and moves with it
    dataset_dir = folder.data if recipe.get("benchmark") else Path(keys.get("dataset_dir") or "data")
    info = dataset_dir / "dataset_info.json"
    entry = read_json(info).get(dataset, {}) if info.is_file() else {}
    media_dir = keys.get("media_dir")
    return entry, Path(media_dir) if media_dir and media_dir != keys.get("dataset_dir") else dataset_dir


def _question(row: Mapping[str, Any], entry: Mapping[str, Any], scorer: Spec) -> Question:
    own = scorer_of(scorer)
    gold = next((row[field] for field in (*own.alternatives, own.gold) if field in row), "")
    if isinstance(gold, list):
        gold = ", ".join(f"{answer} ({gold.count(answer)} of {len(gold)})" for answer in dict.fromkeys(map(str, gold)))
    return Question(question_in(row, entry), str(gold), images_in(row, entry))
