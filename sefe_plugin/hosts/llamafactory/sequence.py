"""A sequence recipe in `llamafactory-cli train`: recognised, checked and run, one host process per task."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sefe_plugin.evaluation.report import format_report
from sefe_plugin.files import write_text
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.watch import announce_runner
from sefe_plugin.options import PLUGIN_KEYS, SEQUENCE_KEYS
from sefe_plugin.recipe import RecipeError, load_recipe, single_run_faults
from sefe_plugin.run_folder import RunFolderError
from sefe_plugin.runner import TaskFailedError, run_sequence


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
        if not any(key in keys for key in PLUGIN_KEYS):
            return False
        if os.environ.get("USE_V1", "0").lower() in ("true", "1"):
            raise RecipeError(source, ["the keys of sefe-plugin work in LLaMA-Factory v0; unset USE_V1."])
        if not any(key in keys for key in SEQUENCE_KEYS):
            faults = single_run_faults(keys, host_keys())
            if faults:
                raise RecipeError(source, faults)
            return False
        recipe = load_recipe(keys, source, host_keys())
        if int(os.environ.get("NNODES", "1")) > 1:
            raise RecipeError(source, ["a sequence runs on one node; unset NNODES."])
        announce_runner()
        # waiting threads that sleep instead of spin: several times faster wherever cores are shared
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        report = run_sequence(recipe, write_task_recipe, _command, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print("Stopped. The same command continues after the last complete task.", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    except (RecipeError, RunFolderError, TaskFailedError) as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    print(format_report(report, f"{source}: report in {recipe.output_dir}"), flush=True)
    return True


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


def _command(file: Path) -> list[str]:
    """The command line that trains one task; `-P` keeps the working folder from shadowing installed packages."""
    return [sys.executable, "-P", "-m", "llamafactory.cli", "train", str(file)]


def write_task_recipe(file: Path, keys: Mapping[str, Any]) -> None:
    """Writes one task's keys as a plain recipe of the host, in its usual sections.

    Args:
        file: where to write.
        keys: host and plugin keys.
    """
    known = host_keys()
    sections: dict[str, dict] = {section: {} for section in _SECTIONS}
    for key, value in keys.items():
        sections[known[key].section if key in known else PLUGIN_KEYS[key]][key] = value
    lines = [f"# One task of a sequence; to run it alone: llamafactory-cli train {file}"]
    for section, entries in sections.items():
        if entries:
            lines += ["", f"### {section}", yaml.safe_dump(entries, sort_keys=False, allow_unicode=True).rstrip()]
    write_text(file, "\n".join(lines) + "\n")
