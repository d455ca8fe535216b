"""A sequence tried in the host before anything is trained: keys, template, adapters, records and test sets.

Everything is asked of LLaMA-Factory itself, in a process that has it loaded. `trial_process` starts one.
"""

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from llamafactory.data import get_template_and_fix_tokenizer
from llamafactory.data.template import TEMPLATES
from llamafactory.extras.misc import has_tokenized_data
from tqdm import tqdm

from sefe_plugin.data.added import mix_names
from sefe_plugin.hosts.llamafactory.dataset import scored_by
from sefe_plugin.hosts.llamafactory.dataset_trial import try_dataset
from sefe_plugin.hosts.llamafactory.key_trial import Keys, Parsed
from sefe_plugin.hosts.llamafactory.template_trial import template_fault
from sefe_plugin.hosts.llamafactory.test_trial import test_set_trial_errors
from sefe_plugin.methods import looked_at
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.run.stages import BASE


def try_sequence(recipe: Recipe, tasks: Collection[int], here: bool, bar: TextIO) -> dict[str, Any]:
    """Try the keys of all tasks, and the data of some.

    Args:
        recipe: The checked recipe; of a benchmark, with the keys that point to its data.
        tasks: Indices of the tasks whose data is tried; `stages.BASE` for the retention sets.
        here: Whether this machine is the one that trains. Elsewhere what only that machine has is not tried.
        bar: Where progress is shown.

    Returns:
        "errors" and "notes" of the keys, and under "tasks" those of each task's data by its index, with the "media"
        that were opened.
    """
    with tempfile.TemporaryDirectory() as folder:
        keys = Keys(recipe, Path(folder) / "run", here)
    found: dict[int, dict[str, list[str]]] = {}
    for index in tasks if recipe.arguments["template"] in TEMPLATES else ():
        if index == BASE and keys.parsed:
            found[index] = _try_retention_sets(recipe, keys, bar)
        elif index in keys.parsed:
            found[index] = _try_task(recipe, index, keys, here, bar)
    return {"errors": keys.errors, "notes": keys.notes, "tasks": found}


def _try_retention_sets(recipe: Recipe, keys: Keys, bar: TextIO) -> dict[str, list[str]]:
    """Try the test sets that belong to no task, as the first task that can be tried asks them."""
    index, notes, media = min(keys.parsed), [], []
    errors = []
    loaded, parsed = keys.loaded(index), keys.parsed[index]
    if loaded is not None and not _template_error(loaded, parsed):  # else the tasks say what is missing
        errors = _test_set_errors(recipe.arguments["retention_sets"], keys, index, "retention sets", bar, notes, media)
    return {
        "errors": [error.replace("`test_dataset`", "`retention_sets`", 1) for error in errors],
        "notes": [note.replace("`test_dataset`", "`retention_sets`", 1) for note in notes],
        "media": media,
    }


def _test_set_errors(
    test_sets: Sequence[Mapping[str, str]],
    keys: Keys,
    index: int,
    title: str,
    bar: TextIO,
    notes: list[str],
    media: list[str],
) -> list[str]:
    parsed = keys.parsed[index]
    return test_set_trial_errors(
        test_sets,
        parsed.model,
        parsed.data,
        parsed.finetuning,
        parsed.generating,
        show=lambda name, steps, count: _show(f"Trying {title}, {name}", bar, steps, count),
        note=notes.append,
        opened=media.extend,
        loaded=keys.loaded(index, for_questions=True),
    )


def _try_task(recipe: Recipe, index: int, keys: Keys, here: bool, bar: TextIO) -> dict[str, list[str]]:
    parsed, task = keys.parsed[index], recipe.tasks[index]
    errors, notes, media = [], [], []
    loaded = keys.loaded(index)
    if loaded is None:
        sentence = (
            f"`model_name_or_path`: the tokenizer of {parsed.model.model_name_or_path} cannot be read; "
            "without it no record can be tried."
        )
        errors, notes = ([f"{sentence} Download the whole model."], []) if here else ([], [sentence])
    elif parsed.data.tokenized_path and has_tokenized_data(parsed.data.tokenized_path):
        notes.append("`tokenized_path`: tokenized data is tried by LLaMA-Factory only when its task starts.")
    else:
        if error := _template_error(loaded, parsed):
            errors.append(error)
        else:
            template = get_template_and_fix_tokenizer(loaded["tokenizer"], parsed.data)
            named = [("dataset", name) for name in parsed.data.dataset]
            named += [("eval_dataset", name) for name in parsed.data.eval_dataset or ()]
            named += [("mix", name) for name in mix_names(vars(parsed.data))]
            named += looked_at(vars(parsed.finetuning)) if index == 0 else []  # the same for all tasks
            own = [one for one in parsed.finetuning.test_sets if one.get("own")]
            with scored_by(own):
                for key, name in named:
                    show = partial(_show, f"Trying {task.name}, {name}", bar)
                    one = try_dataset(key, name, parsed[:3], loaded, template, show, not recipe.is_drawn)
                    errors, notes, media = errors + one.errors, notes + one.notes, media + one.media
            # retention sets are tried once for all tasks
            errors += _test_set_errors(own, keys, index, task.name, bar, notes, media) if own else []
    where = f"task {index + 1} ({task.name}): "
    return {
        "errors": [where + error for error in errors],
        "notes": [where + note for note in notes],
        "media": media,
    }


def _template_error(loaded: Mapping[str, Any], parsed: Parsed) -> str | None:
    """Say why the template cannot be had, or cannot work with the model's processor."""
    try:
        template = get_template_and_fix_tokenizer(loaded["tokenizer"], parsed.data)
    except Exception as error:  # of a tool format, or of what the template cannot do
        return f"`template`: LLaMA-Factory refuses it: {error}."
    fault = template_fault(parsed.data.template, template, loaded["processor"])
    return fault and f"{fault}."


def _show(title: str, bar: TextIO, steps: Iterable, count: int) -> Iterable:
    """Show how far a trial is, if it takes longer than a moment."""
    interval = 0.5 if bar.isatty() else 30.0
    return tqdm(steps, title, count, file=bar, delay=2, mininterval=interval, unit=" records")
