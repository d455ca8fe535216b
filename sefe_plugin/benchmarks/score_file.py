"""Score the predictions of one task of a benchmark from a file, without the model.

Example: ``score_file("Med", Path("Med.jsonl"), "official", "dcl")`` is what MLLM-DCL's script makes of the file.

A row holds `prediction` and what the task's test record offers: `answer`, or what the scorer of the task reads in its
place (docs/scorers.md); for CoIN's Grounding also `size`, for its ScienceQA `num_choices`, for its TextVQA `answers`,
ten of them (the clean mode also takes one `answer`). A run writes such files to `predictions/<Task>.jsonl`, and scores
them by the same rules in both modes.

Two modes:
  - `official`: the official script's accuracy with all its quirks (`sefe_plugin.benchmarks.coin.official` and
    `sefe_plugin.benchmarks.official`);
  - `clean`: the strict rules of `sefe_plugin.evaluation.scorers`. For CoIN they mend these quirks:
      - ScienceQA: "B.", "(B)" and "B: text" count as B; a letter inside a sentence is a lost format, not an answer.
      - TextVQA: all periods are taken out, not the first 32; an answer in a wrong format may still be one of the ten.
      - ImageNet: the whole name must be there, so an empty answer or a part of a name is wrong; case, hyphens, a
        leading article and a final period do not matter.
      - GQA, VizWiz, VQAv2, OCR-VQA: outer blanks and one final period do not matter, nor does case on either side.
      - OCR-VQA: "Unanswerable" is an answer like any other.
      - Grounding: all four numbers are read whole; a box needs its brackets and corners in order.
      - all tasks: every row counts once, with its own answer.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sefe_plugin.benchmarks import benchmark_names, load_benchmark, official_rule
from sefe_plugin.benchmarks.base import BenchmarkTask
from sefe_plugin.benchmarks.official import CAPTION
from sefe_plugin.evaluation.captions import references_of
from sefe_plugin.evaluation.scorers import score_predictions, scorer_of
from sefe_plugin.json_lines import numbered_records
from sefe_plugin.words import near


OFFICIAL, CLEAN = MODES = ("official", "clean")

#: Rows at fault that a message shows.
_SHOWN = 5


class FileScore(NamedTuple):
    """What a file of predictions is worth.

    Attributes:
        accuracy: In percent; that of captions may exceed 100.
        formatted: Share of answers in the task's format, in percent, the same in both modes; None where format cannot
            be told from content.
        count: Number of rows.
    """

    accuracy: float
    formatted: float | None
    count: int


def read_rows(file: Path) -> Iterator[tuple[int, dict]]:
    """Yield the rows of a JSONL file of predictions with their line numbers, from 1; pass over empty lines.

    Raises:
        ValueError: If a line is no JSON object with a text as `prediction`; names the line.
    """
    for number, row in numbered_records(file):
        if not isinstance(row, dict) or not isinstance(row.get("prediction"), str):
            raise ValueError(f"{file}, line {number}: needs a text as 'prediction', got {json.dumps(row)[:200]}")
        yield number, row


def score_file(task: str, file: Path, mode: str, benchmark: str = "coin") -> FileScore:
    """Score a file of predictions.

    Args:
        task: One of the benchmark's tasks.
        file: JSONL, one row per test record.
        mode: One of `MODES`.
        benchmark: One of `benchmark_names()`.

    Raises:
        ValueError: For an unknown task, mode or benchmark, a task without an official rule, an empty file, or rows
            that lack what the task needs, or in clean mode whose gold answer no answer could match; names file, lines
            and fields.
    """
    known = _task(task, benchmark)
    if mode not in MODES:
        raise ValueError(f"the mode must be one of {', '.join(MODES)}; got {mode!r}.")
    if mode == OFFICIAL and known.official is None:
        raise ValueError(f"{benchmark} has no official rule for {task}. Use `--mode {CLEAN}`.")
    rule = official_rule(known.official) if mode == OFFICIAL else None
    numbered = list(read_rows(file))
    if not numbered:
        raise ValueError(f"{file} holds no predictions.")
    rows = [row for _, row in numbered]
    check = scorer_of(known.scorer).check if rule is None else _check_of(known.official, rule)
    faults = []
    for number, row in numbered:
        try:
            check(row)
        except ValueError as error:
            faults.append(f"{file}, line {number}: a row of {task}: {error}.")
    if len(faults) > _SHOWN:
        faults[_SHOWN:] = [f"{file}: {len(faults) - _SHOWN} more rows are at fault."]
    if faults:
        raise ValueError("\n".join(faults))
    try:
        clean = score_predictions(known.scorer, [row["prediction"] for row in rows], rows)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return FileScore(clean.accuracy if rule is None else rule(rows), clean.format, len(rows))


def _task(name: str, benchmark: str) -> BenchmarkTask:
    if benchmark not in benchmark_names():
        known = ", ".join(benchmark_names())
        raise ValueError(
            f"the benchmark must be one of {known}; got {benchmark!r}.{near(benchmark, benchmark_names())}"
        )
    tasks = {task.name: task for task in load_benchmark(benchmark).tasks}
    if name not in tasks:
        raise ValueError(f"the task must be one of {', '.join(tasks)}; got {name!r}.{near(name, tasks)}")
    return tasks[name]


def _check_of(name: str, rule: Callable[[Sequence[Mapping]], float]) -> Callable[[Mapping], object]:
    """Return what raises where a row lacks what an official rule needs; captions are scored all together."""
    return references_of if name.endswith(f":{CAPTION}") else lambda row: rule([row])
