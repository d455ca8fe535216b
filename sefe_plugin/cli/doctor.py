# ruff: noqa: T201 - a command prints
"""`sefe doctor`: whether this machine and this environment can run sequences."""

import argparse
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `doctor` to the subcommands of `sefe`."""
    doctor = commands.add_parser("doctor", help="check versions, devices, disk and environment, and say what to mend")
    doctor.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="where runs are to be written (default: here)",
    )
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    """Print one line for each finding; return 1 if one of them is a fault."""
    counts = Counter()
    for check in _checks(options.folder):
        counts[check.level] += 1
        print(f"{check.level:<8} {check.name:<14} {check.text}", flush=True)
    print(f"{counts['ok']} ok, {counts['warning']} to look at, {counts['fault']} to mend.")
    return 1 if counts["fault"] else 0


def _checks(folder: Path) -> Iterator:
    from sefe_plugin.hosts.llamafactory import doctor
    from sefe_plugin.machine import Check, disk_checks, hub_checks, memory_checks

    for name, look in {
        "disk": partial(disk_checks, folder),
        "memory": memory_checks,
        "hub": hub_checks,
        "versions": doctor.version_checks,
        "environment": doctor.environment_checks,
        "trials": doctor.trial_checks,
    }.items():
        try:
            yield from look()
        except Exception as error:  # a broken package may raise anything, and the other checks still say more
            advice = "Mend that package, or install the plugin in a new environment."
            yield Check("fault", name, f"this cannot be checked: {type(error).__name__}: {error}. {advice}")
