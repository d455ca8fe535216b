# ruff: noqa: T201 - a command prints
"""CoIN's commands: `sefe coin prepare`, and `sefe judge` for the predictions of its tasks."""

import argparse
import sys
from functools import partial
from pathlib import Path


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `judge`, and `coin` with `prepare` to the subcommands of `sefe`."""
    from sefe_plugin.benchmarks.coin.sources import VARIANTS

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

    coin = commands.add_parser("coin", help="prepare the benchmark CoIN")
    coin_commands = coin.add_subparsers(required=True, metavar="COMMAND")
    prepare = coin_commands.add_parser("prepare", help="check CoIN's files and write datasets; images are not copied")
    prepare.add_argument("source", type=Path, metavar="SOURCE", help="CoIN's or CoIN-ASD's files as downloaded")
    prepare.add_argument("--out", type=Path, required=True, help="where to write; `dataset_dir` of the recipes")
    prepare.add_argument("--images", type=Path, help="where the records' image paths lead (default: SOURCE)")
    prepare.add_argument(
        "--variant", choices=VARIANTS, default="original", help="training data to take (default: original)"
    )
    prepare.add_argument("--max-test", type=int, metavar="N", help="draw N test records of each task")
    prepare.add_argument(
        "--train-share", type=float, default=1.0, metavar="X", help="draw this share of the training data"
    )
    prepare.add_argument("--seed", type=int, default=42, help="draws the subsets (default: 42)")
    prepare.add_argument("--skip-broken", action="store_true", help="leave out records at fault, or whose image is")
    prepare.set_defaults(run=_prepare)


def _judge(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from sefe_plugin.benchmarks.coin.judge import judge_file, open_judge

    out = options.out or options.file.with_suffix(".judged.jsonl")
    ask = open_judge(options.model, options.base_url)
    result = judge_file(options.task, options.file, out, options.model, ask, options.workers, tqdm)
    print(result, flush=True)
    print(f"{options.task}: knowledge capability {result} by {options.model}; judgements: {out}", file=sys.stderr)


def _prepare(options: argparse.Namespace) -> None:
    from sefe_plugin.benchmarks.coin.convert import FAULTS_FILE, prepare_coin

    prepare_coin(
        options.source,
        options.out,
        images=options.images,
        variant=options.variant,
        max_test=options.max_test,
        train_share=options.train_share,
        seed=options.seed,
        skip_broken=options.skip_broken,
        say=partial(print, flush=True),
    )
    if (options.out / FAULTS_FILE).is_file():
        print(f"Left out: see {options.out / FAULTS_FILE}")
    print(f"CoIN is ready in {options.out}: llamafactory-cli train RECIPE.yaml with `dataset_dir: {options.out}`")
