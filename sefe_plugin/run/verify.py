"""Whether a run folder still holds what it says: inputs, weights, key elements, answers, scores and report."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from safetensors import SafetensorError

from sefe_plugin.benchmarks import official_rule
from sefe_plugin.carry import CARRIES
from sefe_plugin.data.added import KEPT_FOLDER, check_kept
from sefe_plugin.evaluation.report import REPORT_FILE
from sefe_plugin.evaluation.results import SCORES_FILE, predictions_file, rows_with_golds, score_rows
from sefe_plugin.files import ADAPTER_WEIGHTS_FILE, is_whole_safetensors, read_json
from sefe_plugin.json_lines import read_json_lines
from sefe_plugin.methods import methods
from sefe_plugin.recipe.options import TASK_KEYS
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.inputs import base_inputs, changes, read_inputs, task_inputs
from sefe_plugin.run.reporting import ABOUT_KEYS, run_report
from sefe_plugin.run.spare import was_removed
from sefe_plugin.run.stages import BASE, SCORE_FILE, TASK_FILE, has_base_row, scored_in
from sefe_plugin.words import counted


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        where: The task's folder, or the file.
        state: True if all is well, False if not; None where it cannot be checked.
        what: What was looked at, and what is wrong with it.
    """

    where: str
    state: bool | None
    what: str


#: Checks the models of a task, which needs the host: its keys and its folder -> (state, what).
ModelCheck = Callable[[Mapping[str, Any], Path], Iterator[tuple[bool | None, str]]]


def verify_run(path: Path, check_models: ModelCheck) -> Iterator[Finding]:
    """Check every complete task of a run, the scores of its base, and its report; nothing in the folder is changed.

    Args:
        path: The run folder.
        check_models: Checks that adapters can be loaded and merged models are what they were made of.

    Raises:
        RunFolderError: If the folder holds no run.
    """
    folder = RunFolder(path)
    manifest = folder.read_manifest()
    if manifest is None:
        raise RunFolderError(f"{path} holds no run: it has no manifest.json. Name the `output_dir` of a sequence.")
    recipe, complete = manifest["recipe"], manifest["complete"]
    if has_base_row(recipe):
        yield from _base_row(folder, recipe)
    for index in range(len(complete)):
        entry = recipe["tasks"][index]
        place = folder.task_folder(index, entry["name"])
        if not (place / TASK_FILE).is_file():
            yield Finding(place.name, False, "task.yaml is missing")
            continue
        keys = yaml.safe_load((place / TASK_FILE).read_text(encoding="utf-8"))
        for check in (_inputs, _weights, _left_behind, _scores, _stacked):
            yield from (Finding(place.name, *found) for found in _guarded(check, recipe, entry, keys, place))
        yield from (Finding(place.name, *found) for found in _guarded(check_models, keys, place))
        is_last = index == len(complete) - 1
        yield from (Finding(place.name, *found) for found in _guarded(_passed_on, recipe, is_last, place))
    yield _report(folder, [task["name"] for task in recipe["tasks"]], len(complete))


def input_changes(path: Path) -> list[str]:
    """List what the complete tasks of a run were made of and has changed since, one sentence each.

    Args:
        path: The run folder.
    """
    folder, found = RunFolder(path), []
    manifest = folder.read_manifest()
    if read_inputs(folder.base_folder) and (folder.base_folder / SCORE_FILE).is_file():
        found += _changes(manifest["recipe"], None, _keys_in(folder.base_folder / SCORE_FILE), folder.base_folder)
    for index in range(len(manifest["complete"])):
        entry = manifest["recipe"]["tasks"][index]
        place = folder.task_folder(index, entry["name"])
        if read_inputs(place):
            found += _changes(manifest["recipe"], entry, _keys_in(place / TASK_FILE), place)
    return list(dict.fromkeys(found))


