"""What a report says of a run, as data."""

import math
from collections.abc import Collection, Mapping, Sequence

from sefe_plugin.evaluation.metrics import (
    Matrix,
    backward_transfer,
    backward_transfer_of_earlier,
    forgetting,
    mean_average_accuracy,
    mean_final_accuracy,
    mean_finetune_accuracy,
    mean_of,
    num_scored_tasks,
    split_forgetting,
)
from sefe_plugin.evaluation.scorers.base import MOST_ACCURACY
from sefe_plugin.evaluation.transfer import Row, learning_transfer, mean_over_stages, retention_losses, unseen_transfer


#: Report key -> table head and meaning, in the order of the tables.
METRICS: dict[str, tuple[str, str]] = {
    "mft": ("MFT", "mean accuracy just after learning each task"),
    "mfn": ("MFN", "mean accuracy of all tasks at the end"),
    "maa": ("MAA", "mean over all stages of the mean accuracy of the tasks learned so far"),
    "bwt": ("BWT", "mean change from just learned to the end, over all T tasks as in CoIN and SEFE"),
    "forgetting": ("Forgetting", "mean drop of the earlier tasks from their best to the end"),
}

#: The metrics and what else the table of metrics has: BWT by the other denominator in use.
METRIC_ROWS: dict[str, tuple[str, str]] = {
    **METRICS,
    "bwt_earlier": ("BWT (T-1)", "the same change over the earlier tasks alone, as in MCITlib and MLLM-CL"),
}

#: Part of "forward_transfer" -> table head and meaning.
TRANSFER: dict[str, tuple[str, str]] = {
    "unseen": ("FWD unseen", "mean over stages of what the tasks not learned yet gain over the untouched base"),
    "learning": ("FWD learning", "mean over stages of what the tasks learned so far gain over training each alone"),
}

