# ruff: noqa: T201 - a command prints
"""`sefe --version`: the plugin and what it builds on, read from what is installed, without importing any of it."""

import argparse
from importlib import metadata


#: Those whose versions decide what a run does.
_PACKAGES = ("sefe-plugin", "llamafactory", "transformers", "peft", "torch")


class PrintVersions(argparse.Action):
    """Prints the versions and ends the program."""

    def __init__(self, option_strings, dest, help=None):
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        """Print one line."""
        print(versions())
        parser.exit()


def versions() -> str:
    """Return the plugin's version, and those of what it builds on in brackets.

    Example: sefe-plugin 0.1.0 (llamafactory 0.9.5, transformers 5.5.4, peft 0.18.1, torch 2.11.0)
    """
    own, *hosts = (f"{package} {_version(package)}" for package in _PACKAGES)
    return f"{own} ({', '.join(hosts)})"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "is not installed"
