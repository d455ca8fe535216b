"""A sequence recipe in `llamafactory-cli train`: recognised, checked and run, one host process per task."""

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sefe_plugin.evaluation.report import format_report
from sefe_plugin.files import write_text
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.vllm_scoring import score_command
from sefe_plugin.hosts.llamafactory.watch import announce_runner
from sefe_plugin.methods import MethodError
from sefe_plugin.recipe.keys import RENAMED
from sefe_plugin.recipe.load import Recipe, RecipeError, load_recipe, single_run_errors
from sefe_plugin.recipe.options import SEQUENCE_KEYS, plugin_keys
from sefe_plugin.run.folder import RunFolderError
from sefe_plugin.run.job import TaskFailedError
from sefe_plugin.run.runner import run_sequence


#: What the host takes for true in an environment variable.
_ON = ("true", "y", "1")

_SECTIONS = ("model", "method", "dataset", "output", "train", "generation")


def intercept(arguments: list[str]) -> bool:
    """Handles `llamafactory-cli train` if the recipe uses the plugin's keys, before the host imports anything heavy.

    Args:
        arguments: the command line after `train`.

    Returns:
        True if the command was a sequence and is done; False if the host shall go on.

    Raises:
        SystemExit: with status 1 and a message, without a traceback, if the recipe or the run is at fault.
    """
    if not arguments or Path(arguments[0]).suffix not in (".yaml", ".yml", ".json"):
        return False
    source, overrides = arguments[0], arguments[1:]
    try:
        keys = read_recipe(Path(source), overrides)
        if not any(key in keys for key in (*plugin_keys(), *RENAMED)):
            return False
        if switches := [name for name in ("USE_V1", "USE_MCA") if os.environ.get(name, "0").lower() in _ON]:
            reason = "the training that it switches to is not the one that sefe-plugin extends. Unset it."
            raise RecipeError(source, [f"{name} is set: {reason}" for name in switches])
        if not any(key in keys for key in SEQUENCE_KEYS):
            errors = single_run_errors(keys, host_keys())
            if errors:
                raise RecipeError(source, errors)
            return False
        recipe = load_recipe(keys, source, host_keys())
        if any(map(str.isspace, _on_command_line(recipe.output_dir.absolute()))):
            rule = "must hold no blanks, at which the host's launcher of several processes cuts its command"
            raise RecipeError(source, [f"`output_dir` {rule}; got {str(recipe.output_dir)!r}."])
        announce_runner()
        # waiting threads that sleep instead of spin: several times faster wherever cores are shared
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        report = _run(recipe, source)
        if report is None:
            return True
    except KeyboardInterrupt:
        print("Stopped. The same command continues after the last complete task.", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    except (MethodError, RecipeError, RunFolderError, TaskFailedError) as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    print(format_report(report, f"{source}: report in {recipe.output_dir}"), flush=True)
    return True


def _run(recipe: Recipe, source: str) -> dict | None:
    """Runs a sequence, on the first of several nodes for all of them; returns its report there."""
    say = partial(print, flush=True)
    if int(os.environ.get("NNODES", "1")) == 1:
        return run_sequence(recipe, LlamaFactory(), host_keys(), say)
    from sefe_plugin.hosts.llamafactory.nodes import environment_errors, follow, lead

    if errors := environment_errors():
        raise RecipeError(source, errors)
    os.environ["FORCE_TORCHRUN"] = "1"  # the host joins nodes by torchrun only
    if int(os.environ["NODE_RANK"]) > 0:
        follow()
        return None
    with lead() as announce:
        return run_sequence(recipe, LlamaFactory(announce), host_keys(), say)


def read_recipe(file: Path, overrides: list[str]) -> dict[str, Any]:
    """Reads a recipe as the host does, command-line overrides last.

    Raises:
        RecipeError: if the file is absent or no YAML with keys at the top.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.load(file), OmegaConf.from_cli(overrides))
        keys = OmegaConf.to_container(merged)
    except FileNotFoundError:
        raise RecipeError(str(file), ["the file does not exist."]) from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise RecipeError(str(file), [f"it cannot be read: {error}"]) from None
    if not isinstance(keys, dict):
        raise RecipeError(str(file), ["it must hold keys and values at the top."])
    return keys


class LlamaFactory:
    """The host as the sequence needs it; `-P` keeps the working folder from shadowing installed packages.

    Args:
        announce: given the command of every training, for other nodes that take part in it.
    """

    def __init__(self, announce: Callable[[list[str]], None] = lambda command: None):
        self._announce = announce

    def train(self, file: Path, keys: Mapping[str, Any]) -> list[str]:
        """Writes a task's recipe; returns the command that trains it."""
        command = _command("train", file, keys)
        self._announce(command)
        return command

    def score(self, file: Path, keys: Mapping[str, Any]) -> list[str]:
        """Write a recipe that only scores a trained task; return the command that runs it."""
        folder = keys["output_dir"]
        if keys.get("scoring_backend", "generate") == "vllm":
            return score_command(Path(folder) / "task.yaml")
        trained = {"model_name_or_path": folder} if keys["finetuning_type"] == "full" else {"adapter_name_or_path": folder}
        # a model that DeepSpeed holds in parts is answered with as a whole
        kept = {key: value for key, value in keys.items() if key != "deepspeed"}
        command = _command("train", file, {**kept, **trained, "do_train": False, "merge_adapter": False})
        self._announce(command)
        return command

    def merge(self, file: Path, keys: Mapping[str, Any], adapter: Path, folder: Path) -> list[str]:
        """Write a recipe of the host's export, on the CPU; return the command that runs it."""
        model_keys = {
            key: value for key, value in keys.items() if _section(key) == "model" and "quantization" not in key
        }
        export = {"adapter_name_or_path": str(adapter), "export_dir": str(folder), "export_device": "cpu"}
        method = {"template": keys["template"], "finetuning_type": "lora"}
        return _command("export", file, {**model_keys, **export, **method})


def _section(key: str) -> str:
    """The section of a recipe that a key belongs to."""
    known = host_keys().keys
    return known[key].section if key in known else plugin_keys()[key].section


def _on_command_line(file: Path) -> str:
    """A path, without the blanks of the working folder; other nodes have working folders of their own."""
    alone = int(os.environ.get("NNODES", "1")) == 1
    return os.path.relpath(file) if alone and any(map(str.isspace, str(file))) else str(file)


def _command(verb: str, file: Path, keys: Mapping[str, Any]) -> list[str]:
    command = [sys.executable, "-P", "-m", "llamafactory.cli", verb, _on_command_line(file)]
    again = " overwrite_output_dir=true" if verb == "train" else ""
    write_recipe(file, keys, f"# One step of a sequence; to run it alone: llamafactory-cli {verb} {file}{again}")
    return command


def write_recipe(file: Path, keys: Mapping[str, Any], title: str) -> None:
    """Writes keys as a plain recipe of the host, in its usual sections.

    Args:
        file: where to write.
        keys: host and plugin keys.
        title: the first line, a comment.
    """
    sections: dict[str, dict] = {section: {} for section in _SECTIONS}
    for key, value in keys.items():
        sections[_section(key)][key] = value
    lines = [title]
    for section, entries in sections.items():
        if entries:
            lines += ["", f"### {section}", yaml.safe_dump(entries, sort_keys=False, allow_unicode=True).rstrip()]
    write_text(file, "\n".join(lines) + "\n")
