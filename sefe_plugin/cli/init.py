# ruff: noqa: T201 - a command prints
"""`sefe init`: the recipes, prompts and docs that come with the plugin, written into a folder."""

import argparse
import shutil
from pathlib import Path

from sefe_plugin.files import shipped_folder


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `init` to the subcommands of `sefe`."""
    init = commands.add_parser("init", help="write the recipes, prompts and docs into a folder")
    init.add_argument(
        "folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="where to write (default: here)"
    )
    init.set_defaults(run=_init)


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
