"""A sequence recipe in `llamafactory-cli train`: recognised, checked and run, one host process per task."""

import os
import sys
from functools import partial
from pathlib import Path

from sefe_plugin.evaluation.report import format_report
from sefe_plugin.hosts.llamafactory.host import LlamaFactory, on_command_line, read_recipe
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.watch import announce_runner
from sefe_plugin.recipe.keys import RENAMED
from sefe_plugin.recipe.load import Recipe, RecipeError, load_recipe, single_run_errors
from sefe_plugin.recipe.options import SEQUENCE_KEYS, plugin_keys
from sefe_plugin.run.folder import RunFolderError
from sefe_plugin.run.job import TaskFailedError
from sefe_plugin.run.runner import run_sequence


#: What the host takes for true in an environment variable.
_ON = ("true", "y", "1")


def intercept(arguments: list[str]) -> bool:
    """Handle `llamafactory-cli train` if the recipe uses the plugin's keys, before the host imports anything heavy.

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
        if any(map(str.isspace, on_command_line(recipe.output_dir.absolute()))):
            rule = "must hold no blanks, at which the host's launcher of several processes cuts its command"
            raise RecipeError(source, [f"`output_dir` {rule}; got {str(recipe.output_dir)!r}."])
        announce_runner()
        # waiting threads that sleep instead of spin: several times faster wherever cores are shared
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        report = _run(recipe, source)
        if report is None:
            return True
    except KeyboardInterrupt:
        print("Stopped. The same command continues after the last step that is whole.", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    except (RecipeError, RunFolderError, TaskFailedError) as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    print(format_report(report, f"{source}: report in {recipe.output_dir}"), flush=True)
    return True


def _run(recipe: Recipe, source: str) -> dict | None:
    """Run a sequence, on the first of several nodes for all of them; return its report there."""
    say = partial(print, flush=True)
    if int(os.environ.get("NNODES", "1")) == 1:
        host = LlamaFactory()
        return run_sequence(recipe, host, host.keys(), say)
    from sefe_plugin.hosts.llamafactory.nodes import environment_errors, follow, lead

    if errors := environment_errors():
        raise RecipeError(source, errors)
    os.environ["FORCE_TORCHRUN"] = "1"  # the host joins nodes by torchrun only
    if int(os.environ["NODE_RANK"]) > 0:
        follow()
        return None
    with lead() as announce:
        host = LlamaFactory(announce)
        return run_sequence(recipe, host, host.keys(), say)