#: Value of a report that only some reports have -> table head.
FURTHER: dict[str, str] = {
    **{f"fwd_{key}": head for key, (head, _) in TRANSFER.items()},
    "retention": "Retention",
    "retention_format": "Retention format",
    "retention_lost": "Retention lost",
}


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
    stderr_matrix: Matrix | None = None,
    counts: Mapping[str, int] | None = None,
    unscored: Collection[str] = (),
    lenient_matrix: Matrix | None = None,
    parts: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
) -> dict:
    """Compute everything that a report says.

    Args:
        tasks: Names of the T tasks, in training order.
        accuracy_matrix: ``[i][j]``: accuracy on task j after training task i, in percent; None where not scored.
            Rows of an unfinished sequence may be missing.
        format_matrix: Answers in the right format, in percent, in the same shape.
        official_matrix: Accuracy as the benchmark's official scripts count it, in the same shape, where there are any.
        zero_shot: "accuracy" and "format" of the untouched base on the tasks, where all tasks are scored throughout;
            "stderr" and "lenient" where they are known.
        single_task: Accuracy on each task of a model that was trained on it alone, where such a reference is named.
        retention: "sets", the names of the S test sets of no task, and their "accuracy_matrix" and "format_matrix",
            (T + 1) x S: the row of the untouched base, then one after each task. Rows at the end may be missing.
            "stderr_matrix" and "lenient_matrix" in the same shape, where they are known.
        trained_alone: Whether every task was trained from the untouched base.
        stderr_matrix: Standard error of each entry of `accuracy_matrix`, in points of percent; None where unknown.
        counts: Test set -> the number of its answers.
        unscored: Names of the tasks and retention sets that nobody scores: their columns hold None. Metrics and means
            go over the others. With such tasks the accuracy matrix must have the rows of finished tasks alone.
        lenient_matrix: Accuracy as a reader counts it, whatever the format of the answers, in the same shape; None
            where a scorer makes no such difference.
        parts: What the accuracies of some tasks are the means of: task -> "learned" and "end" -> part -> percent.

    Returns:
        Plain data for JSON: "tasks", "num_scored_tasks" (the metrics describe these first tasks, see `metrics`), both
        matrices (T x T), the metrics "mft", "mfn", "maa", "bwt" (over T tasks), "bwt_earlier" (over T - 1) and
        "forgetting" (None where an entry is missing), and "losses": for each task its drop and the superficial and
        essential parts of it, or None; and, with an official matrix, "official": that "accuracy_matrix" and its
        metrics, which are None where it lacks a score that the strict one has; likewise "lenient". With
        the others: "zero_shot" and "retention" as given, this with its "losses";
        "forward_transfer" with what can be computed of "unseen" and "learning", each with its mean, and with
        "single_task"; "trained_alone", "stderr_matrix", "counts" and "parts"; "unscored", a list in the order of tasks
        and sets.

    Raises:
        ValueError: Where there are no tasks, or a matrix does not fit them or holds anything but percentages.
    """
    if not tasks:
        raise ValueError("a report needs at least one task")
    places = [index for index, task in enumerate(tasks) if task in unscored]
    accuracy = _checked("accuracy_matrix", accuracy_matrix, len(tasks), len(tasks))
    # the rows that are given: before the first scored task a row that is finished holds nothing
    count = num_scored_tasks(accuracy[: len(accuracy_matrix)], places)
    formats = _checked("format_matrix", format_matrix, len(tasks), len(tasks))
    report = {
        "tasks": list(tasks),
        "num_scored_tasks": count,
        "accuracy_matrix": accuracy,
        "format_matrix": formats,
        **_metrics(accuracy, places),
        "losses": [loss and loss._asdict() for loss in split_forgetting(accuracy, formats, places)],
    }
    for name, matrix in (("official", official_matrix), ("lenient", lenient_matrix)):
        if matrix is not None:
            counted = _checked(f"{name}_matrix", matrix, len(tasks), len(tasks))
            whole = counted if name == "official" else _lenient_or_strict(counted, accuracy)
            same = [[value is None for value in row] for row in whole] == [
                [v is None for v in row] for row in accuracy
            ]
            metrics = _metrics(whole, places) if same else dict.fromkeys(METRICS)
            report[name] = {"accuracy_matrix": counted, **metrics}
    if zero_shot is not None:
        report["zero_shot"] = {
            key: _checked(f"zero_shot {key}", [zero_shot[key]], 1, len(tasks))[0]
            for key in ("accuracy", "format", *_known(zero_shot, "stderr"), *_known(zero_shot, "lenient"))
        }
    if transfer := _forward_transfer(accuracy, report.get("zero_shot"), single_task, places):
        report["forward_transfer"] = transfer
    if retention is not None:
        report["retention"] = _retention(retention, len(tasks))
    if trained_alone:
        report["trained_alone"] = True
    if stderr_matrix is not None:
        report["stderr_matrix"] = _checked("stderr_matrix", stderr_matrix, len(tasks), len(tasks))
    if counts:
        if not all(type(count) is int and count > 0 for count in counts.values()):
            raise ValueError(f"counts must be whole numbers above 0, got {dict(counts)}")
        report["counts"] = dict(counts)
    if parts:
        report["parts"] = parts
    if names := [name for name in (*tasks, *(retention or {}).get("sets", ())) if name in unscored]:
        report["unscored"] = names
    return report


def metric_rows(columns: Sequence[Mapping]) -> list[tuple[str, str, list[float | None]]]:
    """Return the rows of a table of metrics: head, meaning, and the value of each column, a report or a part of one.

    A row that no column has, as reports of earlier versions lack some, is left out.
    """
    return [
        (head, meaning, [column.get(key) for column in columns])
        for key, (head, meaning) in METRIC_ROWS.items()
        if any(key in column for column in columns)
    ]


