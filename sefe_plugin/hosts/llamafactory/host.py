"""LlamaFactory as a host: its keys, its recipes, and the command lines that train, score and merge a task."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sefe_plugin.files import write_text
from sefe_plugin.hosts.base import Host
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.nodes import num_nodes
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.include import INCLUDE, resolve_includes
from sefe_plugin.recipe.keys import HostKeys
from sefe_plugin.recipe.options import plugin_keys
from sefe_plugin.run.process import Start, Started, spawn


_SECTIONS = ("model", "method", "dataset", "output", "train", "generation")

#: How reading a YAML file fails.
_UNREADABLE = (OSError, TypeError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException)


def read_recipe(file: Path, overrides: list[str]) -> dict[str, Any]:
    """Read a recipe as the host does, with all that it includes, command-line overrides last.

    Raises:
        RecipeError: if a file cannot be read, is no YAML with keys at the top, or `include` is at fault.
    """
    return read_recipe_with_places(file, overrides)[0]


def read_recipe_with_places(file: Path, overrides: list[str]) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return what `read_recipe` does, and for each key that an included recipe supplies the file that holds it."""
    keys, places = resolve_includes(file, _read)
    try:
        changes = OmegaConf.from_cli(overrides)
        merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(keys), changes))
    except _UNREADABLE as error:
        raise RecipeError(str(file), [f"it cannot be read: {error}"]) from None
    if INCLUDE in changes:
        raise RecipeError(
            str(file), [f"`{INCLUDE}` stands in a recipe file, not on the command line. Remove it there."]
        )
    return merged, {key: place for key, place in places.items() if key not in changes}


def _read(file: Path) -> dict[str, Any]:
    """Read one file of a recipe."""
    try:
        keys = OmegaConf.to_container(OmegaConf.load(file))
    except FileNotFoundError:
        raise RecipeError(str(file), ["the file does not exist."]) from None
    except UnicodeDecodeError as error:
        raise RecipeError(str(file), [f"it is not in UTF-8: {error}. Save it in UTF-8."]) from None
    except _UNREADABLE as error:
        raise RecipeError(str(file), [f"it cannot be read: {error}"]) from None
    if not isinstance(keys, dict):
        raise RecipeError(str(file), ["it must hold keys and values at the top."])
    return keys


class LlamaFactory(Host):
    """The host as the sequence needs it; `-P` keeps the working folder from shadowing installed packages.

    Args:
        announce: given "train" or "score" and the file of every step in which other nodes take part, before it begins.
        start: starts a command line.
    """

    def __init__(self, announce: Callable[[str, Path], None] = lambda step, file: None, start: Start = spawn):
        self._announce, self._start = announce, start

    def keys(self) -> HostKeys:
        """Return its recipe keys, read from its source."""
        return host_keys()

    def sequence_command(self) -> list[str]:
        """Return the command line of `llamafactory-cli train` in this interpreter."""
        return [sys.executable, "-P", "-c", "from llamafactory.cli import main; main()", "train"]

    def start(self, command: Sequence[str], outputs: tuple[int, int], held: Sequence[int]) -> Started:
        """Start one of the command lines."""
        return self._start(command, outputs, held)

    def train(self, file: Path, keys: Mapping[str, Any]) -> list[str]:
        """Write a task's recipe; return the command that trains it."""
        command = _command("train", file, keys)
        self._announce("train", file)
        return command

    def score(self, file: Path, keys: Mapping[str, Any]) -> list[str]:
        """Write a recipe that only scores a trained task; return the command that runs it."""
        folder = keys["output_dir"]
        if keys.get("scoring_backend", "generate") == "vllm":
            from sefe_plugin.hosts.llamafactory.vllm_scoring import score_command

            write_recipe(file, keys, "# One step of a sequence: its test sets answered by vLLM.")
            return score_command(file)
        trained = (
            {"model_name_or_path": folder} if keys["finetuning_type"] == "full" else {"adapter_name_or_path": folder}
        )
        # a model that DeepSpeed holds in parts is answered with as a whole
        kept = {key: value for key, value in keys.items() if key != "deepspeed"}
        command = _command("train", file, {**kept, **trained, "do_train": False, "merge_adapter": False})
        self._announce("score", file)
        return command

    def score_base(self, file: Path, keys: Mapping[str, Any]) -> list[str]:
        """Write a recipe that only scores the untouched base; return the command that runs it."""
        if keys.get("scoring_backend", "generate") == "vllm":
            from sefe_plugin.hosts.llamafactory.vllm_scoring import score_command

            write_recipe(
                file, keys, "# One step of a sequence: the test sets answered with the untouched base by vLLM."
            )
            return score_command(file)
        command = _command("train", file, {key: value for key, value in keys.items() if key != "deepspeed"})
        self._announce("score", file)
        return command

    def merge(self, file: Path, keys: Mapping[str, Any], adapter: Path, folder: Path) -> list[str]:
        """Write a recipe of the host's export, on the CPU; return the command that runs it."""
        model_keys = {
            key: value for key, value in keys.items() if section_of(key) == "model" and "quantization" not in key
        }
        export = {"adapter_name_or_path": str(adapter), "export_dir": str(folder), "export_device": "cpu"}
        method = {"template": keys["template"], "finetuning_type": "lora", "cl_method": keys["cl_method"]}
        return _command("export", file, {**model_keys, **export, **method})


def section_of(key: str) -> str:
    """Return the section of a recipe that a key belongs to."""
    known = host_keys().keys
    return known[key].section if key in known else plugin_keys()[key].section


def on_command_line(file: Path) -> str:
    """Return a path, without the blanks of the working folder; other nodes have working folders of their own."""
    alone = num_nodes() == 1
    return os.path.relpath(file) if alone and any(map(str.isspace, str(file))) else str(file)


def _command(verb: str, file: Path, keys: Mapping[str, Any]) -> list[str]:
    command = [sys.executable, "-P", "-m", "llamafactory.cli", verb, on_command_line(file)]
    overwrites = " overwrite_output_dir=true" if verb == "train" and keys["do_train"] else ""
    alone = f"to run it alone: llamafactory-cli {verb} {file}{overwrites}"
    if verb == "train" and keys["test_sets"] is None:
        alone = "only the sequence runs it, before the task's last training"
    elif verb == "train" and "cl_method" not in keys:
        alone = "only the sequence runs it: the untouched base is scored"
    write_recipe(file, keys, f"# One step of a sequence; {alone}")
    return command


def write_recipe(file: Path, keys: Mapping[str, Any], title: str) -> None:
    """Write keys as a plain recipe of the host; see `recipe_text`."""
    write_text(file, recipe_text(keys, title))


def recipe_text(keys: Mapping[str, Any], title: str) -> str:
    """Return keys as the text of a plain recipe of the host, in its usual sections.

    Args:
        keys: host and plugin keys.
        title: the first line, a comment.
    """
    sections: dict[str, dict] = {section: {} for section in _SECTIONS}
    for key, value in keys.items():
        sections[section_of(key)][key] = value
    lines = [title]
    for section, entries in sections.items():
        if entries:
            lines += ["", f"### {section}", yaml.safe_dump(entries, sort_keys=False, allow_unicode=True).rstrip()]
    return "\n".join(lines) + "\n"