def _base_row(folder: RunFolder, recipe: Mapping[str, Any]) -> Iterator[Finding]:
    """Check the scores of the untouched base."""
    place = folder.base_folder
    if not folder.has_scored_base():
        unfinished = len(folder.read_manifest()["complete"]) < len(recipe["tasks"])
        yield Finding(place.name, None if unfinished else False, "not scored")
        return
    if not (place / SCORE_FILE).is_file():
        yield Finding(place.name, False, f"{SCORE_FILE} is missing")
        return
    keys = _keys_in(place / SCORE_FILE)
    for check in (_inputs, _scores):
        yield from (Finding(place.name, *found) for found in _guarded(check, recipe, None, keys, place))


def _keys_in(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _guarded(check: Callable, *arguments: Any) -> Iterator[tuple[bool | None, str]]:
    """Turn what a check stumbles over into a finding."""
    try:
        yield from check(*arguments)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        name = check.__name__.strip("_").replace("_", " ")
        yield False, f"{name}: {error if str(error) else repr(error)}"


def _inputs(recipe: Mapping[str, Any], entry: Mapping[str, Any], keys: Mapping[str, Any], place: Path) -> Iterator:
    recorded = read_inputs(place)
    if not recorded:
        yield None, "inputs: not recorded, an earlier version of this plugin trained this task"
        return
    found = _changes(recipe, entry, keys, place)
    yield from ((False, f"input changed: {sentence}") for sentence in found)
    if not found:
        accepted = [name for name, record in recorded.items() if "accepted" in record]
        said = f"; changed and accepted since the training: {', '.join(accepted)}" if accepted else ""
        yield True, f"inputs: {len(recorded)} as recorded{said}"


def _changes(
    recipe: Mapping[str, Any], entry: Mapping[str, Any] | None, keys: Mapping[str, Any], place: Path
) -> list[str]:
    recorded = read_inputs(place)
    folders = {key: keys[key] for key in ("dataset_dir", "media_dir") if key in keys}
    if recipe.get("benchmark"):  # its data is the run's own, and moves with it
        folders["dataset_dir"] = str(RunFolder(place.parent).data)
    if entry is None:
        return changes(recorded, base_inputs({**recipe, **folders}, keys["test_sets"], recorded))
    overrides = {key: value for key, value in entry.items() if key not in TASK_KEYS}
    task = Task(**{key: entry[key] for key in TASK_KEYS}, overrides=overrides)
    return changes(recorded, task_inputs({**recipe, **folders}, task, recorded))


def _weights(recipe: Mapping[str, Any], entry: Mapping[str, Any], keys: Mapping[str, Any], place: Path) -> Iterator:
    files = [file for folder in (place, place / "merged", place / "stacked") for file in folder.glob("*.safetensors")]
    broken = [str(file.relative_to(place)) for file in files if not is_whole_safetensors(file)]
    if broken or not files:
        yield False, f"weights: {', '.join(broken)} cut short or damaged" if broken else "weights: missing"
    else:
        yield True, f"weights: {len(files)} files whole"


def _left_behind(
    recipe: Mapping[str, Any], entry: Mapping[str, Any], keys: Mapping[str, Any], place: Path
) -> Iterator:
    method = methods()[recipe["cl_method"]]
    if method.file is not None:
        if method.earlier is not None:  # where they lie now, should the run have been moved
            earlier = [place.parent / Path(file).parent.name / method.file for file in keys.get(method.earlier) or ()]
            keys = {**keys, method.earlier: [str(file) for file in earlier]}
        yield True, f"{method.file}: {method.check_file(place, keys)}"
    if recipe.get("replay_ratio"):
        yield True, f"{KEPT_FOLDER}: {check_kept(place / KEPT_FOLDER)} samples"


def _scores(recipe: Mapping[str, Any], entry: Mapping[str, Any], keys: Mapping[str, Any], place: Path) -> Iterator:
    stored, count = read_json(place / SCORES_FILE), 0
    sets = scored_in(place, recipe, BASE if entry is None else recipe["tasks"].index(entry))
    for test_set in sets:
        name, scorer, official = test_set["name"], test_set["scorer"], test_set.get("official")
        rows = rows_with_golds(read_json_lines(predictions_file(place, name)), scorer)
        scores = score_rows(scorer, rows, official and official_rule(official))
        for key in ("stderr", "lenient"):
            if key not in stored.get(name, {}):
                del scores[key]  # an earlier version of this plugin scored it
        was = {key: stored.get(name, {}).get(key) for key in scores}
        if was != scores:
            yield False, f"scores of {name}: the predictions are worth {scores}, and {SCORES_FILE} says {was}"
        count += len(rows)
    yield True, f"scores: {counted(len(sets), 'test set')} with {counted(count, 'prediction')} scored again"


def _stacked(recipe: Mapping[str, Any], entry: Mapping[str, Any], keys: Mapping[str, Any], place: Path) -> Iterator:
    stacked = place / "stacked"
    if not stacked.is_dir():
        return
    from safetensors.torch import load_file

    from sefe_plugin.carry.stacking import stack_adapters

    again = Path(tempfile.mkdtemp())
    try:
        earlier = [Path(keys["stacked_adapter"])] if keys.get("stacked_adapter") else []
        stack_adapters([*earlier, place], again)
        ours, theirs = (load_file(folder / ADAPTER_WEIGHTS_FILE) for folder in (again, stacked))
        equal = ours.keys() == theirs.keys() and all(value.equal(theirs[name]) for name, value in ours.items())
        yield equal, f"stacked: {'the same' if equal else 'not the same'} when the adapters are stacked again"
    finally:
        shutil.rmtree(again)


def _passed_on(recipe: Mapping[str, Any], is_last: bool, place: Path) -> Iterator[tuple[bool | None, str]]:
    """Tell a model that is gone on purpose from one that is lost; one that is there is checked otherwise."""
    carry = CARRIES.get(str(recipe.get("carry")))
    if carry is None or carry.passing is None or (place / carry.passing).is_dir():
        return
    if is_last:
        yield False, f"{carry.passing}: missing, and it is the model of all tasks so far"
    elif was_removed(place / carry.passing):
        yield True, f"{carry.passing}: removed on purpose, and no later task needs it"
    else:
        yield None, f"{carry.passing}: not there, and no record says that it was removed; no later task needs it"


def _report(folder: RunFolder, names: list[str], num_complete: int) -> Finding:
    file = folder.path / REPORT_FILE
    if not file.is_file():
        unfinished = num_complete < len(names)
        said = f"not written yet, {num_complete} of {len(names)} tasks are complete" if unfinished else "missing"
        return Finding(REPORT_FILE, None if unfinished else False, said)
    try:
        stored, again = read_json(file), run_report(folder, names)
    except (OSError, ValueError) as error:
        return Finding(REPORT_FILE, False, f"cannot be made again: {error}")
    if num_complete < len(names) and _is_earlier(stored, again):
        said = "of a task before, which a stopped run may leave; when it goes on it is written anew"
        return Finding(REPORT_FILE, None, said)
    unsaid = {key for key in ABOUT_KEYS if key not in stored}
    if isinstance(official := stored.get("official"), dict) and "official" in again:
        again["official"] = {
            key: value for key, value in again["official"].items() if key in official or key not in ABOUT_KEYS
        }
    computed = (stored.keys() | again.keys()) - {"task_order", *unsaid}  # an order's name stands in the report alone
    differing = sorted(key for key in computed if stored.get(key) != again.get(key))
    what = f"differs from the scores in {', '.join(differing)}" if differing else "the same when made again"
    return Finding(REPORT_FILE, not differing, what)


def _is_earlier(stored: Mapping[str, Any], again: Mapping[str, Any]) -> bool:
    """Tell whether a report is that of fewer tasks, equal as far as it goes."""
    before, now = stored.get("accuracy_matrix"), again["accuracy_matrix"]
    blank = [None] * len(now)
    return (
        before != now
        and isinstance(before, list)
        and len(before) == len(now)
        and all(old in (new, blank) for old, new in zip(before, now, strict=True))
    )