def scored(report: Mapping, names: Sequence[str]) -> list[int]:
    """Return the places of those names, of tasks or of retention sets, that a report has scores of."""
    return [place for place, name in enumerate(names) if name not in report.get("unscored", ())]


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
        places = scored(report, retention["sets"])
        rows = [[scores[place] for place in places] for scores in retention["accuracy_matrix"]]
        tuned = [row for row, scores in enumerate(rows) if row and None not in scores]
        for key, name in (("retention", "accuracy_matrix"), ("retention_format", "format_matrix")):
            values[key] = mean_of(retention[name][tuned[-1]][place] for place in places) if tuned else None
        losses = [retention["losses"][place] for place in places]
        values["retention_lost"] = mean_of(loss and loss["drop"] for loss in losses)
    return values


def _metrics(accuracy: Matrix, unscored: Collection[int]) -> dict[str, float | None]:
    return {
        "mft": mean_finetune_accuracy(accuracy, unscored),
        "mfn": mean_final_accuracy(accuracy, unscored),
        "maa": mean_average_accuracy(accuracy, unscored),
        "bwt": backward_transfer(accuracy, unscored),
        "bwt_earlier": backward_transfer_of_earlier(accuracy, unscored),
        "forgetting": forgetting(accuracy, unscored),
    }


def _lenient_or_strict(lenient: Matrix, accuracy: Matrix) -> Matrix:
    """Return the lenient count, and the strict one for a task whose scorer makes no difference between the two."""
    makes_none = {j for j in range(len(accuracy)) if all(row[j] is None for row in lenient)}
    return [
        [strict if j in makes_none else counted for j, (strict, counted) in enumerate(zip(*rows, strict=True))]
        for rows in zip(accuracy, lenient, strict=True)
    ]


def _forward_transfer(
    accuracy: Matrix, zero_shot: Mapping[str, Row] | None, single_task: Row | None, unscored: Collection[int]
) -> dict[str, float | list | None]:
    found: dict[str, float | list | None] = {}
    if zero_shot is not None:
        found["unseen"] = unseen_transfer(accuracy, zero_shot["accuracy"], unscored)
        found["unseen_mean"] = mean_over_stages(found["unseen"], accuracy, unscored, later=True)
    if single_task is not None:
        single = _checked("single_task", [single_task], 1, len(accuracy))[0]
        found["learning"] = learning_transfer(accuracy, single, unscored)
        found["learning_mean"] = mean_over_stages(found["learning"], accuracy, unscored)
        found["single_task"] = single
    return found


def _retention(given: Mapping[str, Sequence], num_tasks: int) -> dict[str, list]:
    sets = list(given["sets"])
    matrices = {
        key: _checked(f"retention {key}", given[key], num_tasks + 1, len(sets))
        for key in (
            *("accuracy_matrix", "format_matrix"),
            *_known(given, "stderr_matrix"),
            *_known(given, "lenient_matrix"),
        )
    }
    losses = retention_losses(matrices["accuracy_matrix"], matrices["format_matrix"])
    return {"sets": sets, **matrices, "losses": [loss and loss._asdict() for loss in losses]}


def _known(given: Mapping, key: str) -> list[str]:
    """Return a key that what is given may have, if it has."""
    return [key] * (given.get(key) is not None)


def _checked(name: str, matrix: Matrix, num_rows: int, num_columns: int) -> list[list[float | None]]:
    if len(matrix) > num_rows or any(len(row) != num_columns for row in matrix):
        raise ValueError(
            f"{name} must have at most {num_rows} rows of {num_columns} numbers, one for each task, got rows of "
            f"{[len(row) for row in matrix]}"
        )
    most = 100 if "format" in name or "stderr" in name else MOST_ACCURACY
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if value is not None and not (math.isfinite(value) and 0 <= value <= most):
                raise ValueError(
                    f"{name}[{i}][{j}] must be a percentage in [0, 100] or None; of captions, whose CIDEr may exceed "
                    f"100, an accuracy of at most {MOST_ACCURACY:g}; got {value!r}"
                )
    rows = [[None if value is None else float(value) for value in row] for row in matrix]
    return rows + [[None] * num_columns for _ in range(num_rows - len(rows))]
