"""Everything that a page shows, as plain data."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sefe_plugin.answers.texts import in_words
from sefe_plugin.evaluation.html_report.choice import choose, shares
from sefe_plugin.evaluation.html_report.details import (
    LOST_CONTENT,
    LOST_FORMAT,
    REGAINED,
    UNCHANGED,
    Question,
    RunDetails,
    SetAnswers,
)
from sefe_plugin.evaluation.html_report.pictures import Pictures
from sefe_plugin.evaluation.ledger import ABOUT, ABOUT_PHASES, phase_table, task_table
from sefe_plugin.evaluation.report_data import FURTHER, TRANSFER, further_values, metric_rows
from sefe_plugin.evaluation.report_text import (
    ABOUT_LENIENT,
    ABOUT_PARTS,
    ALONE,
    BEFORE,
    PART_STAGES,
    metric_columns,
    provenance_in_words,
    unscored_in_words,
)


#: Most questions on a page; of larger test sets a part is shown.
MOST_ROWS = 1000
#: Most characters of an answer and of a question.
_LONGEST_ANSWER, _LONGEST_QUESTION = 600, 1500
_MARKERS_AT_START = re.compile(r"(?:<image>\s*)*")
#: An answer that is worth more, or less, than that of the first run.
_BETTER, _WORSE = "b", "w"


class PageRun(NamedTuple):
    """A run on a page.

    Attributes:
        name: Its name.
        report: What `build_report` returned.
        details: What is shown beside that.
    """

    name: str
    report: Mapping[str, Any]
    details: RunDetails


def page_content(title: str, runs: Sequence[PageRun]) -> dict[str, Any]:
    """Gather everything that a page of one run, or of several side by side, shows.

    Args:
        title: Head of the page.
        runs: The runs, over the same tasks in the same order; answers are compared with those of the first.

    Raises:
        ValueError: Where the tasks of the runs differ.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.report["tasks"] != first.report["tasks"]:
            raise ValueError(
                f"runs can be compared over the same tasks only: {first.name!r} has {first.report['tasks']}, "
                f"{run.name!r} has {run.report['tasks']}"
            )
    pictures = Pictures()
    given = shares([len(one.questions) for one in first.details.sets], MOST_ROWS)
    sets = [_set(_paired(runs, one), most, pictures) for one, most in zip(first.details.sets, given, strict=True)]
    return {
        "title": title,
        "tasks": first.report["tasks"],
        "before": BEFORE,
        "lenient": ABOUT_LENIENT,
        "about_parts": ABOUT_PARTS,
        "part_stages": PART_STAGES,
        "runs": [_run(run) for run in runs],
        "metrics": _metrics(runs),
        "sets": sets,
        "pictures": pictures.uris,
        **_colours(),
    }


def _colours() -> dict[str, list[str]]:
    """Return the colours of the report's pictures: of 0 to 100 percent, and of lines."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    from sefe_plugin.evaluation.figures import COLOURS

    scale = colormaps["viridis"]([percent / 100 for percent in range(101)])
    return {"scale": [*map(to_hex, scale)], "lines": [*COLOURS]}


def _run(run: PageRun) -> dict[str, Any]:
    report, recipe = run.report, dict(run.details.recipe)
    count, total = report["num_scored_tasks"], len(report["tasks"])
    notes = [ALONE] if report.get("trained_alone") else []
    if count < total:
        notes.append(f"Unfinished: {count} of {total} tasks are scored, and the metrics describe these.")
    return {
        "name": run.name,
        "about": " ".join(provenance_in_words(report)),
        "notes": [*notes, *unscored_in_words(report)],
        "report": report,
        "ledger": _ledger(report.get("ledger")),
        "costs": [asdict(cost) for cost in run.details.costs],
        "recipe": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True) if recipe else "",
    }


def _ledger(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the tables of where the time of a run went, with what is said of each; none without a record."""
    if found is None:
        return []
    tables = ((ABOUT, task_table(found)), (ABOUT_PHASES, phase_table(found)))
    return [{"about": about, "heads": heads, "rows": rows} for about, (heads, rows) in tables]


def _metrics(runs: Sequence[PageRun]) -> dict[str, list]:
    """Return the table of metrics: the heads of its columns, and rows of head, meaning and a value for each column."""
    several = len(runs) > 1
    columns: list[tuple[str, Mapping]] = []
    for run in runs:
        for place, (name, counted) in enumerate(metric_columns(run.report).items()):
            head = (run.name if not place else f"{run.name}, {name}") if several else name
            columns.append((head, counted))
    rows = [[head, about, *values] for head, about, values in metric_rows([column for _, column in columns])]
    further = [further_values(column) for _, column in columns]
    for key, head in FURTHER.items():
        if any(key in values for values in further):
            rows.append([head, _FURTHER_MEANINGS[key], *(values.get(key) for values in further)])
    return {"columns": [head for head, _ in columns], "rows": rows}


