"""The model of all tasks in a folder of its own, with a model card and the recipe: what `sefe export` writes.

Example, after a run with ``carry: merge``: the files of the last task's ``merged/``, and beside them ``README.md`` and
``recipe.yaml``. Transformers, or PEFT where it is an adapter, loads the folder without this plugin.
"""

import filecmp
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.carry import CARRIES
from sefe_plugin.carry.adapter_files import check_carried
from sefe_plugin.files import ADAPTER_CONFIG_FILE, replacing_folder
from sefe_plugin.methods import methods
from sefe_plugin.methods.peft_types import PEFT_TYPE
from sefe_plugin.recipe.options import TASK_KEYS
from sefe_plugin.recipe.tasks import tasks_of_benchmark
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.model_card import CARD_FILE, Exported, model_card, new_output_dir
from sefe_plugin.run.records import RunFolderError
from sefe_plugin.run.reporting import run_report
from sefe_plugin.words import size_in_words


RECIPE_FILE = "recipe.yaml"

#: What of a task's folder belongs to the model that lies in it, beside files of the training.
_MODEL = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "*.py",
)
#: Files of tokenizers and processors.
_PROCESSING = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*",
    "*processor_config.json",
)


class Written(NamedTuple):
    """What an export has written.

    Attributes:
        folder: Where to.
        exported: What it holds.
        bytes: Its size.
        anew: False where the folder held the same already.
        local: Paths of this machine that its recipe names.
    """

    folder: Path
    exported: Exported
    bytes: int
    anew: bool
    local: list[str]


def export_run(path: Path, out: Path, recipe_text: Callable[[Mapping[str, Any]], str]) -> Written:
    """Copy the model of all complete tasks of a run into a folder, whole or not at all.

    No run can start meanwhile, so weights and card are of the same tasks.

    Args:
        path: The run folder.
        out: Where to; must be absent or empty, or hold the same already.
        recipe_text: From the keys of a recipe to the text of its file.

    Raises:
        RunFolderError: If there is no run, no complete task or no single model, if the model is damaged, if a run is
            at work there, if `out` holds something else, or its disk has no room.
    """
    folder = RunFolder(path)
    with folder.reading():
        return _export(folder, out, recipe_text)


def _export(folder: RunFolder, out: Path, recipe_text: Callable[[Mapping[str, Any]], str]) -> Written:
    manifest = folder.read_manifest()
    if manifest is None:
        raise RunFolderError(f"{folder.path} holds no run. Name the `output_dir` of a sequence.")
    place, source = _model_place(folder, manifest)
    names = [task["name"] for task in manifest["recipe"]["tasks"]]
    files = _files(place, source)
    is_adapter = (source / ADAPTER_CONFIG_FILE).is_file()
    method = methods()[manifest["recipe"]["cl_method"]]
    exported = Exported(
        name=out.absolute().name,
        recipe=manifest["recipe"],
        complete=manifest["complete"],
        report=run_report(folder, names),
        is_adapter=is_adapter,
        needs_plugin=is_adapter and PEFT_TYPE in method.patches,
        sees_images=any(name.endswith("processor_config.json") for name in files),
    )
    keys = plain_recipe(manifest["recipe"])
    texts = {CARD_FILE: model_card(exported), RECIPE_FILE: recipe_text(keys)}
    size = sum(file.stat().st_size for file in files.values())
    if _is_filled(out):
        if differing := _differing(out, files, texts):
            raise RunFolderError(
                f"{out} holds something else than this export: {', '.join(differing[:3])} is not the same. Where it "
                "is an export of before, remove it; or choose another folder."
            )
        return Written(out, exported, size, False, _local_paths(keys))
    free = shutil.disk_usage(next(parent for parent in out.absolute().parents if parent.is_dir())).free
    if free < size:
        raise RunFolderError(
            f"{out}: its disk has {size_in_words(free)} left, and the model takes {size_in_words(size)}. Choose "
            "another folder."
        )
    _write(out, files, texts)
    return Written(out, exported, size, True, _local_paths(keys))


