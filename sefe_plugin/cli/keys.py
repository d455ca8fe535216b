# ruff: noqa: T201 - a command prints
"""`sefe keys`: the table of the plugin's recipe keys."""

import argparse


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `keys` to the subcommands of `sefe`."""
    keys = commands.add_parser("keys", help="print the table of the plugin's recipe keys")
    keys.set_defaults(run=_keys)


def _keys(options: argparse.Namespace) -> None:
    from sefe_plugin.recipe.key_table import key_table

    print(key_table(), end="")
