# ruff: noqa: T201 - a command prints
"""CoIN's command `sefe judge`, for the predictions of its tasks."""

import argparse
import sys
from pathlib import Path


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `judge` to the subcommands of `sefe`."""
    judge = commands.add_parser(
        "judge", help="have a language model rate a file of CoIN's predictions (key: OPENAI_API_KEY)"
    )
    judge.add_argument("task", metavar="TASK", help="task of CoIN")
    judge.add_argument("file", type=Path, metavar="FILE.jsonl", help="predictions/TASK.jsonl of a run")
    judge.add_argument("--model", required=True, help="the judge's name on the server; CoIN's is Qwen1.5-32B-Chat")
    judge.add_argument("--base-url", help="address of an OpenAI-compatible server (default: OPENAI_BASE_URL)")
    judge.add_argument("--out", type=Path, help="where the judgements go (default: beside FILE, as .judged.jsonl)")
    judge.add_argument("--workers", type=int, default=8, help="requests at a time (default: 8)")
    judge.set_defaults(run=_judge)


def _judge(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from sefe_plugin.benchmarks.coin.judge import judge_file
    from sefe_plugin.evaluation.judging import open_judge

    out = options.out or options.file.with_suffix(".judged.jsonl")
    ask = open_judge(options.model, options.base_url, needs_key=True)
    result = judge_file(options.task, options.file, out, options.model, ask, options.workers, tqdm)
    print(result, flush=True)
    print(f"{options.task}: knowledge capability {result} by {options.model}; judgements: {out}", file=sys.stderr)
