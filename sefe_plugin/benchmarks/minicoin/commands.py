"""Mini-CoIN's commands: `sefe minicoin data` and `sefe minicoin build`."""

import argparse
from pathlib import Path


def add_commands(commands: argparse._SubParsersAction) -> argparse._SubParsersAction:
    """Add `minicoin` with `data` and `build` to the subcommands of `sefe`; return its own subcommands."""
    minicoin = commands.add_parser("minicoin", help="write, build or compare the embedded benchmark mini-CoIN")
    minicoin_commands = minicoin.add_subparsers(required=True, metavar="COMMAND")
    data = minicoin_commands.add_parser("data", help="write the benchmark's images and datasets")
    data.add_argument("folder", type=Path, metavar="FOLDER", help="where to write")
    data.add_argument("--seed", type=int, default=42, help="draws the samples (default: 42)")
    data.add_argument(
        "--general", action="store_true", help="also write minicoin_general_test, questions that the base can answer"
    )
    data.set_defaults(run=_data)
    build = minicoin_commands.add_parser("build", help="pre-train the tiny base model from nothing (long)")
    build.add_argument("folder", type=Path, metavar="FOLDER", help="where to write")
    build.add_argument("--seed", type=int, default=0, help="draws weights and samples (default: 0)")
    build.set_defaults(run=_build)
    return minicoin_commands


def _data(options: argparse.Namespace) -> None:
    from sefe_plugin.benchmarks.minicoin.data import write_data

    write_data(options.folder, options.seed)
    if options.general:
        from sefe_plugin.benchmarks.minicoin.general import add_general

        add_general(options.folder, options.seed)


def _build(options: argparse.Namespace) -> None:
    from sefe_plugin.benchmarks.minicoin.pretrain import build

    build(options.folder, seed=options.seed)
