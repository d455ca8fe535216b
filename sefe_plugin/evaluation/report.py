"""The report of a run: its matrices and metrics as data, as text and as pictures; and runs side by side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from sefe_plugin.evaluation.metrics import (
    Loss,
    Matrix,
    backward_transfer,
    forgetting,
    mean_average_accuracy,
    mean_final_accuracy,
    mean_finetune_accuracy,
    mean_of,
    num_scored_tasks,
    split_forgetting,
)
from sefe_plugin.evaluation.transfer import Row, learning_transfer, mean_over_stages, retention_losses, unseen_transfer
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

#: Part of "forward_transfer" -> table head and meaning.
TRANSFER: dict[str, tuple[str, str]] = {
    "unseen": ("FWD unseen", "mean over stages of what the tasks not learned yet gain over the untouched base"),
    "learning": ("FWD learning", "mean over stages of what the tasks learned so far gain over training each alone"),
}

#: The row of the untouched base, in tables and pictures.
BEFORE = "before"

_ABOUT_BEFORE = f'The row "{BEFORE}" is the untouched base.'
_ALONE = (
    "Each task was trained alone, from the untouched base (`carry: none`): what the metrics say of later stages, such "
    "as forgetting, describes no sequence."
)


def build_report(
    tasks: Sequence[str],
    accuracy_matrix: Matrix,
    format_matrix: Matrix,
    official_matrix: Matrix | None = None,
    *,
    zero_shot: Mapping[str, Row] | None = None,
    single_task: Row | None = None,
    retention: Mapping[str, Sequence] | None = None,
    trained_alone: bool = False,
) -> dict:
    """Compute everything that a report says.

    Args:
        tasks: Names of the T tasks, in training order.
        accuracy_matrix: ``[i][j]``: accuracy on task j after training task i, in percent; None where not scored.
            Rows of an unfinished sequence may be missing.
        format_matrix: Answers in the right format, in percent, in the same shape.
        official_matrix: Accuracy as the benchmark's official scripts count it, in the same shape, where there are any.
        zero_shot: "accuracy" and "format" of the untouched base on the tasks, where all tasks are scored throughout.
        single_task: Accuracy on each task of a model that was trained on it alone, where such a reference is named.
        retention: "sets", the names of the S test sets of no task, and their "accuracy_matrix" and "format_matrix",
            (T + 1) x S: the row of the untouched base, then one after each task. Rows at the end may be missing.
        trained_alone: Whether every task was trained from the untouched base.

    Returns:
        Plain data for JSON: "tasks", "num_scored_tasks" (the metrics describe these first tasks, see `metrics`), both
        matrices (T x T), the metrics "mft", "mfn", "maa", "bwt" and "forgetting" (None where an entry is missing), and
        "losses": for each task its drop and the superficial and essential parts of it, or None; and, with an official
        matrix, "official": that "accuracy_matrix" and its metrics. With the others: "zero_shot" and "retention" as
        given, this with its "losses"; "forward_transfer" with what can be computed of "unseen" and "learning", each
        with its mean, and with "single_task"; "trained_alone".

    Raises:
        ValueError: Where there are no tasks, or a matrix does not fit them or holds anything but percentages.
    """
    if not tasks:
        raise ValueError("a report needs at least one task")
    accuracy = _checked("accuracy_matrix", accuracy_matrix, len(tasks), len(tasks))
    formats = _checked("format_matrix", format_matrix, len(tasks), len(tasks))
    report = {
        "tasks": list(tasks),
        "num_scored_tasks": num_scored_tasks(accuracy),
        "accuracy_matrix": accuracy,
        "format_matrix": formats,
        **_metrics(accuracy),
        "losses": [loss and loss._asdict() for loss in split_forgetting(accuracy, formats)],
    }
    if official_matrix is not None:
        official = _checked("official_matrix", official_matrix, len(tasks), len(tasks))
        report["official"] = {"accuracy_matrix": official, **_metrics(official)}
    if zero_shot is not None:
        report["zero_shot"] = {
            key: _checked(f"zero_shot {key}", [zero_shot[key]], 1, len(tasks))[0] for key in ("accuracy", "format")
        }
    if transfer := _forward_transfer(accuracy, report.get("zero_shot"), single_task):
        report["forward_transfer"] = transfer
    if retention is not None:
        report["retention"] = _retention(retention, len(tasks))
    if trained_alone:
        report["trained_alone"] = True
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

    accuracy, more = report["accuracy_matrix"], {key: report.get(key) for key in ("zero_shot", "retention")}
    figures = {
        _MATRIX_FILE: draw_matrices(report["tasks"], accuracy, report["format_matrix"], title, **more),
        _CURVES_FILE: draw_curves(report["tasks"], accuracy, title, report.get("retention")),
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
        computed = build_report(
            stored["tasks"],
            stored["accuracy_matrix"],
            stored["format_matrix"],
            official,
            zero_shot=stored.get("zero_shot"),
            single_task=stored.get("forward_transfer", {}).get("single_task"),
            retention=stored.get("retention"),
            trained_alone=stored.get("trained_alone", False),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a report or is damaged ({error!r}); write the report again") from error
    return {**stored, **computed}


def format_report(report: dict, title: str) -> str:
    """Write a report as Markdown that also reads well in a terminal."""
    tasks, count = report["tasks"], report["num_scored_tasks"]
    zero_shot = report.get("zero_shot", {})
    parts = [f"# {title}"]
    if report.get("trained_alone"):
        parts.append(_ALONE)
    if count < len(tasks):
        parts.append(f"Unfinished: {count} of {len(tasks)} tasks are scored, and the metrics describe these.")
    parts += [
        "All numbers are percent; a dash stands for what was not scored.",
        "## Metrics",
        _metrics_table(report),
        "## Accuracy",
        "Rows: after training on; columns: scored on." + (f" {_ABOUT_BEFORE}" if zero_shot else ""),
        _matrix_table(tasks, report["accuracy_matrix"], zero_shot.get("accuracy")),
        *_official_part(report),
        "## Answers in the right format",
        _matrix_table(tasks, report["format_matrix"], zero_shot.get("format")),
        "![Accuracy and right format after each task](matrix.png)",
        "![Accuracy of each task along the sequence](curves.png)",
        "## What was forgotten",
        "Points lost from just learned to the end: superficial by a lost answer format, essential by lost content.",
        _loss_table("task", tasks, report["losses"]),
        *_transfer_part(report),
        *_retention_part(report),
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
    rows, further = [], []
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
        further.append(further_values(report))
        rows.append([name, *map(_number, cells)])
    present = [key for key in FURTHER if any(key in values for values in further)]
    for row, values in zip(rows, further, strict=True):
        row += [_number(values.get(key)) for key in present]
    heads = [*(head for head, _ in METRICS.values()), "Format", *(FURTHER[key] for key in present)]
    return markdown_table(["run", *tasks, *heads], rows)


#: Value of a report that only some reports have -> table head.
FURTHER: dict[str, str] = {
    **{f"fwd_{key}": head for key, (head, _) in TRANSFER.items()},
    "retention": "Retention",
    "retention_format": "Retention format",
    "retention_lost": "Retention lost",
}


def further_values(report: Mapping) -> dict[str, float | None]:
    """Return those of the `FURTHER` values that a report has, in percent or points of percent.

    These are the means over stages of forward transfer, and of its retention sets the mean accuracy and the mean share
    of right formats after the last task that is scored on them, and the mean of what tuning cost them.
    """
    transfer, values = report.get("forward_transfer", {}), {}
    for key in TRANSFER:
        if f"{key}_mean" in transfer:
            values[f"fwd_{key}"] = transfer[f"{key}_mean"]
    if retention := report.get("retention"):
        tuned = [row for row, scores in enumerate(retention["accuracy_matrix"]) if row and None not in scores]
        for key, name in (("retention", "accuracy_matrix"), ("retention_format", "format_matrix")):
            values[key] = mean_of(retention[name][tuned[-1]]) if tuned else None
        values["retention_lost"] = mean_of(loss and loss["drop"] for loss in retention["losses"])
    return values


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
    transfer = report.get("forward_transfer", {})
    rows += [
        [head, _number(transfer[f"{key}_mean"]), *("-" for _ in [*columns][1:]), meaning]
        for key, (head, meaning) in TRANSFER.items()
        if key in transfer
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


def _forward_transfer(
    accuracy: Matrix, zero_shot: Mapping[str, Row] | None, single_task: Row | None
) -> dict[str, float | list | None]:
    found: dict[str, float | list | None] = {}
    if zero_shot is not None:
        found["unseen"] = unseen_transfer(accuracy, zero_shot["accuracy"])
        found["unseen_mean"] = mean_over_stages(found["unseen"], accuracy)
    if single_task is not None:
        single = _checked("single_task", [single_task], 1, len(accuracy))[0]
        found["learning"] = learning_transfer(accuracy, single)
        found["learning_mean"] = mean_over_stages(found["learning"], accuracy)
        found["single_task"] = single
    return found


def _retention(given: Mapping[str, Sequence], num_tasks: int) -> dict[str, list]:
    sets = list(given["sets"])
    matrices = {
        key: _checked(f"retention {key}", given[key], num_tasks + 1, len(sets))
        for key in ("accuracy_matrix", "format_matrix")
    }
    losses = retention_losses(*matrices.values())
    return {"sets": sets, **matrices, "losses": [loss and loss._asdict() for loss in losses]}


def _transfer_part(report: dict) -> list[str]:
    transfer = report.get("forward_transfer")
    if transfer is None:
        return []
    columns: dict[str, Sequence] = {}
    if "unseen" in transfer:
        columns["unseen"] = [*transfer["unseen"], None]
    if "learning" in transfer:
        columns |= {"learning": transfer["learning"], "trained alone": transfer["single_task"]}
    tasks = report["tasks"]
    rows = [[task, *(_number(column[row]) for column in columns.values())] for row, task in enumerate(tasks)]
    said = [
        *(["unseen, what the tasks that are not learned yet gain over the untouched base"] * ("unseen" in columns)),
        *(["learning, what the tasks so far gain over training each alone"] * ("learning" in columns)),
    ]
    about = f"After each task, means in points: {'; '.join(said)}."
    if "learning" in columns:
        about += " Trained alone: accuracy on the task when nothing else was trained."
    return ["## Forward transfer", about, markdown_table(["after", *columns], rows)]


def _retention_part(report: dict) -> list[str]:
    retention = report.get("retention")
    if retention is None:
        return []
    sets, rows = retention["sets"], [BEFORE, *report["tasks"]]
    return [
        "## Retention",
        f"Test sets that belong to no task. {_ABOUT_BEFORE} Accuracy:",
        _table(rows, sets, retention["accuracy_matrix"]),
        "Answers in the right format:",
        _table(rows, sets, retention["format_matrix"]),
        "Points lost from before the first task to the end: superficial by a lost answer format, essential by lost "
        "content.",
        _loss_table("set", sets, retention["losses"]),
    ]


def _loss_table(head: str, names: Sequence[str], losses: Sequence[Mapping[str, float] | None]) -> str:
    rows = [
        [name, *(_number(loss and loss[key]) for key in Loss._fields)]
        for name, loss in zip(names, losses, strict=True)
    ]
    return markdown_table([head, "lost", "superficial", "essential"], rows)


def _checked(name: str, matrix: Matrix, num_rows: int, num_columns: int) -> list[list[float | None]]:
    if len(matrix) > num_rows or any(len(row) != num_columns for row in matrix):
        raise ValueError(
            f"{name} must have at most {num_rows} rows of {num_columns} numbers, one for each task, got rows of "
            f"{[len(row) for row in matrix]}"
        )
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if value is not None and not (math.isfinite(value) and 0 <= value <= 100):
                raise ValueError(f"{name}[{i}][{j}] must be a percentage in [0, 100] or None, got {value!r}")
    rows = [[None if value is None else float(value) for value in row] for row in matrix]
    return rows + [[None] * num_columns for _ in range(num_rows - len(rows))]


def _matrix_table(tasks: Sequence[str], matrix: Matrix, before: Row | None = None) -> str:
    return _table([BEFORE] * (before is not None) + [*tasks], tasks, [before] * (before is not None) + [*matrix])


def _table(names: Sequence[str], columns: Sequence[str], matrix: Matrix) -> str:
    rows = [[name, *map(_number, row)] for name, row in zip(names, matrix, strict=True)]
    return markdown_table(["after", *columns], rows)


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
