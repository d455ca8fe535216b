# ruff: noqa: T201 - a command prints
"""`sefe plan`: what a sequence will take, before anything starts."""

import argparse
import json
import logging
import sys
import traceback
from pathlib import Path


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `plan` to the subcommands of `sefe`."""
    plan = commands.add_parser(
        "plan", help="print the steps, tokens, GPU memory and disk that a sequence takes, and its errors"
    )
    plan.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file of a sequence")
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="as on the command line of a run")
    plan.add_argument(
        "--gpus", type=int, metavar="N", help="GPUs of all nodes together (default: those visible here, or 1)"
    )
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> None:
    if options.gpus is not None and options.gpus < 1:
        raise ValueError(f"`--gpus` must be at least 1; got {options.gpus}.")
    from sefe_plugin.hosts.llamafactory.host import read_recipe_with_places
    from sefe_plugin.hosts.llamafactory.keys import host_keys
    from sefe_plugin.plan.done import format_head
    from sefe_plugin.plan.plan import format_plan
    from sefe_plugin.plan.request import read_request
    from sefe_plugin.plan.sizes import PlanError
    from sefe_plugin.recipe.errors import RecipeError

    keys, places = read_recipe_with_places(options.recipe, options.overrides)
    logging.disable(logging.WARNING)  # the host's notes on loading
    try:
        request = read_request(keys, str(options.recipe), host_keys())
        # the host takes seconds to load: what is known before comes first
        said = sys.stderr if options.json else sys.stdout
        print(format_head(request.recipe, request.done), file=said, flush=True)
        print("Loading LLaMA-Factory to measure model and data ...", file=sys.stderr, flush=True)
        from sefe_plugin.hosts.llamafactory.plan import plan_request

        plan = plan_request(request, places, options.gpus)
    except RecipeError as error:
        raise error.with_places(places) from None
    except (OSError, ValueError):
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise PlanError(
            f"{options.recipe} cannot be planned: {type(error).__name__}: {error} ({place.filename}:{place.lineno})."
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    print(json.dumps(plan.to_dict(), indent=2) if options.json else format_plan(plan))
    if plan.errors:
        raise RecipeError(str(options.recipe), list(plan.errors))
