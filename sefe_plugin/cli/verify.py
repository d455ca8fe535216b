# ruff: noqa: T201 - a command prints
"""`sefe verify`: whether a run folder still holds what it says."""

import argparse
import logging
from pathlib import Path


_STATES = {True: "ok  ", False: "FAIL", None: "?   "}


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `verify` to the subcommands of `sefe`."""
    verify = commands.add_parser(
        "verify", help="check a run folder: its inputs, weights, key elements, scores, report and merged models"
    )
    verify.add_argument("run_folder", type=Path, metavar="RUN", help="run folder: the `output_dir` of a sequence")
    verify.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> None:
    logging.disable(logging.WARNING)  # the host's notes on loading
    try:
        from sefe_plugin.hosts.llamafactory.verify import check_models
        from sefe_plugin.run.verify import verify_run

        counts = dict.fromkeys(_STATES, 0)
        for finding in verify_run(options.run_folder, check_models):
            counts[finding.state] += 1
            print(_STATES[finding.state], finding.where, finding.what, flush=True)
    finally:
        logging.disable(logging.NOTSET)
    unchecked = f", {counts[None]} could not be checked" if counts[None] else ""
    if counts[False]:
        raise ValueError(f"{options.run_folder}: {counts[False]} of {sum(counts.values())} checks failed{unchecked}.")
    print(f"{options.run_folder}: {counts[True]} checks passed{unchecked}.")
