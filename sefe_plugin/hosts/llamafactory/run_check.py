"""A run with the plugin's keys, checked as a whole by whatever way its arguments have come.

A recipe file is checked before anything heavy is imported (`sequence.py`). Flags on a command line, a mapping given to
`run_exp` and the processes of torchrun come by the host's own arguments alone, and are checked here.
"""

import os
from dataclasses import MISSING, Field, fields
from typing import Any

from sefe_plugin.hosts.llamafactory.patch_table import switched_off_errors
from sefe_plugin.hosts.llamafactory.switches import switch_errors
from sefe_plugin.hosts.llamafactory.watch import RUNNER_PID
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.options import plugin_keys
from sefe_plugin.recipe.single_run import run_errors


def check_run(parsed: tuple) -> None:
    """Check the host's arguments of a training.

    Args:
        parsed: Its argument objects for model, data, training, fine-tuning and generation.

    Raises:
        RecipeError: With all errors at once.
    """
    arguments = {}
    for part in parsed:
        arguments |= {f.name: value for f in fields(part) if (value := getattr(part, f.name)) != _default(f)}
    if not any(key in arguments for key in plugin_keys()):
        return
    errors = switched_off_errors(arguments) + switch_errors(arguments)
    if errors := errors + run_errors(arguments, in_sequence=RUNNER_PID in os.environ):
        raise RecipeError("This run", errors)


def _default(declared: Field) -> Any:
    return declared.default if declared.default_factory is MISSING else declared.default_factory()
