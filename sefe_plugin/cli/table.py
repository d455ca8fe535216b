# ruff: noqa: T201 - a command prints
"""`sefe minicoin table`: many runs of mini-CoIN, and what they say together."""

import argparse
import os
import shlex
from pathlib import Path

from sefe_plugin.cli.compare import add_running_options, make_runs, out_errors, running_errors


def add_command(minicoin: argparse._SubParsersAction) -> None:
    """Add `table` to the subcommands of `sefe minicoin`."""
    from sefe_plugin.compare.arms import DEFAULT_ARMS

    table = minicoin.add_parser("table", help="run arms x seeds x orders and compare them (long; resumable)")
    table.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of all runs and of the table")
    table.add_argument(
        "--arms",
        nargs="+",
        default=list(DEFAULT_ARMS),
        metavar="ARM",
        help="what to compare; also controls and sweeps, see docs/minicoin.md (default: "
        + " ".join(DEFAULT_ARMS)
        + ")",
    )
    table.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[101, 102, 103, 104, 105],
        metavar="SEED",
        help="seeds of the runs (default: 101 to 105)",
    )
    table.add_argument(
        "--orders", nargs="+", default=["coin"], metavar="ORDER", help="coin, reversed, shuffled (default: coin)"
    )
    table.add_argument(
        "--against", metavar="ARM", help="compare every other arm with this one (default: each two arms)"
    )
    add_running_options(table)
    table.add_argument("--write", type=Path, metavar="FILE.md", help="also put the table between its markers there")
    table.add_argument(
        "--pictures", type=Path, metavar="DIR", help="also put the pictures there, linked from the file of --write"
    )
    table.set_defaults(run=_table)


def _table(options: argparse.Namespace) -> None:
    from sefe_plugin.compare.arms import choose_arms
    from sefe_plugin.compare.report import (
        check_markers,
        format_comparison,
        write_between_markers,
        write_comparison,
        write_pictures,
    )
    from sefe_plugin.compare.table import Plan, compare_runs, versions_of

    _check(options)
    plan = Plan(
        choose_arms(options.arms),
        options.seeds,
        options.orders,
        options.out.absolute(),
        options.settings,
    )
    if options.write:
        check_markers(options.write)
    make_runs(plan, options)
    orders = compare_runs(plan, options.against)
    comparison = {"command": _command(options), "versions": versions_of(plan), "orders": orders}
    write_comparison(options.out, comparison)
    pictures = None
    if options.pictures:
        write_pictures(options.pictures, comparison)
        pictures = Path(os.path.relpath(options.pictures, options.write.parent))
    if options.write:
        write_between_markers(options.write, format_comparison(comparison, pictures))
    print(format_comparison(comparison), end="")


def _check(options: argparse.Namespace) -> None:
    """Refuse options that no run could be made with, all at once."""
    from sefe_plugin.benchmarks import named_orders
    from sefe_plugin.compare.arms import ARMS

    errors = []
    if options.against not in (None, *options.arms):
        errors.append(f"`--against` must be one of the arms, {', '.join(options.arms)}; got {options.against}.")
    orders = tuple(named_orders([]))
    if not set(options.orders) <= set(orders) or len(set(options.orders)) < len(options.orders):
        errors.append(f"`--orders` must be of {', '.join(orders)}, each once; got {' '.join(options.orders)}.")
    if len(set(options.seeds)) < len(options.seeds):
        errors.append(f"`--seeds` must differ; got {' '.join(map(str, options.seeds))}.")
    arms = {name: ARMS[name] for name in options.arms if name in ARMS}
    errors += running_errors(options, arms, ("seed", "task_order", "output_dir")) + out_errors(options.out)
    if options.pictures and not options.write:
        errors.append("`--pictures` needs `--write`, the file that shows them.")
    if errors:
        raise ValueError("\n".join(errors))


def _command(options: argparse.Namespace) -> str:
    """Return the command line that makes the same table."""
    words = ["sefe", "minicoin", "table", "--arms", *options.arms, "--seeds", *map(str, options.seeds)]
    words += ["--orders", *options.orders]
    if options.against:
        words += ["--against", options.against]
    if options.settings:
        words += ["--set", *options.settings]
    return shlex.join([*words, "--out", str(options.out)])
