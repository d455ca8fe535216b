"""The page "Reproducing the paper": its commands exist, and its numbers agree with each other."""

import argparse
import itertools
import re
import shlex
from pathlib import Path

import pytest

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.benchmarks.coin import commands as coin_cli
from sefe_plugin.benchmarks.coin.tasks import COIN, TASKS
from sefe_plugin.benchmarks.published import commands as published_cli
from sefe_plugin.benchmarks.score_file import MODES
from sefe_plugin.cli import plan as plan_cli
from sefe_plugin.cli import score as score_cli
from sefe_plugin.recipe.options import plugin_keys


ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reproducing.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
COIN_PART, OTHERS = PAGE.split("## 8. ")
TABLE = [line for line in COIN_PART.splitlines() if re.match(r"\|.*\| -\d+\.\d\d \|$", line)]
ROWS = [re.split(r"\s*\|\s*", line.strip("| ")) for line in TABLE]


@pytest.mark.parametrize(
    "line", [line for line in COMMANDS if re.search(r"\bsefe (prepare|plan|score|judge)\b", line)]
)
def test_commands_are_understood(line):
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    coin_cli.add_commands(commands)
    published_cli.add_commands(commands)
    plan_cli.add_command(commands)
    score_cli.add_command(commands)
    words = shlex.split(line)
    options = parser.parse_args(words[words.index("sefe") + 1 :])
    if "recipe" in options:
        assert (ROOT / options.recipe).is_file()
    if task := getattr(options, "task", None) or getattr(options, "target", None):
        assert task in [task.name for task in TASKS]
        assert options.file.stem == task
    if getattr(options, "mode", None):
        assert options.mode in MODES


@pytest.mark.parametrize("line", [line for line in COMMANDS if "llamafactory-cli" in line])
def test_recipes_and_their_overrides_exist(line):
    recipe, *overrides = shlex.split(line.split("llamafactory-cli train")[1])
    assert (ROOT / recipe).is_file()
    assert all(override.split("=")[0] in (*plugin_keys(), "output_dir") for override in overrides)


def test_every_variant_is_named():
    for variant in COIN.variants:
        assert variant.removeprefix("asd") in PAGE


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_papers_metrics_follow_from_its_accuracies(row):
    *accuracies, mft, mfn, _, bwt = map(float, row[1:])
    assert len(accuracies) == len(TASKS)
    # All are rounded to two decimals.
    assert sum(accuracies) / 8 == pytest.approx(mfn, abs=0.0101)
    assert mfn - mft == pytest.approx(bwt, abs=0.0101)


def test_the_table_is_whole():
    assert [row[0] for row in ROWS] == ["full fine-tuning", "LoRA", "LoRA + ASD", "SEFE"]


def rows_of(head: str) -> dict[str, list[float]]:
    """The rows of the table on UCIT or MLLM-DCL with this head: method -> its numbers."""
    lines = OTHERS.splitlines()
    start = lines.index(head) + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    cells = (re.split(r"\s*\|\s*", line.strip("| ")) for line in rows)
    return {name: [float(value) for value in values] for name, *values in cells}


def test_the_table_of_ucit_agrees_with_itself():
    rows = rows_of("| method | ImageNet-R | ArxivQA | VizWiz | IconQA | CLEVR-Math | Flickr30k | MFN |")
    for *accuracies, mfn in rows.values():
        assert sum(accuracies) / len(load_benchmark("ucit").tasks) == pytest.approx(mfn, abs=0.0101)
    assert rows['"SEFE", RegLoRA alone'][-1] == 66.54


def test_the_table_of_dcl_agrees_with_itself_and_its_denominator():
    rows = rows_of("| method | RS | Med | AD | Sci | Fin | MFT | MFN | MAA | BWT (T-1) |")
    for *accuracies, mft, mfn, _, bwt in rows.values():
        assert sum(accuracies) / len(load_benchmark("dcl").tasks) == pytest.approx(mfn, abs=0.0101)
        # the two means are rounded, and their difference is multiplied by 5 / 4
        assert (mfn - mft) * 5 / 4 == pytest.approx(bwt, abs=0.0176)
    assert rows['"SEFE", RegLoRA alone'][-3] == 58.51


def test_all_recipes_of_both_are_named():
    files = [file.name for name in ("ucit", "dcl") for file in (ROOT / "recipes").glob(f"{name}_*.yaml")]
    assert len(files) == 10
    assert all(f"`{name}`" in OTHERS for name in files)
