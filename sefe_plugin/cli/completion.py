# ruff: noqa: T201 - a command prints
"""`sefe completion`: a script that lets a shell complete commands, options and names of files."""

import argparse
from pathlib import Path


_SHELLS = ("bash", "zsh", "fish")


def add_command(commands: argparse._SubParsersAction, whole: argparse.ArgumentParser) -> None:
    """Add `completion` to the subcommands of `sefe`.

    Args:
        commands: The subcommands.
        whole: The parser that has them all when the script is printed.
    """
    completion = commands.add_parser(
        "completion",
        help="print a script that completes `sefe` in a shell",
        description='Print a script that completes `sefe` in a shell. bash: put eval "$(sefe completion bash)" into '
        "~/.bashrc. zsh: sefe completion zsh > a file _sefe in a folder of $fpath. fish: sefe completion fish > "
        "~/.config/fish/completions/sefe.fish",
    )
    completion.add_argument("shell", choices=_SHELLS, help="the shell to write for")
    completion.set_defaults(run=lambda options: print(script(options.shell, whole)))


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return what a shell has to run.

    Args:
        shell: "bash", "zsh" or "fish".
        parser: Of all commands.

    Raises:
        ValueError: If shtab, which comes with LLaMA-Factory, is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ValueError(f"{error}. It comes with LLaMA-Factory: pip install shtab") from error
    _complete_paths(parser, shtab)
    return shtab.complete(parser, shell)


def _complete_paths(parser: argparse.ArgumentParser, shtab) -> None:
    """Let the shell complete what is the name of a file or of a folder."""
    folders = ("FOLDER", "DIR", "RUN")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command, shtab)
        elif action.metavar in folders or action.dest.endswith("_dir"):
            action.complete = shtab.DIRECTORY
        elif action.type is Path or action.dest == "recipes":
            action.complete = shtab.FILE
