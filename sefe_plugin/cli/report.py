# ruff: noqa: T201 - a command prints
"""`sefe report`: what a run was worth, and runs side by side."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path


#: Stands for the page in the folder of the only run.
_IN_THE_RUN = ""


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `report` to the subcommands of `sefe`."""
    report = commands.add_parser("report", help="print the table of one run, or compare several")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder: the `output_dir` of a sequence")
    report.add_argument(
        "--html",
        nargs="?",
        const=_IN_THE_RUN,
        metavar="FILE",
        help="write a page with all answers instead, here; for one run by default its report.html",
    )
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from sefe_plugin.evaluation.report_text import format_ledgers, format_report, format_table

    if options.html == _IN_THE_RUN and len(options.runs) > 1:
        raise ValueError("`--html` needs a file where there are several runs: sefe report A B --html FILE.")
    reports = {str(run): _read_report(run) for run in options.runs}
    if options.html is not None:
        print(_write_page(options.html, options.runs, reports))
    elif len(reports) == 1:
        ((run, report),) = reports.items()
        print(format_report(report, run))
    else:
        print(format_table(reports))
        if times := format_ledgers(reports):
            print(times)


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


def _write_page(file: str, runs: Sequence[Path], reports: Mapping[str, dict]) -> Path:
    """Write the page of one run or several, and return where it is."""
    from sefe_plugin.evaluation.html_report.content import PageRun
    from sefe_plugin.evaluation.report import PAGE_FILE, write_page
    from sefe_plugin.run.details import run_details
    from sefe_plugin.run.folder import RunFolder

    target = Path(file) if file != _IN_THE_RUN else runs[0] / PAGE_FILE
    found = [PageRun(str(run), reports[str(run)], run_details(RunFolder(run))) for run in runs]
    title = str(runs[0]) if len(runs) == 1 else f"{len(runs)} runs compared"
    write_page(target, title, found)
    return target
