# ruff: noqa: T201 - a command prints
"""`sefe init`: the README, recipes, prompts and docs that come with the plugin, written into a folder."""

import argparse
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from sefe_plugin.files import replacing, shipped_file, shipped_folder


_FOLDERS = ("recipes", "data_templates", "docs")


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `init` to the subcommands of `sefe`."""
    init = commands.add_parser("init", help="write the README, recipes, prompts and docs into a folder")
    init.add_argument(
        "folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="where to write (default: here)"
    )
    init.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> None:
    """Copy what is shipped; a file that differs from it is somebody's own, and stays as it is."""
    written, same, differing = [], [], []
    for source, name in _shipped():
        target = options.folder / name
        if not target.exists():
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)
            written.append(target)
        elif target.is_file() and target.read_bytes() == source.read_bytes():
            same.append(target)
        else:
            differing.append(target)
    there = f", {len(same)} are there already" if same else ""
    print(f"{options.folder}: {len(written)} files written{there}: README.md, {'/, '.join(_FOLDERS)}/.")
    if differing:
        print(f"{len(differing)} files differ from the plugin's and are left as they are; move them away for those:")
        print(*(f"  {target}" for target in differing), sep="\n")
    here = "" if options.folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(options.folder))} && "
    print("\nNext:")
    print(f"  {here}llamafactory-cli train recipes/minicoin_sefe.yaml   # eight small tasks, on any CPU")
    print(f"  {here}sefe new                                            # a recipe for tasks of your own")


def _shipped() -> Iterator[tuple[Path, Path]]:
    """Yield each file that is shipped, and its name in the folder."""
    yield shipped_file("README.md"), Path("README.md")
    for name in _FOLDERS:
        source = shipped_folder(name)
        for file in sorted(file for file in source.rglob("*") if file.is_file()):
            yield file, name / file.relative_to(source)
