# ruff: noqa: T201 - a command prints
"""`sefe compare`: any recipes over several seeds, and what they say together."""

import argparse
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from sefe_plugin.compare.arms import Arm
    from sefe_plugin.compare.table import Plan
    from sefe_plugin.recipe.load import Recipe
    from sefe_plugin.recipe.tasks import Task


#: More seeds than anybody counts: a larger number is a seed.
_MOST_SEEDS = 50


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `compare` to the subcommands of `sefe`."""
    compare = commands.add_parser("compare", help="run recipes over several seeds and compare them (long; resumable)")
    compare.add_argument(
        "recipes",
        nargs="+",
        metavar="RECIPE",
        help="YAML file of a sequence; RECIPE+key=value+key=value changes keys of it",
    )
    compare.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of all runs and of the page")
    compare.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[3],
        metavar="SEED",
        help="how many, from the recipes' own seed upward; or the seeds themselves, two or more (default: 3)",
    )
    compare.add_argument(
        "--against", metavar="NAME", help="compare every other recipe with this one, by its name (default: the first)"
    )
    compare.add_argument(
        "--no-sharing",
        action="store_true",
        help="train every task in every run, also where another run has trained the very same",
    )
    add_running_options(compare)
    compare.set_defaults(run=_compare)


def add_running_options(command: argparse.ArgumentParser) -> None:
    """Add the options that say how many runs are made."""
    command.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings", help="recipe keys of every run"
    )
    command.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time, of one thread each if N > 1; for the CPU"
    )
    command.add_argument(
        "--devices",
        nargs="+",
        default=[],
        metavar="GPU",
        help="GPUs, a run at a time on each; join those of one run by a comma: --devices 0,1 2,3",
    )


def running_errors(options: argparse.Namespace, arms: Mapping[str, "Arm"], reserved: Sequence[str]) -> list[str]:
    """List what is wrong with the options of `add_running_options`.

    Args:
        options: The command line.
        arms: Those that are compared.
        reserved: Keys that other options set.
    """
    errors = []
    if options.jobs < 1:
        errors.append(f"`--jobs` must be at least 1; got {options.jobs}.")
    if options.devices and options.jobs > 1:
        errors.append("`--jobs` and `--devices` exclude each other: a run at a time is made on each device.")
    if len(set(options.devices)) < len(options.devices):
        errors.append(f"`--devices` must differ; got {' '.join(options.devices)}.")
    for setting in options.settings:
        key, equals, _ = setting.partition("=")
        if not equals or key in reserved:
            errors.append(
                f"`--set` takes KEY=VALUE, with seeds, orders and folders from options of their own; got {setting!r}."
            )
        errors += [
            f"`--set {setting}` would undo what the arm {name} is. Leave out one of them."
            for name, arm in arms.items()
            if key in arm.overrides
        ]
    return errors


def out_errors(out: Path) -> list[str]:
    """List why no run can be made below the folder of all runs."""
    from sefe_plugin.hosts.llamafactory.sequence import output_dir_errors

    return [f"`--out`: {error} Choose another folder." for error in output_dir_errors(out)]


def make_runs(plan: "Plan", options: argparse.Namespace) -> None:
    """Make the runs of a plan that are not finished.

    Raises:
        SystemExit: With status 130 and a message, if the command is stopped.
        ValueError: With all runs that failed.
    """
    from sefe_plugin.compare.table import run_all
    from sefe_plugin.hosts.llamafactory.host import LlamaFactory

    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill ends the runs at work as Ctrl+C does
    try:
        say = partial(print, flush=True)
        run_all(plan, LlamaFactory().sequence_command(), options.jobs, say, options.devices)
    except KeyboardInterrupt:
        print("Stopped. The same command continues.", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        signal.signal(signal.SIGTERM, handler)


def _compare(options: argparse.Namespace) -> None:
    from sefe_plugin.compare.arms import read_arms
    from sefe_plugin.compare.page import compare_recipes, format_page, write_page
    from sefe_plugin.compare.table import Plan, versions_of

    arms = read_arms(options.recipes)
    against = options.against or next(iter(arms))
    seeds = _check(options, arms, against)
    plan = Plan(arms, seeds, [None], options.out.absolute(), options.settings, not options.no_sharing)
    make_runs(plan, options)
    comparison = {
        "command": _command(options),
        "versions": versions_of(plan),
        **compare_recipes(plan, against),
    }
    write_page(options.out, comparison)
    print(format_page(comparison), end="")
    print(f"\nPage, data and pictures: {options.out}/compare.md")


def _check(options: argparse.Namespace, arms: Mapping[str, "Arm"], against: str) -> list[int]:
    """Refuse options and recipes that no comparison could be made with, all at once; return the seeds."""
    errors = running_errors(options, arms, ("seed", "output_dir")) + out_errors(options.out)
    if against not in arms:
        errors.append(f"`--against` must be one of the arms, {', '.join(arms)}; got {against}.")
    if len(set(options.seeds)) < len(options.seeds):
        errors.append(f"`--seeds` must differ; got {' '.join(map(str, options.seeds))}.")
    if len(options.seeds) == 1 and not 1 <= options.seeds[0] <= _MOST_SEEDS:
        errors.append(
            f"`--seeds` with one number is how many, 1 to {_MOST_SEEDS}; got {options.seeds[0]}. For one seed alone, "
            "set `seed` in the recipes and write `--seeds 1`."
        )
    errors += [
        f"{name}: `{key}` comes from `--{option}`. Remove it from the recipe's other values."
        for name, arm in arms.items()
        for key, option in (("seed", "seeds"), ("output_dir", "out"))
        if key in arm.overrides
    ]
    if errors:
        raise ValueError("\n".join(errors))
    own_seeds = _check_recipes(options, arms)
    if len(options.seeds) > 1:
        return options.seeds
    if len(set(own_seeds.values())) > 1:
        differing = ", ".join(f"{name} {seed}" for name, seed in own_seeds.items())
        raise ValueError(f"`--seeds` must list the seeds, because the recipes have different ones: {differing}.")
    first = next(iter(own_seeds.values()))
    return list(range(first, first + options.seeds[0]))


def _check_recipes(options: argparse.Namespace, arms: Mapping[str, "Arm"]) -> dict[str, int]:
    """Read the recipe of every arm as its runs will; return arm -> its own seed."""
    from sefe_plugin.compare.test_data import differing_test_data
    from sefe_plugin.hosts.llamafactory.host import read_recipe_with_places
    from sefe_plugin.hosts.llamafactory.keys import host_keys
    from sefe_plugin.recipe.errors import RecipeError
    from sefe_plugin.recipe.load import load_recipe
    from sefe_plugin.run.reporting import DEFAULT_SEED

    recipes, seeds, tasks, errors = {}, {}, {}, []
    is_varied = options.seeds != [1]
    for name, arm in arms.items():
        places: Mapping[str, Path] = {}
        changes = [f"{key}={value}" for key, value in arm.overrides.items()]
        try:
            place = [f"output_dir={options.out.absolute() / name}"]
            keys, places = read_recipe_with_places(arm.recipe, [*changes, *options.settings, *place])
            recipe = load_recipe(keys, "+".join([str(arm.recipe), *changes]), host_keys())
        except RecipeError as error:
            errors.append(str(error.with_places(places)))
            continue
        if not recipe.tasks:
            errors.append(f"{arm.recipe} describes no sequence. Give it `tasks` or a `benchmark`.")
        recipes[name] = recipe
        if is_varied:
            errors += _fixed_seeds(name, recipe)
        seeds[name] = int(recipe.arguments.get("seed", DEFAULT_SEED))
        tasks[name] = [_tested(task, recipe.arguments) for task in recipe.tasks]
        tasks[name].insert(0, f"the benchmark {recipe.benchmark}" if recipe.benchmark else "no benchmark")
    if errors:
        raise ValueError("\n".join(errors))
    (first, expected), *others = tasks.items()
    if errors := [
        "All recipes must train the same tasks in the same order, on the same test sets; "
        + next(
            f"{first} has {wanted}, and {name} has {got}."
            for wanted, got in zip_longest(expected, found, fillvalue="no more task")
            if wanted != got
        )
        for name, found in others
        if found != expected
    ]:
        raise ValueError("\n".join(errors))
    if errors := differing_test_data(recipes):
        raise ValueError("\n".join(errors))
    return seeds


def _fixed_seeds(name: str, recipe: "Recipe") -> list[str]:
    """List the tasks that have a seed of their own, which is the same in every run of an arm."""
    place = "`task_keys`" if recipe.benchmark else "its entry of `tasks`"
    return [
        f"{name}: task {task.name} sets `seed: {task.overrides['seed']}`, so that `--seeds` would not vary it. Take "
        f"`seed` out of {place}, or write `--seeds 1`."
        for task in recipe.tasks
        if "seed" in task.overrides
    ]


def _tested(task: "Task", arguments: Mapping[str, Any]) -> str:
    """Name a task with what it is tested on."""
    from sefe_plugin.evaluation.scorers import spec_text

    if task.test_dataset is None:
        return f"{task.name} (no test set)"
    limit = task.overrides.get("max_test_samples", arguments.get("max_test_samples"))
    part = "" if limit is None else f"the first {limit} of "
    return f"{task.name} ({part}{task.test_dataset}, {spec_text(task.scorer)})"


def _command(options: argparse.Namespace) -> str:
    """Return the command line that makes the same page."""
    words = ["sefe", "compare", *options.recipes, "--seeds", *map(str, options.seeds)]
    if options.against:
        words += ["--against", options.against]
    if options.settings:
        words += ["--set", *options.settings]
    words += ["--no-sharing"] * options.no_sharing
    return shlex.join([*words, "--out", str(options.out)])
