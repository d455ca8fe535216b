# ruff: noqa: T201 - a command prints
"""`sefe report`: what a run was worth, and runs side by side."""

import argparse
from pathlib import Path


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `report` to the subcommands of `sefe`."""
    report = commands.add_parser("report", help="print the table of one run, or compare several")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder: the `output_dir` of a sequence")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from sefe_plugin.evaluation.report_text import format_report, format_table

    reports = {str(run): _read_report(run) for run in options.runs}
    if len(reports) == 1:
        ((run, report),) = reports.items()
        print(format_report(report, run))
    else:
        print(format_table(reports))


def _read_report(run: Path) -> dict:
    """Return the report of a run, or of what is complete of it."""
    from sefe_plugin.evaluation.report import REPORT_FILE, load_report
    from sefe_plugin.run.folder import RunFolder
    from sefe_plugin.run.reporting import run_report

    folder = RunFolder(run)
    manifest = folder.read_manifest()
    names = [task["name"] for task in manifest["recipe"]["tasks"]] if manifest else []
    # that of an unfinished run may be of a task before
    if manifest is None or (len(manifest["complete"]) == len(names) and (run / REPORT_FILE).is_file()):
        return load_report(run)
    return run_report(folder, names)
