"""A sequence recipe in `llamafactory-cli train`: recognised, checked and run, one host process per task."""

import os
import sys
import time
from pathlib import Path

from sefe_plugin.carry.quantized import quantization_of
from sefe_plugin.evaluation.report_text import format_report
from sefe_plugin.hosts.llamafactory.host import LlamaFactory, on_command_line, read_recipe_with_places
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.launcher import Launcher
from sefe_plugin.hosts.llamafactory.nodes import environment_errors, follow, lead, num_nodes
from sefe_plugin.hosts.llamafactory.patch_table import switched_off_errors
from sefe_plugin.hosts.llamafactory.switches import switch_errors
from sefe_plugin.hosts.llamafactory.threads import set_waiting
from sefe_plugin.hosts.llamafactory.trial_process import require_trial
from sefe_plugin.hosts.llamafactory.watch import RUNNER_PID, Terminated, announce_runner
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.keys import RENAMED
from sefe_plugin.recipe.load import Recipe, carry_errors, load_recipe
from sefe_plugin.recipe.options import SEQUENCE_KEYS, plugin_keys
from sefe_plugin.recipe.single_run import single_run_errors
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.job import TaskFailedError
from sefe_plugin.run.runner import run_sequence
from sefe_plugin.run.whole import require_whole


#: Continue on purpose although what complete tasks were made of has changed.
ACCEPT = "--accept-changed-data"
#: Show all that the tasks say.
VERBOSE = "--verbose"


def intercept(arguments: list[str]) -> bool:
    """Handle `llamafactory-cli train` if the recipe uses the plugin's keys, before the host imports anything heavy.

    Args:
        arguments: the command line after `train`.

    Returns:
        True if the command was a sequence and is done; False if the host shall go on.

    Raises:
        SystemExit: with status 1 and a message, without a traceback, if the recipe or the run is at fault.
    """
    began = time.time()
    if not arguments or Path(arguments[0]).suffix not in (".yaml", ".yml", ".json"):
        return False
    source, overrides = arguments[0], [word for word in arguments[1:] if word not in (ACCEPT, VERBOSE)]
    accept, verbose = (flag in arguments[1:] for flag in (ACCEPT, VERBOSE))
    recipe, places = None, {}
    try:
        keys, places = read_recipe_with_places(Path(source), overrides)
        if not any(key in keys for key in (*plugin_keys(), *RENAMED)):
            return False
        if errors := switch_errors():
            raise RecipeError(source, errors)
        if not any(key in keys for key in SEQUENCE_KEYS):
            errors = switched_off_errors(keys) + single_run_errors(keys, host_keys(), RUNNER_PID in os.environ)
            errors += [f"`{ACCEPT}` belongs to a sequence that is continued. Remove it."] if accept else []
            errors += [f"`{VERBOSE}` belongs to a sequence; a single run shows everything. Remove it."] * verbose
            if errors:
                raise RecipeError(source, errors)
            return False
        recipe = load_recipe(keys, source, host_keys())
        keys_of_tasks = [{**recipe.arguments, **task.overrides} for task in recipe.tasks]
        of_tasks = [error for keys in keys_of_tasks for error in switched_off_errors(keys)]
        if of_tasks:
            raise RecipeError(source, list(dict.fromkeys(of_tasks)))
        if errors := output_dir_errors(recipe.output_dir):
            raise RecipeError(source, errors)
        # a model of the hub has not been asked yet
        if quantization_of(recipe.arguments, fetch=True) and (errors := carry_errors(recipe)):
            raise RecipeError(source, errors)
        announce_runner()
        set_waiting(os.environ)
        report = _run(recipe, source, accept, verbose, began)
        if report is None:
            return True
    except KeyboardInterrupt as interrupt:
        by, status = ("SIGTERM", 143) if isinstance(interrupt, Terminated) else ("Ctrl-C", 130)
        log = recipe and RunFolder(recipe.output_dir).newest_log()
        said = f" What the task said is in {log}." if log else ""
        message = f"Stopped by {by}. The same command continues after the last step that is whole.{said}"
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(status) from None
    except (RecipeError, RunFolderError, TaskFailedError) as error:
        if isinstance(error, TaskFailedError) and error.last_lines:
            print("The last that it said:", *error.last_lines, sep="\n  ", end="\n\n", file=sys.stderr)
        said = error.with_places(places) if isinstance(error, RecipeError) else error
        print(said, file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    _say(format_report(report, f"{source}: report in {recipe.output_dir}"))
    return True


def output_dir_errors(folder: Path) -> list[str]:
    """List why the host cannot be told of a run folder."""
    if not any(map(str.isspace, on_command_line(folder.absolute()))):
        return []
    rule = "must hold no blanks, at which the host's launcher of several processes cuts its command"
    return [f"`output_dir` {rule}; got {str(folder)!r}."]


def _run(recipe: Recipe, source: str, accept: bool, verbose: bool, began: float) -> dict | None:
    """Run a sequence, on the first of several nodes for all of them; return its report there."""
    terminal = sys.stderr if sys.stdout.isatty() and sys.stderr.isatty() else None
    more = {"terminal": terminal, "verbose": verbose, "began": began}
    if errors := environment_errors():
        raise RecipeError(source, errors)
    if num_nodes() == 1:
        require_whole(recipe)
        with Launcher(_say) as launcher:
            if _has_work(recipe):
                launcher.get_ready()
            require_trial(recipe, _say, None, launcher.start)
            host = LlamaFactory(start=launcher.start)
            return run_sequence(recipe, host, host.keys(), _say, accept, **more)
    os.environ["FORCE_TORCHRUN"] = "1"  # the host joins nodes by torchrun only
    if int(os.environ["NODE_RANK"]) > 0:
        follow(recipe)
        return None
    with lead(recipe) as announce:
        require_whole(recipe)
        require_trial(recipe, _say)
        host = LlamaFactory(announce)
        return run_sequence(recipe, host, host.keys(), _say, accept, **more)


def _has_work(recipe: Recipe) -> bool:
    """Tell whether a task of the recipe is not complete yet."""
    manifest = RunFolder(recipe.output_dir).read_manifest()
    return manifest is None or len(manifest["complete"]) < len(recipe.tasks)


def _say(text: str) -> None:
    """Print at once; where nobody reads it any more, as behind `| head`, all further output goes nowhere."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
