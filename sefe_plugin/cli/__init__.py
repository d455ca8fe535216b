"""The command `sefe`: what does not belong to a training run itself."""

import argparse
import shutil
import sys
from pathlib import Path

import sefe_plugin.cli.asd as asd_cli
import sefe_plugin.cli.compare as compare_cli
import sefe_plugin.cli.doctor as doctor_cli
import sefe_plugin.cli.plan as plan_cli
import sefe_plugin.cli.score as score_cli
import sefe_plugin.cli.table as table_cli
import sefe_plugin.cli.verify as verify_cli
from sefe_plugin.benchmarks import add_commands
from sefe_plugin.files import shipped_folder


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: command line without the program's name; the process's own by default.

    Returns:
        The exit status: 0, or 1 after a message.
    """
    try:
        parser = _parser()
    except ImportError as error:
        print(f"{error}. Install the plugin with what it needs: pip install sefe-plugin", file=sys.stderr)
        return 1
    options, rest = parser.parse_known_args(arguments)
    # argparse takes `key=value` of `sefe plan` before its options only
    if rest and not ("overrides" in options and all(word.partition("=")[0].isidentifier() for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    try:
        return options.run(options) or 0
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sefe",
        description="Helpers of sefe-plugin. Training itself: llamafactory-cli train RECIPE.yaml",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="write the recipes, prompts and docs into a folder")
    init.add_argument(
        "folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="where to write (default: here)"
    )
    init.set_defaults(run=_init)

    report = commands.add_parser("report", help="print the table of one run, or compare several")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder: the `output_dir` of a sequence")
    report.set_defaults(run=_report)

    compare_cli.add_command(commands)
    verify_cli.add_command(commands)

    keys = commands.add_parser("keys", help="print the table of the plugin's recipe keys")
    keys.set_defaults(run=_keys)

    plan_cli.add_commands(commands)
    doctor_cli.add_command(commands)
    asd_cli.add_commands(commands)
    score_cli.add_command(commands)
    groups = add_commands(commands)
    table_cli.add_command(groups["minicoin"])
    return parser


def _init(options: argparse.Namespace) -> None:
    """Copy the shipped folders; refuse to overwrite a file that differs, before anything is written."""
    copies, differing = [], []
    for name in ("recipes", "data_templates", "docs"):
        source = shipped_folder(name)
        for file in sorted(file for file in source.rglob("*") if file.is_file()):
            target = options.folder / name / file.relative_to(source)
            copies.append((file, target))
            if target.exists() and target.read_bytes() != file.read_bytes():
                differing.append(target)
    if differing:
        raise ValueError("These files exist and differ; move them away first:\n" + "\n".join(map(str, differing)))
    for file, target in copies:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    print(*(target for _, target in copies), sep="\n")


def _keys(options: argparse.Namespace) -> None:
    from sefe_plugin.recipe.key_table import key_table

    print(key_table(), end="")


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
    if manifest is None or (run / REPORT_FILE).is_file():
        return load_report(run)
    return run_report(folder, [task["name"] for task in manifest["recipe"]["tasks"]])
