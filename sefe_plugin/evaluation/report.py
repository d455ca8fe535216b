"""The report of a run: its matrices and metrics as data, as text and as pictures; and runs side by side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from sefe_plugin.evaluation.metrics import (
    Matrix,
    backward_transfer,
    forgetting,
    mean_average_accuracy,
    mean_final_accuracy,
    mean_finetune_accuracy,
    num_scored_tasks,
    split_forgetting,
)
from sefe_plugin.files import read_json, replacing, write_json, write_text


REPORT_FILE = "report.json"
_TEXT_FILE, _MATRIX_FILE, _CURVES_FILE = "report.md", "matrix.png", "curves.png"
#: All that `write_report` writes; the data last.
REPORT_FILES = (_TEXT_FILE, _MATRIX_FILE, _CURVES_FILE, REPORT_FILE)

#: Report key -> table head and meaning, in the order of the tables.
METRICS: dict[str, tuple[str, str]] = {
    "mft": ("MFT", "mean accuracy just after learning each task"),
    "mfn": ("MFN", "mean accuracy of all tasks at the end"),
    "maa": ("MAA", "mean over all stages of the mean accuracy of the tasks learned so far"),
    "bwt": ("BWT", "mean change from just learned to the end"),
    "forgetting": ("Forgetting", "mean drop of the earlier tasks from their best to the end"),
}


def build_report(
    tasks: Sequence[str], accuracy_matrix: Matrix, format_matrix: Matrix, official_matrix: Matrix | None = None
) -> dict:
    """Compute everything that a report says.

    Args:
        tasks: Names of the T tasks, in training order.
        accuracy_matrix: ``[i][j]``: accuracy on task j after training task i, in percent; None where not scored.
            Rows of an unfinished sequence may be missing.
        format_matrix: Answers in the right format, in percent, in the same shape.
        official_matrix: Accuracy as the benchmark's official scripts count it, in the same shape, where there are any.

    Returns:
        Plain data for JSON: "tasks", "num_scored_tasks" (the metrics describe these first tasks, see `metrics`), both
        matrices (T x T), the metrics "mft", "mfn", "maa", "bwt" and "forgetting" (None where an entry is missing), and
        "losses": for each task its drop and the superficial and essential parts of it, or None; and, with an official
        matrix, "official": that "accuracy_matrix" and its metrics.

    Raises:
        ValueError: Where there are no tasks, or a matrix does not fit them or holds anything but percentages.
    """
    if not tasks:
        raise ValueError("a report needs at least one task")
    accuracy = _checked("accuracy_matrix", accuracy_matrix, len(tasks))
    formats = _checked("format_matrix", format_matrix, len(tasks))
    report = {
        "tasks": list(tasks),
        "num_scored_tasks": num_scored_tasks(accuracy),
        "accuracy_matrix": accuracy,
        "format_matrix": formats,
        **_metrics(accuracy),
        "losses": [loss and loss._asdict() for loss in split_forgetting(accuracy, formats)],
    }
    if official_matrix is not None:
        official = _checked("official_matrix", official_matrix, len(tasks))
        report["official"] = {"accuracy_matrix": official, **_metrics(official)}
    return report


def write_report(folder: Path, report: dict, title: str) -> None:
    """Write ``report.md``, ``matrix.png``, ``curves.png`` and, last, ``report.json`` into a folder.

    Each file appears whole or not at all; ``report.json`` holds no times, so equal results give equal bytes.

    Args:
        folder: Created where it is missing.
        report: What `build_report` returned.
        title: Head of the text and the pictures, such as the run's name.
    """
    from sefe_plugin.evaluation.figures import draw_curves, draw_matrices

    accuracy = report["accuracy_matrix"]
    figures = {
        _MATRIX_FILE: draw_matrices(report["tasks"], accuracy, report["format_matrix"], title),
        _CURVES_FILE: draw_curves(report["tasks"], accuracy, title),
    }
    write_text(folder / _TEXT_FILE, format_report(report, title))
    for name, figure in figures.items():
        with replacing(folder / name) as temporary:
            figure.savefig(temporary, format="png")
    write_json(folder / REPORT_FILE, report)


def load_report(folder: Path) -> dict:
    """Read a run's ``report.json``; everything that follows from the matrices is computed anew.

    Raises:
        FileNotFoundError: Where the folder holds no report.
        ValueError: Where the file is not a whole report.
    """
    path = folder / REPORT_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no {REPORT_FILE} in {folder}: name the folder of a run whose report has been written"
        )
    try:
        stored = read_json(path)
        official = stored["official"]["accuracy_matrix"] if "official" in stored else None
        computed = build_report(stored["tasks"], stored["accuracy_matrix"], stored["format_matrix"], official)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a report or is damaged ({error!r}); write the report again") from error
    return {**stored, **computed}


def format_report(report: dict, title: str) -> str:
    """Write a report as Markdown that also reads well in a terminal."""
    tasks, count = report["tasks"], report["num_scored_tasks"]
    losses = [
        [task, *(_number(loss and loss[key]) for key in ("drop", "superficial", "essential"))]
        for task, loss in zip(tasks, report["losses"], strict=True)
    ]
    parts = [f"# {title}"]
    if count < len(tasks):
        parts.append(f"Unfinished: {count} of {len(tasks)} tasks are scored, and the metrics describe these.")
    parts += [
        "All numbers are percent; a dash stands for what was not scored.",
        "## Metrics",
        _metrics_table(report),
        "## Accuracy",
        "Rows: after training on; columns: scored on.",
        _matrix_table(tasks, report["accuracy_matrix"]),
        *_official_part(report),
        "## Answers in the right format",
        _matrix_table(tasks, report["format_matrix"]),
        "![Accuracy and right format after each task](matrix.png)",
        "![Accuracy of each task along the sequence](curves.png)",
        "## What was forgotten",
        "Points lost from just learned to the end: superficial by a lost answer format, essential by lost content.",
        markdown_table(["task", "lost", "superficial", "essential"], losses),
    ]
    return "\n\n".join(parts) + "\n"


def format_table(reports: Mapping[str, dict]) -> str:
    """Put runs side by side: accuracy on each task at the end, the metrics, and right formats at the end.

    Args:
        reports: Run name -> report; all over the same tasks in the same order.

    Returns:
        A Markdown table with a row for each run.

    Raises:
        ValueError: Where there are no reports or their tasks differ.
    """
    if not reports:
        raise ValueError("a table needs at least one report")
    first, tasks = next((name, report["tasks"]) for name, report in reports.items())
    rows = []
    for name, report in reports.items():
        if report["tasks"] != tasks:
            raise ValueError(
                f"runs can be compared over the same tasks only: {first!r} has {tasks}, {name!r} has {report['tasks']}"
            )
        count = report["num_scored_tasks"]
        final = report["accuracy_matrix"][count - 1] if count else [None] * len(tasks)
        formats = report["format_matrix"][count - 1][:count] if count else []
        formatted = sum(formats) / count if count and None not in formats else None
        cells = [*final[:count], *[None] * (len(tasks) - count), *(report[key] for key in METRICS), formatted]
        rows.append([name, *map(_number, cells)])
    return markdown_table(["run", *tasks, *(head for head, _ in METRICS.values()), "Format"], rows)


def _metrics(accuracy: Matrix) -> dict[str, float | None]:
    return {
        "mft": mean_finetune_accuracy(accuracy),
        "mfn": mean_final_accuracy(accuracy),
        "maa": mean_average_accuracy(accuracy),
        "bwt": backward_transfer(accuracy),
        "forgetting": forgetting(accuracy),
    }


def _metrics_table(report: dict) -> str:
    columns = {"value": report, "official": report["official"]} if "official" in report else {"value": report}
    rows = [
        [head, *(_number(column[key]) for column in columns.values()), meaning]
        for key, (head, meaning) in METRICS.items()
    ]
    return markdown_table(["metric", *columns, "meaning"], rows)


def _official_part(report: dict) -> list[str]:
    if "official" not in report:
        return []
    return [
        "## Official accuracy",
        "The same answers as the benchmark's official scripts count them.",
        _matrix_table(report["tasks"], report["official"]["accuracy_matrix"]),
    ]


def _checked(name: str, matrix: Matrix, num_tasks: int) -> list[list[float | None]]:
    if len(matrix) > num_tasks or any(len(row) != num_tasks for row in matrix):
        raise ValueError(
            f"{name} must have at most {num_tasks} rows of {num_tasks} numbers, one for each task, got rows of "
            f"{[len(row) for row in matrix]}"
        )
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if value is not None and not (math.isfinite(value) and 0 <= value <= 100):
                raise ValueError(f"{name}[{i}][{j}] must be a percentage in [0, 100] or None, got {value!r}")
    rows = [[None if value is None else float(value) for value in row] for row in matrix]
    return rows + [[None] * num_tasks for _ in range(num_tasks - len(rows))]


def _matrix_table(tasks: Sequence[str], matrix: Matrix) -> str:
    rows = [[task, *map(_number, row)] for task, row in zip(tasks, matrix, strict=True)]
    return markdown_table(["after", *tasks], rows)


def _number(value: float | None) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table whose columns line up; numbers stand to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(head))]
    lines = [
        " | ".join(cell.rjust(w) if n else cell.ljust(w) for cell, w, n in zip(row, widths, numeric, strict=True))
        for row in cells
    ]
    rule = " | ".join("-" * (w - 1) + ":" if n else "-" * w for w, n in zip(widths, numeric, strict=True))
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))


def _is_number(cell: str) -> bool:
    return cell.lstrip("-").replace(".", "", 1).isdigit() or cell == "-"
