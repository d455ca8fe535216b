# ruff: noqa: T201 - a command prints
"""`sefe clean`: merged models of a run that no later task needs, removed."""

import argparse
import sys
from pathlib import Path


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `clean` to the subcommands of `sefe`."""
    clean = commands.add_parser(
        "clean", help="remove the merged models of a run that no later task needs; the last one stays"
    )
    clean.add_argument("run_folder", type=Path, metavar="RUN", help="run folder: the `output_dir` of a sequence")
    clean.add_argument("--yes", action="store_true", help="remove without a question")
    clean.set_defaults(run=_clean)


def _clean(options: argparse.Namespace) -> None:
    from sefe_plugin.run.folder import RunFolder, RunFolderError
    from sefe_plugin.run.spare import bytes_of_model, kept_model, remove_spare, spare_models
    from sefe_plugin.words import counted, size_in_words

    run = options.run_folder
    folder = RunFolder(run)
    manifest = folder.read_manifest()
    if manifest is None:
        raise RunFolderError(f"{run} holds no run. Name the `output_dir` of a sequence.")
    shown = spare_models(folder)
    if not shown:
        print(f"{run}: nothing to remove. {_why(manifest)}")
        return
    sizes = [bytes_of_model(model) for model in shown]
    for model, size in zip(shown, sizes, strict=True):
        print(f"{size_in_words(size):>10}  {model}")
    print(f"{size_in_words(sum(sizes)):>10}  in all. {kept_model(folder)} stays: it is the model of all tasks so far.")
    if not options.yes and not _agrees():
        print("Nothing was removed.")
        return
    with folder.lock():
        gone = remove_spare(folder, shown)
    print(
        f"Removed {counted(len(gone), 'merged model')}. {run} is as whole as before: `sefe verify {run}` knows of it."
    )


def _agrees() -> bool:
    """Ask on a terminal.

    Raises:
        ValueError: If there is none, so that nobody can answer.
    """
    if not sys.stdin.isatty():
        raise ValueError("Nothing was removed. Add --yes to remove what is listed.")
    return input("Remove them? [y/N] ").strip().lower() in ("y", "yes")


def _why(manifest: dict) -> str:
    carry = manifest["recipe"].get("carry")
    if carry != "merge":
        return f"`carry: {carry}` leaves no merged models; what its tasks leave is their result or part of it."
    return "Only the model of all tasks so far is there, or none yet."
