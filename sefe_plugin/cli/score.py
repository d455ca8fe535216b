# ruff: noqa: T201 - a command prints
"""The command `sefe score`: answers that are on disk, scored again without the model."""

import argparse
import sys
from pathlib import Path


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `score` to the subcommands of `sefe`."""
    score = commands.add_parser(
        "score",
        help="score answers again, without the model: those of a run, or one file of a benchmark's task",
        usage="sefe score RUN [--scorer TASK=NAME ...] | sefe score TASK FILE.jsonl [--benchmark NAME] [--mode MODE]",
    )
    score.add_argument("target", metavar="RUN | TASK", help="run folder; or a task, such as ScienceQA")
    score.add_argument("file", nargs="?", type=Path, metavar="FILE.jsonl", help="predictions/TASK.jsonl of a run")
    score.add_argument(
        "--scorer",
        action="append",
        default=[],
        metavar="TASK=NAME",
        help="of a run: another scorer for a task or retention set",
    )
    score.add_argument("--benchmark", metavar="NAME", help="of a file: the task's benchmark (default: coin)")
    score.add_argument(
        "--mode",
        help="of a file: official, equal to the official scripts; clean, their quirks mended (default: clean)",
    )
    score.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> None:
    for flag in ("mode", "benchmark"):
        if options.file is None and getattr(options, flag):
            raise ValueError(f"`--{flag}` is for a file: sefe score TASK FILE.jsonl --{flag} {flag.upper()}.")
    if options.file is not None and options.scorer:
        raise ValueError("`--scorer` is for a run: sefe score RUN --scorer TASK=NAME.")
    if options.file is None:
        _score_run(Path(options.target), options.scorer)
    else:
        _score_file(options.target, options.file, options.mode or "clean", options.benchmark or "coin")


def _score_run(run: Path, scorers: list[str]) -> None:
    from sefe_plugin.evaluation.report_text import format_report
    from sefe_plugin.evaluation.scorers import read_spec
    from sefe_plugin.run.rescoring import rescore_run

    for scorer in scorers:
        if "=" not in scorer:
            raise ValueError(f"`--scorer` must be TASK=NAME; got {scorer!r}.")
    pairs = (scorer.split("=", 1) for scorer in scorers)
    print(format_report(rescore_run(run, {task: read_spec(scorer) for task, scorer in pairs}), str(run)))
    if scorers:
        print("Change `scorer` in the recipe too: a run of it scores by what it says.", file=sys.stderr)


def _score_file(task: str, file: Path, mode: str, benchmark: str) -> None:
    from sefe_plugin.benchmarks.score_file import score_file

    result = score_file(task, file, mode, benchmark)
    # the accuracy alone goes to standard output, so that scripts can read it
    print(f"{result.accuracy:.4f}", flush=True)
    formatted = "" if result.formatted is None else f"right format {result.formatted:.4f} %, "
    print(f"{task}, {mode}: accuracy {result.accuracy:.4f} %, {formatted}{result.count} answers", file=sys.stderr)
