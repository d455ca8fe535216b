# ruff: noqa: T201 - a command prints
"""`sefe --version`: the plugin and what it builds on."""

import argparse

from sefe_plugin.versions import in_words, installed_versions


class PrintVersions(argparse.Action):
    """Prints the versions and ends the program."""

    def __init__(self, option_strings, dest, help=None):
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        """Print one line."""
        print(in_words(installed_versions()))
        parser.exit()
