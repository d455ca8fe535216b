# ruff: noqa: T201 - a command prints
"""The command `sefe prepare`: the published files of a benchmark, checked and turned into datasets."""

import argparse
from functools import partial
from pathlib import Path


#: Benchmarks that have published files -> what they are.
PUBLISHED = ("coin", "ucit", "dcl", "trigap")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `prepare` to the subcommands of `sefe`."""
    prepare = commands.add_parser(
        "prepare", help="check a benchmark's published files and write datasets; images are not copied"
    )
    prepare.add_argument("benchmark", choices=PUBLISHED, metavar="BENCHMARK", help=f"one of {', '.join(PUBLISHED)}")
    prepare.add_argument("source", type=Path, metavar="SOURCE", help="its files as downloaded")
    prepare.add_argument("--out", type=Path, required=True, help="where to write; `dataset_dir` of the recipes")
    prepare.add_argument("--images", type=Path, help="where the records' image paths lead (default: in SOURCE)")
    prepare.add_argument("--variant", help="of coin: original, diverse, 10type, asd10 to asd80 (default: original)")
    prepare.add_argument("--max-test", type=int, metavar="N", help="draw N test records of each task")
    prepare.add_argument(
        "--train-share", type=float, default=1.0, metavar="X", help="draw this share of the training data"
    )
    prepare.add_argument("--seed", type=int, default=42, help="draws the subsets (default: 42)")
    prepare.add_argument("--skip-broken", action="store_true", help="leave out records at fault, or whose image is")
    prepare.add_argument("--drop-duplicates", action="store_true", help="leave out records that stand there twice")
    prepare.add_argument(
        "--drop-shared", action="store_true", help="leave out training records whose image is in the test set"
    )
    prepare.set_defaults(run=_prepare)


def _prepare(options: argparse.Namespace) -> None:
    from sefe_plugin.benchmarks import load_benchmark
    from sefe_plugin.benchmarks.published.convert import FAULTS_FILE, Choice, prepare

    published = load_benchmark(options.benchmark).published
    choice = Choice(
        options.max_test,
        options.train_share,
        options.seed,
        options.skip_broken,
        options.drop_duplicates,
        options.drop_shared,
    )
    prepare(
        published,
        options.source,
        options.out,
        images=options.images,
        variant=options.variant,
        choice=choice,
        say=partial(print, flush=True),
    )
    if (options.out / FAULTS_FILE).is_file():
        print(f"Left out: see {options.out / FAULTS_FILE}")
    print(
        f"{published.title} is ready in {options.out}: llamafactory-cli train RECIPE.yaml with `dataset_dir: "
        f"{options.out}`"
    )
