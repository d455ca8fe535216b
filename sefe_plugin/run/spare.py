"""What a run has left that no later task needs, and its removal.

Merged models go during a run (`keep_merged: last`) or afterwards (`sefe clean`); checkpoints of complete tasks go
during a run, unless `keep_checkpoints` is set. Example, after three tasks with ``carry: merge``: ``1_charts/merged``
and ``2_receipts/merged`` were the bases of tasks that are complete now, so they can go. ``3_plans/merged`` stays: it
is the model of all tasks, and a fourth task would start from it.
"""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sefe_plugin.carry import CARRIES
from sefe_plugin.carry.adapter_files import check_carried
from sefe_plugin.files import bytes_of, read_json, remove_folder, removed_name, write_json
from sefe_plugin.run.checkpoints import checkpoints_of_task
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.records import RunFolderError


#: What was removed from a task's folder on purpose, with its bytes.
REMOVED_FILE = "removed.json"


def tidy(folder: RunFolder, arguments: Mapping[str, Any]) -> None:
    """Remove what complete tasks have left and nothing reads any more; call it while the run is locked.

    Args:
        folder: The run.
        arguments: The keys that say what stays.

    Raises:
        RunFolderError: As in `remove_spare`.
    """
    if arguments.get("keep_merged") == "last":
        remove_spare(folder)
    if not arguments.get("keep_checkpoints"):
        for index, task in enumerate(folder.read_manifest()["complete"]):
            for checkpoint in checkpoints_of_task(folder.task_folder(index, task["name"])):
                shutil.rmtree(checkpoint)


def spare_models(folder: RunFolder) -> list[Path]:
    """Return the folders that complete tasks have left for the next one alone, which is complete as well.

    What a removal that was killed has left counts as its folder. Where the way to carry leaves no such folder, there
    are none.
    """
    manifest = folder.read_manifest()
    passing = _passing(manifest["recipe"]) if manifest else None
    if passing is None:
        return []
    earlier = [folder.task_folder(index, task["name"]) for index, task in enumerate(manifest["complete"][:-1])]
    models = [place / passing for place in earlier]
    return [model for model in models if model.exists() or removed_name(model).exists()]


def remove_spare(folder: RunFolder, only: Collection[Path] | None = None) -> list[Path]:
    """Remove what `spare_models` returns, and record it; call it while the run is locked.

    A kill on the way is harmless: each folder is recorded first, and disappears as a whole.

    Args:
        folder: The run.
        only: Nothing but these of them.

    Returns:
        The folders that are gone.

    Raises:
        RunFolderError: If the model of all complete tasks, which stays, is absent or damaged; then nothing is removed.
    """
    spare = [model for model in spare_models(folder) if only is None or model in only]
    if spare:
        try:
            check_carried(kept_model(folder))
        except ValueError as error:
            raise RunFolderError(
                f"Nothing of {folder.path} was removed, because the model that would stay is not whole: {error}"
            ) from error
    for model in spare:
        if model.exists():
            write_json(model.parent / REMOVED_FILE, {model.name: {"bytes": bytes_of_model(model)}})
        remove_folder(model)
    return spare


def kept_model(folder: RunFolder) -> Path:
    """Return the folder that stays of those that tasks have left for the next one: the last complete task's."""
    manifest = folder.read_manifest()
    last = len(manifest["complete"]) - 1
    return folder.task_folder(last, manifest["complete"][last]["name"]) / _passing(manifest["recipe"])


def was_removed(model: Path) -> bool:
    """Tell whether a folder that a task has left was removed on purpose."""
    record = model.parent / REMOVED_FILE
    return record.is_file() and model.name in read_json(record)


def bytes_of_model(model: Path) -> int:
    """Return the bytes of a folder, of what is left of it where its removal was killed."""
    return bytes_of(model, removed_name(model))


def _passing(recipe: Mapping[str, Any]) -> str | None:
    carry = CARRIES.get(str(recipe.get("carry")))
    return carry.passing if carry else None
