# ruff: noqa: T201 - a command prints
"""`sefe score`: what predictions are worth, computed again from their file."""

import argparse
import sys
from pathlib import Path


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds `score` to the subcommands of `sefe`."""
    score = commands.add_parser("score", help="score a file of predictions, without the model")
    score.add_argument("task", metavar="TASK", help="task of CoIN, such as ScienceQA or Grounding")
    score.add_argument("file", type=Path, metavar="FILE.jsonl", help="predictions/TASK.jsonl of a run")
    score.add_argument(
        "--mode",
        default="clean",
        help="official: equal to the official scripts; clean: their quirks mended (default: clean)",
    )
    score.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> None:
    from sefe_plugin.evaluation.score_file import score_file

    result = score_file(options.task, options.file, options.mode)
    # the accuracy alone goes to standard output, so that scripts can read it
    print(f"{result.accuracy:.4f}", flush=True)
    print(
        f"{options.task}, {options.mode}: accuracy {result.accuracy:.4f} %, "
        f"right format {result.formatted:.4f} %, {result.count} answers",
        file=sys.stderr,
    )
