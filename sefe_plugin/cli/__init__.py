"""The command `sefe`: what does not belong to a training run itself."""

import argparse
import sys

import sefe_plugin.cli.asd as asd_cli
import sefe_plugin.cli.clean as clean_cli
import sefe_plugin.cli.compare as compare_cli
import sefe_plugin.cli.completion as completion_cli
import sefe_plugin.cli.doctor as doctor_cli
import sefe_plugin.cli.export as export_cli
import sefe_plugin.cli.init as init_cli
import sefe_plugin.cli.keys as keys_cli
import sefe_plugin.cli.new as new_cli
import sefe_plugin.cli.plan as plan_cli
import sefe_plugin.cli.report as report_cli
import sefe_plugin.cli.score as score_cli
import sefe_plugin.cli.status as status_cli
import sefe_plugin.cli.table as table_cli
import sefe_plugin.cli.verify as verify_cli
from sefe_plugin.benchmarks import add_commands
from sefe_plugin.cli.examples import add_examples
from sefe_plugin.cli.versions import PrintVersions


#: The modules of the commands, in the order of a newcomer's way.
_MODULES = (
    doctor_cli,
    init_cli,
    new_cli,
    plan_cli,
    status_cli,
    report_cli,
    score_cli,
    verify_cli,
    export_cli,
    clean_cli,
    compare_cli,
    asd_cli,
    keys_cli,
)


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
    if "run" not in options:
        parser.print_help()
        return 0
    try:
        return options.run(options) or 0
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sefe",
        description="Helpers of sefe-plugin. Training itself: llamafactory-cli train RECIPE.yaml",
        epilog="The way: sefe new mine.yaml, sefe plan mine.yaml, llamafactory-cli train mine.yaml, sefe report "
        "runs/mine. Each command has help of its own: sefe COMMAND --help",
    )
    parser.add_argument("--version", action=PrintVersions, help="print the versions of the plugin and its hosts")
    commands = parser.add_subparsers(metavar="COMMAND")
    for module in _MODULES:
        module.add_command(commands)
    completion_cli.add_command(commands, parser)
    groups = add_commands(commands)
    table_cli.add_command(groups["minicoin"])
    add_examples(parser)
    return parser
