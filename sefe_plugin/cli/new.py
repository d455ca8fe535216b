# ruff: noqa: T201 - a command prints
"""`sefe new`: five questions, and a recipe that runs."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from sefe_plugin.cli.dialogue import Dialogue
from sefe_plugin.cli.new_keys import (
    HARDWARE,
    SEED,
    SEFE,
    keys_of_answers,
    picture_keys,
    published_recipe,
)
from sefe_plugin.evaluation.scorers import NO_SCORER


if TYPE_CHECKING:
    from sefe_plugin.recipe.draft import Draft

_FILE = Path("my_sefe.yaml")
_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"

#: Bytes of weights up to which a model is trained on a CPU within a day.
_TINY = 10**9


#: Most datasets without a test set that are listed.
_SHOWN = 8


class _Task(NamedTuple):
    name: str
    dataset: str
    test_dataset: str | None
    scorer: str | None

    def keys(self) -> dict[str, Any]:
        """Return its keys in a recipe."""
        return {key: value for key, value in self._asdict().items() if value is not None}

    def words(self) -> str:
        """Say what it is."""
        tested = f"test {self.test_dataset}, scorer {self.scorer}" if self.test_dataset else "trained only"
        return f"{self.name}: train {self.dataset}, {tested}"


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `new` to the subcommands of `sefe`."""
    new = commands.add_parser(
        "new",
        help="ask five questions and write a recipe for tasks of your own",
    )
    new.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=_FILE,
        metavar="FILE.yaml",
        help=f"recipe to write; a file that is there is never overwritten (default: {_FILE})",
    )
    new.add_argument("--yes", action="store_true", help="ask nothing: what no option answers takes its default")
    new.add_argument("--model", help="folder of a model, or its name on the hub")
    new.add_argument("--template", help="LLaMA-Factory's name of the model's chat template (default: found out)")
    new.add_argument("--dataset-dir", "--dataset_dir", help="folder of LLaMA-Factory's dataset_info.json")
    new.add_argument(
        "--tasks",
        metavar="LIST",
        help="the tasks in order, separated by commas, each TRAIN, TRAIN:TEST, TRAIN:TEST:SCORER or, for one "
        "that is trained only, TRAIN:none, by the names of datasets (default: all that have a test set)",
    )
    new.add_argument("--method", help="sefe, or a `cl_method` (default: sefe)")
    new.add_argument("--hardware", help="4bit or 16bit for a GPU, or cpu")
    new.add_argument("--output-dir", "--output_dir", help="folder of the run (default: runs/ and the recipe's name)")
    new.set_defaults(run=_new)


def _new(options: argparse.Namespace) -> int:
    if options.file.suffix not in (".yaml", ".yml"):
        raise ValueError(f"{options.file}: a recipe ends in .yaml. Write `sefe new {options.file}.yaml`.")
    _require_absent(options.file)
    logging.disable(logging.WARNING)  # the host's notes on loading
    try:
        draft = _Interview(options).draft()
        _write(draft, options.file)
    except (EOFError, KeyboardInterrupt) as stop:
        print("\nStopped. Nothing is written.", file=sys.stderr)
        return 130 if isinstance(stop, KeyboardInterrupt) else 1
    finally:
        logging.disable(logging.NOTSET)
    file = shlex.quote(str(options.file))
    if draft.keys().get("quantization_bit") and find_spec("bitsandbytes") is None:
        print('\nThe base in 4 bit needs a package that is not here: pip install "sefe-plugin[qlora]"')
    print(f"\n{options.file} is written; all its keys and its data are declared right. Next:")
    print(f"  sefe plan {file}                # what it takes: steps, tokens, memory, disk; tries all records")
    print(f"  llamafactory-cli train {file}   # trains and scores task after task; the same command goes on")
    return 0


def _require_absent(file: Path) -> None:
    if os.path.lexists(file):
        raise ValueError(f"{file} exists, and is not overwritten. Name another file: sefe new OTHER.yaml.")


def _write(draft: "Draft", file: Path) -> None:
    """Write a recipe if all its keys and its data pass the plugin's check.

    Raises:
        RecipeError: With all that is wrong; nothing is written.
    """
    from sefe_plugin.files import replacing
    from sefe_plugin.hosts.llamafactory.host import read_recipe
    from sefe_plugin.hosts.llamafactory.keys import host_keys
    from sefe_plugin.recipe.load import load_recipe

    with replacing(file) as temporary:
        temporary.write_text(draft.text(), encoding="utf-8")
        load_recipe(read_recipe(temporary, []), str(file), host_keys())
        _require_absent(file)


