# ruff: noqa: T201 - a command prints
"""`sefe status`: where a run is, also while it is at work."""

import argparse
import json
from pathlib import Path


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `status` to the subcommands of `sefe`."""
    status = commands.add_parser("status", help="print where a run is, how fast it is, and when it will be done")
    status.add_argument("run_folder", type=Path, metavar="RUN", help="run folder: the `output_dir` of a sequence")
    status.add_argument("--json", action="store_true", help="print it as JSON")
    status.set_defaults(run=_status)


def _status(options: argparse.Namespace) -> None:
    from sefe_plugin.run.status import format_status, run_status

    status = run_status(options.run_folder)
    print(json.dumps(status, indent=2) if options.json else format_status(status))
