# ruff: noqa: T201 - a command prints
"""`sefe coin prepare`: CoIN's published files as datasets for LLaMA-Factory."""

import argparse
from functools import partial
from pathlib import Path


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `coin` with `prepare` to the subcommands of `sefe`."""
    from sefe_plugin.benchmarks.coin.sources import VARIANTS

    coin = commands.add_parser("coin", help="the benchmark CoIN")
    coin_commands = coin.add_subparsers(required=True, metavar="COMMAND")
    prepare = coin_commands.add_parser("prepare", help="check CoIN's files and write datasets; images are not copied")
    prepare.add_argument("source", type=Path, metavar="SOURCE", help="CoIN's or CoIN-ASD's files as downloaded")
    prepare.add_argument("--out", type=Path, required=True, help="where to write; `dataset_dir` of the recipes")
    prepare.add_argument("--images", type=Path, help="where the records' image paths lead (default: SOURCE)")
    prepare.add_argument("--variant", choices=VARIANTS, default="original", help="which training data")
    prepare.add_argument("--max-test", type=int, metavar="N", help="draw N test records of each task")
    prepare.add_argument(
        "--train-share", type=float, default=1.0, metavar="X", help="draw this share of the training data"
    )
    prepare.add_argument("--seed", type=int, default=42, help="draws the subsets (default: 42)")
    prepare.add_argument("--skip-broken", action="store_true", help="leave out records with a missing or broken image")
    prepare.set_defaults(run=_prepare)


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
        print(f"Left out for their images: {options.out / FAULTS_FILE}")
    print(f"CoIN is ready in {options.out}: llamafactory-cli train RECIPE.yaml with `dataset_dir: {options.out}`")