class _Interview:
    """The five questions; each is checked before the next one is asked.

    Args:
        options: The command line.
    """

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._dialogue = Dialogue(5, options.yes)

    def draft(self) -> "Draft":
        """Ask, and return the recipe."""
        from sefe_plugin.recipe.draft import Draft
        from sefe_plugin.recipe.survey import declared

        model, template = self._model()
        folder, tasks = self._data()
        method = self._method(model, template)
        hardware = self._hardware(model, template, method)
        output = self._output()
        keys = keys_of_answers(model, template, method, hardware)
        keys["model"] |= picture_keys(declared(Path(folder)), [task.dataset for task in tasks])
        keys["dataset"] = {"dataset_dir": folder, **keys["dataset"]}
        source = published_recipe(method).name
        notes = {"learning_rate": f"as in {source}; try others on data that you do not test on"}
        entries = [task.keys() for task in tasks]
        if ratio := keys["dataset"].get("asd_ratio"):
            notes["asd_ratio"] = "X, share of the samples in other answer styles"
            self._leave_out_asd(entries, notes, folder, ratio)
        self._note_long_answers(tasks, notes, folder)
        keys["dataset"]["tasks"] = entries
        keys["output"] = {"output_dir": output, **keys["output"]}
        file, names = self._options.file, ", ".join(task.name for task in tasks)
        head = [
            *wrap(f"{'SEFE' if method == SEFE else method} on {len(tasks)} tasks: {names}.", 115),
            f"Launch: llamafactory-cli train {shlex.quote(str(file))}",
            f"Needs:  `sefe plan {shlex.quote(str(file))}` says it: steps, tokens, GPU memory and disk.",
        ]
        if hardware == "4bit":
            head.append('        bitsandbytes for the base in 4 bit: pip install "sefe-plugin[qlora]"')
        return Draft(head, keys, notes)

    def _model(self) -> tuple[str, str]:
        from sefe_plugin.recipe.load import model_errors

        self._dialogue.head("The model: a name of the hub, or the folder of one. It is trained, and never changed.")

        def read(text: str) -> str:
            if errors := model_errors(text):
                raise ValueError(" ".join(errors))
            return text

        model = self._dialogue.ask("model", read, _MODEL, self._options.model)
        self._dialogue.say("Asking LLaMA-Factory for its chat template; this takes some seconds.")
        from sefe_plugin.hosts.llamafactory.model_lookup import template_names, templates_of
        from sefe_plugin.words import near

        def read_template(text: str) -> str:
            if text not in template_names():
                raise ValueError(f"LLaMA-Factory has no template {text!r}.{near(text, template_names())}")
            return text

        fitting = [] if self._options.template else templates_of(model)
        if len(fitting) == 1:
            self._dialogue.say(f"template: {fitting[0]}")
            return model, fitting[0]
        if fitting:
            self._dialogue.say(
                f"Its questions look alike in {', '.join(fitting)}. They differ in how pictures are put in."
            )
        elif not self._options.template:
            self._dialogue.say("LLaMA-Factory does not know it. Its model card or config.json may say its family.")
        default = fitting[0] if fitting else None
        return model, self._dialogue.ask("template", read_template, default, self._options.template)

    def _data(self) -> tuple[str, list[_Task]]:
        from sefe_plugin.recipe.survey import candidates, declared

        self._dialogue.head("The data: the folder of dataset_info.json, and its datasets that are tasks, in order.")
        here = ("data", "recipes/text_data")
        default = next((name for name in here if (Path(name) / "dataset_info.json").is_file()), here[0])
        folder, entries = self._dialogue.ask(
            "dataset-dir", lambda text: (text, declared(Path(text))), default, self._options.dataset_dir
        )
        found = candidates(entries)
        for one in found:
            if one.test_dataset:
                self._dialogue.say(f"{one.dataset:<28} test set: {one.test_dataset}")
        if untested := [one.dataset for one in found if not one.test_dataset]:
            more = f" and {len(untested) - _SHOWN} more" if len(untested) > _SHOWN else ""
            self._dialogue.say(f"no name says what tests {', '.join(untested[:_SHOWN])}{more}")
        default = ",".join(one.dataset for one in found if one.test_dataset) or None
        tasks = self._dialogue.ask(
            "tasks", lambda text: _read_tasks(text, folder, entries), default, self._options.tasks
        )
        for task in tasks:
            self._dialogue.say(task.words())
        return folder, tasks

    def _method(self, model: str, template: str) -> str:
        from sefe_plugin.methods import methods
        from sefe_plugin.words import near

        names = (SEFE, *methods())
        self._dialogue.head("The method against forgetting. sefe keeps what was learned, and ways to answer (ASD).")
        self._dialogue.say(f"one of: {', '.join(names)} (docs/methods.md)")

        def read(text: str) -> str:
            if text not in names:
                raise ValueError(f"the method must be one of {', '.join(names)}.{near(text, names)}")
            return _checked(text, keys_of_answers(model, template, text, "16bit"))

        return self._dialogue.ask("method", read, SEFE, self._options.method)

    def _hardware(self, model: str, template: str, method: str) -> str:
        from sefe_plugin.words import near

        self._dialogue.head("Where it runs: on a GPU with the base in 4 bit or in 16 bit, or on no GPU.")
        for name, meaning in HARDWARE.items():
            self._dialogue.say(f"{name:<6} {meaning}")

        def read(text: str) -> str:
            if text not in HARDWARE:
                raise ValueError(f"it must be one of {', '.join(HARDWARE)}.{near(text, HARDWARE)}")
            return _checked(text, keys_of_answers(model, template, method, text))

        return self._dialogue.ask("hardware", read, self._usual_hardware(read, model), self._options.hardware)

    def _usual_hardware(self, read, model: str) -> str:
        """Return the CPU for a tiny model where there is no GPU, else the first way that the method can work in."""
        import torch

        weights = [file.stat().st_size for file in Path(model).glob("*.safetensors")]
        if weights and sum(weights) <= _TINY and not torch.cuda.is_available():
            return "cpu"
        try:
            return read("4bit")
        except ValueError:
            return "16bit"

    def _output(self) -> str:
        from sefe_plugin.hosts.llamafactory.sequence import output_dir_errors
        from sefe_plugin.run.folder import RunFolder

        self._dialogue.head("The output folder: adapters, answers, scores and the report go there.")

        def read(text: str) -> str:
            if errors := output_dir_errors(Path(text)):
                raise ValueError(" ".join(errors))
            if "," in text:
                raise ValueError("it must hold no comma.")
            if RunFolder(Path(text)).manifest_file.is_file():
                raise ValueError(f"{text} holds a run already. Name another folder.")
            return text

        default = f"runs/{self._options.file.stem}"
        return self._dialogue.ask("output-dir", read, default, self._options.output_dir)

    def _leave_out_asd(self, tasks: list[dict[str, Any]], notes: dict, folder: str, ratio: float) -> None:
        """Switch ASD off in the tasks that it cannot rewrite."""
        from sefe_plugin.hosts.llamafactory.model_lookup import asd_fault

        for number, task in enumerate(tasks):
            if fault := asd_fault(task["dataset"], folder, task.get("scorer"), ratio, SEED):
                fault = fault.removeprefix(f"`asd_ratio` on dataset {task['dataset']}: ")
                reason = " ".join(fault.partition("; ")[0].split())
                task["asd_ratio"] = 0.0
                notes["tasks", number, "asd_ratio"] = f"trained as it is: {reason}"
                self._dialogue.say(f"{task['name']}: asd_ratio 0, because {reason}")

    def _note_long_answers(self, tasks: list[_Task], notes: dict, folder: str) -> None:
        """Say it where answers are texts that no scorer compares."""
        from sefe_plugin.recipe.survey import long_answers

        for number, task in enumerate(tasks):
            words = long_answers(task.test_dataset, Path(folder)) if task.scorer == NO_SCORER else None
            if words:
                note = f"gold answers of {words} words, which no scorer compares: they are answered, and not scored"
                notes["tasks", number, "scorer"] = note
                self._dialogue.say(f"{task.name}: {note}")


