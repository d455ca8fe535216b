"""Score the predictions of one of CoIN's tasks from a file, without the model.

A row holds `prediction` and what the task's test record offers: `answer`; for Grounding `answer_bbox` and `size`; for
ScienceQA `answer` as a letter and `num_choices`; for TextVQA `answers`, ten of them (the clean mode also takes one
`answer`). A run writes such files to `predictions/<Task>.jsonl`, and scores them by the same rules in both modes.

Two modes:
  - `official`: the official scripts' accuracy with all their quirks (`sefe_plugin.benchmarks.coin.official`);
  - `clean`: the strict rules of `sefe_plugin.evaluation.scorers`, which mend these quirks:
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
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from sefe_plugin.benchmarks.coin import TASKS
from sefe_plugin.benchmarks.coin.official import OFFICIAL, official_accuracy
from sefe_plugin.evaluation.scorers import SCORERS, Score
from sefe_plugin.json_lines import numbered_records


MODES = ("official", "clean")

_SCORER = {task.name: SCORERS[task.scorer] for task in TASKS}
#: Task -> clean rule of a prediction and its test record.
CLEAN: dict[str, Callable[[str, Mapping], Score]] = {name: scorer.rule for name, scorer in _SCORER.items()}
#: Rows at fault that a message shows.
_SHOWN = 5


class FileScore(NamedTuple):
    """What a file of predictions is worth.

    Attributes:
        accuracy: In percent.
        formatted: Share of answers in the task's format, in percent; the same in both modes.
        count: Number of rows.
    """

    accuracy: float
    formatted: float
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


def score_file(task: str, file: Path, mode: str) -> FileScore:
    """Score a file of predictions.

    Args:
        task: One of CoIN's tasks, a key of `CLEAN`.
        file: JSONL, one row per test record.
        mode: One of `MODES`.

    Raises:
        ValueError: For an unknown task or mode, an empty file, or rows that lack what the task needs, or in clean mode
            whose gold answer no answer could match; names file, lines and fields.
    """
    if task not in CLEAN:
        raise ValueError(f"the task must be one of {', '.join(CLEAN)}; got {task!r}.")
    if mode not in MODES:
        raise ValueError(f"the mode must be one of {', '.join(MODES)}; got {mode!r}.")
    rows, scores, faults = [], [], []
    for number, row in read_rows(file):
        try:
            if mode == "official":
                OFFICIAL[task](row["prediction"], row)
            else:
                _SCORER[task].check(row)
            scores.append(CLEAN[task](row["prediction"], row))
        except ValueError as error:
            faults.append(f"{file}, line {number}: a row of {task}: {error}.")
        rows.append(row)
    if len(faults) > _SHOWN:
        faults[_SHOWN:] = [f"{file}: {len(faults) - _SHOWN} more rows are at fault."]
    if faults:
        raise ValueError("\n".join(faults))
    if not rows:
        raise ValueError(f"{file} holds no predictions.")
    count = len(rows)
    accuracy = (
        official_accuracy(task, rows) if mode == "official" else 100 * math.fsum(s.correct for s in scores) / count
    )
    return FileScore(accuracy, 100 * sum(score.formatted for score in scores) / count, count)