def plain_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe that a manifest records as a user would write it: tasks, or a benchmark and their order.

    Its `output_dir` is another, because that of the run holds a finished run where there is one.
    """
    keys = {key: value for key, value in recipe.items() if key not in ("benchmark", "tasks") and value is not None}
    keys["output_dir"] = new_output_dir(recipe)
    if recipe.get("benchmark"):
        own = {task.name: task for task in tasks_of_benchmark(load_benchmark(recipe["benchmark"]))}
        order = [task["name"] for task in recipe["tasks"]]
        entries = [_task_keys(task, own[task["name"]].dataset) for task in recipe["tasks"]]
        differing = [entry for entry in entries if entry.keys() != {"name"}]
        given = {"task_keys": differing} if differing else {}
        return {**keys, "benchmark": recipe["benchmark"], "task_order": order, **given}
    return {**keys, "tasks": recipe["tasks"]}


def _task_keys(task: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """Return the entry of a benchmark's task under `task_keys`: its name, and the keys that are its own."""
    keys = {key: value for key, value in task.items() if key not in TASK_KEYS}
    return {"name": task["name"], **({} if task["dataset"] == dataset else {"dataset": task["dataset"]}), **keys}


def _local_paths(value: Any) -> list[str]:
    """Return the absolute paths among keys, at any depth, each once."""
    if isinstance(value, str):
        return [value] if Path(value).is_absolute() else []
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return list(dict.fromkeys(path for one in inside for path in _local_paths(one)))


def _model_place(folder: RunFolder, manifest: Mapping[str, Any]) -> tuple[Path, Path]:
    """Return the folder of the last complete task, and that of the model of all tasks in it."""
    recipe, complete = manifest["recipe"], manifest["complete"]
    if not complete:
        raise RunFolderError(f"{folder.path} has no complete task yet, and so no model to export.")
    place = folder.task_folder(len(complete) - 1, complete[-1]["name"])
    carry = CARRIES[recipe["carry"]]
    if carry.result is None:
        raise RunFolderError(
            f"{folder.path} has no single model: with `carry: {recipe['carry']}` each task was trained alone. What a "
            f"task has trained lies in its own folder, such as {place}."
        )
    source = (place / carry.result).parent
    try:
        check_carried(source, methods()[recipe["cl_method"]].peft_type)
    except ValueError as error:
        raise RunFolderError(f"{folder.path} cannot be exported: {error}") from error
    return place, source


def _files(place: Path, source: Path) -> dict[str, Path]:
    """Return the files of the model by their names in the export."""
    if source == place:
        return _matching(place, (*_MODEL, *_PROCESSING))
    # a stack of adapters has no tokenizer beside it; a merged model has its own
    beside = {} if any(source.glob("tokenizer*")) else _matching(place, _PROCESSING)
    return beside | {str(file.relative_to(source)): file for file in sorted(source.rglob("*")) if file.is_file()}


def _matching(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    found = sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
    return {str(file.relative_to(folder)): file for file in found}


def _is_filled(folder: Path) -> bool:
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _differing(folder: Path, files: Mapping[str, Path], texts: Mapping[str, str]) -> list[str]:
    """Name what a folder has, lacks or holds otherwise than these files and texts."""
    if not folder.is_dir():
        return [folder.name]
    present = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    same = {name for name in present & texts.keys() if (folder / name).read_text(encoding="utf-8") == texts[name]}
    same |= {name for name in present & files.keys() if filecmp.cmp(files[name], folder / name, shallow=False)}
    return sorted((present | files.keys() | texts.keys()) - same)


def _write(out: Path, files: Mapping[str, Path], texts: Mapping[str, str]) -> None:
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(out.absolute()) as temporary:
        for name, file in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, temporary / name)
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