def _read_tasks(text: str, folder: str, entries: Mapping[str, Any]) -> list[_Task]:
    """Read a list of tasks.

    Raises:
        ValueError: With all that is wrong with them.
    """
    from sefe_plugin.hosts.llamafactory.model_lookup import converted
    from sefe_plugin.recipe.data_trial import data_errors
    from sefe_plugin.recipe.survey import candidate, guess_scorer

    tasks, errors = [], []
    for entry in filter(None, map(str.strip, text.split(","))):
        try:
            found, scorer = candidate(entry, entries)
            keys = {"dataset_dir": folder, "dataset": found.dataset, "test_dataset": found.test_dataset}
            if found.test_dataset:
                scorer = scorer or guess_scorer(found.test_dataset, Path(folder))
            faults = data_errors(keys | {"scorer": scorer})
            if not faults:
                converted(found.dataset, folder)
        except (ValueError, OSError) as error:
            errors.append(str(error))
            continue
        errors += faults
        tasks.append(_Task(found.name, found.dataset, found.test_dataset, scorer))
    names = [task.name.casefold() for task in tasks]
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    errors += [f"the task {name!r} is there {names.count(name)} times." for name in twice]
    if not tasks and not errors:
        errors.append("name one dataset at least.")
    if errors:
        raise ValueError("\n    ".join(errors))
    return tasks


def _checked(answer: str, sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return an answer if a sequence can have the keys that follow from it.

    Raises:
        ValueError: With the plugin's own reasons.
    """
    from sefe_plugin.hosts.llamafactory.keys import host_keys
    from sefe_plugin.recipe.errors import RecipeError
    from sefe_plugin.recipe.load import load_recipe

    keys = {key: value for section in sections.values() for key, value in section.items()}
    try:
        load_recipe({**keys, "output_dir": "run"}, "recipe", host_keys(), check_data=False)
    except RecipeError as error:
        raise ValueError("\n    ".join(error.errors)) from None
    return answer