_FURTHER_MEANINGS = {
    **{f"fwd_{key}": about for key, (_, about) in TRANSFER.items()},
    "retention": "mean accuracy at the end on test sets that belong to no task",
    "retention_format": "mean share of right formats at the end on test sets that belong to no task",
    "retention_lost": "mean points that these test sets lost since the untouched base",
}


class _Paired(NamedTuple):
    """What the runs have answered to one test set, None where it cannot be put beside the first run's; and why not."""

    answers: list[SetAnswers | None]
    notes: list[str]


def _paired(runs: Sequence[PageRun], first: SetAnswers) -> _Paired:
    """Put the answers of all runs to a test set of the first beside each other."""
    paired = _Paired([first], [])
    for run in runs[1:]:
        found = (one for one in run.details.sets if (one.name, one.retention) == (first.name, first.retention))
        other = next(found, None)
        why = None
        if other is None or list(other.questions) != list(first.questions):
            why = f"{run.name} did not answer the same questions, so its answers are not shown."
        elif other.scorer != first.scorer:
            why = (
                f"{run.name} is scored by {other.scorer!r} here, and {runs[0].name} by {first.scorer!r}, so its "
                "answers are not shown. Score it as the other: "
                f"sefe score {run.name} --scorer {shlex.quote(f'{first.name}={first.scorer}')}"
            )
        paired.answers.append(other if why is None else None)
        if why is not None:
            paired.notes.append(why)
    return paired


def _set(paired: _Paired, most: int, pictures: Pictures) -> dict[str, Any]:
    runs = paired.answers
    first = runs[0]
    size = len(first.questions)
    stages = sorted(first.stages)
    marks = [_marks(run, first, stages) for run in runs]
    numbers = choose(_groups(marks, stages), size, most)
    notes = [*(note for run in runs if run for note in run.notes), *paired.notes]
    return {
        "name": first.name,
        "scorer": first.scorer,
        "retention": first.retention,
        "learned": first.learned if first.learned in first.stages else None,
        "total": size,
        "notes": notes,
        "numbers": numbers,
        "questions": [_question(first.questions[number], first.media_dir, pictures) for number in numbers],
        "stages": stages,
        "runs": [
            {stage: _stage(run, stage, of_run[stage], numbers) for stage in stages if run and stage in run.stages}
            for run, of_run in zip(runs, marks, strict=True)
        ],
    }


def _question(question: Question, media_dir: Path, pictures: Pictures) -> list:
    """Return a question, its right answer, and its pictures; beside these the text needs no markers of them."""
    shown = [pictures.add(image, media_dir) for image in question.images]
    text = question.text
    if shown and all(isinstance(picture, int) for picture in shown):
        end = _MARKERS_AT_START.match(text).end()
        text = in_words(text[end:], before=text[:end])
    return [_cut(text, _LONGEST_QUESTION), _cut(question.gold, _LONGEST_ANSWER), shown]


def _marks(run: SetAnswers | None, first: SetAnswers, stages: Sequence[int]) -> dict[int, dict[str, str]]:
    """Return for each stage one letter per answer: what became of it, and how it compares with the first run's."""
    marks: dict[int, dict[str, str]] = {}
    for stage in stages:
        if run is None or stage not in run.stages:
            continue
        marks[stage] = {"changes": run.changes(stage)}
        ours, theirs = run.stages[stage].scores, first.stages[stage].scores
        if run is not first and ours is not None and theirs is not None:
            marks[stage]["versus"] = "".join(
                _BETTER if a.correct > b.correct else _WORSE if a.correct < b.correct else UNCHANGED
                for a, b in zip(ours, theirs, strict=True)
            )
    return marks


def _groups(marks: Sequence[Mapping[int, Mapping[str, str]]], stages: Sequence[int]) -> list[list[bool]]:
    """Return which questions belong together: first those whose answers differ at the end."""
    kinds = [("versus", _WORSE), ("versus", _BETTER), *(("changes", c) for c in (LOST_FORMAT, LOST_CONTENT, REGAINED))]
    return [
        [letter == wanted for letter in of_run[stage][kind]]
        for stage in reversed(stages)
        for kind, wanted in kinds
        for of_run in marks
        if kind in of_run.get(stage, {})
    ]


def _stage(run: SetAnswers, stage: int, marks: Mapping[str, str], numbers: Sequence[int]) -> dict[str, Any]:
    """Return the answers to the questions that are shown, and counts over all questions."""
    given = run.stages[stage]
    shown = {kind: "".join(letters[number] for number in numbers) for kind, letters in marks.items()}
    counts = {"all": len(given.answers)}
    for letters in marks.values():
        counts |= {letter: letters.count(letter) for letter in {*letters} - {UNCHANGED}}
    content = {"answers": [_cut(given.answers[number], _LONGEST_ANSWER) for number in numbers], **shown}
    if given.scores is not None:
        counts["wrong"] = sum(score.correct < 1 for score in given.scores)
        content["worth"] = [round(given.scores[number].correct, 3) for number in numbers]
        content["formatted"] = [int(given.scores[number].formatted) for number in numbers]
    return {**content, "counts": counts}


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} ... ({len(text) - longest} more characters)"
