"""A report as Markdown, and reports side by side."""

from collections.abc import Mapping, Sequence

from sefe_plugin.evaluation.ledger import ABOUT, ABOUT_PHASES, phase_table, run_table, task_table
from sefe_plugin.evaluation.metrics import Loss, Matrix, mean_of
from sefe_plugin.evaluation.report_data import FURTHER, METRICS, TRANSFER, further_values, metric_rows, scored
from sefe_plugin.evaluation.transfer import Row
from sefe_plugin.versions import in_words


#: The row of the untouched base, in tables and pictures.
BEFORE = "before"

_ABOUT_BEFORE = f'The row "{BEFORE}" is the untouched base.'

ALONE = (
    "Each task was trained alone, from the untouched base (`carry: none`): what the metrics say of later stages, such "
    "as forgetting, describes no sequence."
)


#: The head of the mean of the lenient accuracies at the end.
LENIENT_HEAD = "MFN lenient"

ABOUT_LENIENT = (
    "The same answers, counted as right where a reader would take them for right, whatever their format: a letter in "
    "a sentence, say. All other numbers but the official ones are strict. A dash stands for a scorer that makes no "
    "difference; in the metrics such a task counts as in the strict table."
)

ABOUT_PARTS = "The accuracy of these tasks is the mean of several scores of the whole test set."

#: The head of the part on time.
LEDGER_HEAD = "Where the time went"

#: The rows of the parts of an accuracy.
PART_STAGES = {"learned": "just learned", "end": "at the end"}

#: The row of the standard errors.
_ERRORS = "±"

_ABOUT_ERRORS = (
    f'The row "{_ERRORS}" is the standard error of the last row that is scored: how far as many other test records of '
    "the same kind would move it. What another seed of the training would move is no part of it."
)


def format_report(report: dict, title: str) -> str:
    """Write a report as Markdown that also reads well in a terminal."""
    tasks, count = report["tasks"], report["num_scored_tasks"]
    zero_shot = report.get("zero_shot", {})
    parts = [f"# {title}"]
    if report.get("trained_alone"):
        parts.append(ALONE)
    if count < len(tasks):
        parts.append(f"Unfinished: {count} of {len(tasks)} tasks are scored, and the metrics describe these.")
    errors = _last_errors(report)
    parts += [
        " ".join(["All numbers are percent; a dash stands for what was not scored.", *provenance_in_words(report)]),
        *unscored_in_words(report),
        *(["## Metrics", _metrics_table(report)] if scored(report, tasks) else []),
        "## Accuracy",
        "Rows: after training on; columns: scored on."
        + (f" {_ABOUT_BEFORE}" if zero_shot else "")
        + (f" {_ABOUT_ERRORS}" if errors else ""),
        _matrix_table(tasks, report["accuracy_matrix"], zero_shot.get("accuracy"), errors),
        *_official_part(report),
        *_lenient_part(report),
        "## Answers in the right format",
        _matrix_table(tasks, report["format_matrix"], zero_shot.get("format")),
        "![Accuracy and right format after each task](matrix.png)",
        "![Accuracy of each task along the sequence](curves.png)",
        "## What was forgotten",
        "Points lost from just learned to the end: superficial by a lost answer format, essential by lost content.",
        _loss_table("task", tasks, report["losses"]),
        *_parts_part(report),
        *_transfer_part(report),
        *_retention_part(report),
        *_ledger_part(report),
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
        learned = [place for place in scored(report, tasks) if place < count]
        formatted = mean_of(report["format_matrix"][count - 1][place] for place in learned)
        cells = [*final[:count], *[None] * (len(tasks) - count), *(report[key] for key in METRICS), formatted]
        further.append(further_values(report))
        rows.append([name, *map(_number, cells)])
    if any("lenient" in report for report in reports.values()):
        for row, report in zip(rows, reports.values(), strict=True):
            row.append(_number(report.get("lenient", {}).get("mfn")))
    present = [key for key in FURTHER if any(key in values for values in further)]
    for row, values in zip(rows, further, strict=True):
        row += [_number(values.get(key)) for key in present]
    lenient = [LENIENT_HEAD] * any("lenient" in report for report in reports.values())
    heads = [*(head for head, _ in METRICS.values()), "Format", *lenient, *(FURTHER[key] for key in present)]
    return markdown_table(["run", *tasks, *heads], rows)


def format_ledgers(reports: Mapping[str, dict]) -> str:
    """Put side by side where the time of runs went.

    Args:
        reports: Run name -> report.

    Returns:
        A part of a page in Markdown, with a row for each run that has a ledger; empty where none has.
    """
    ledgers = {name: report["ledger"] for name, report in reports.items() if "ledger" in report}
    if not ledgers:
        return ""
    return f"\n## {LEDGER_HEAD}\n\n{ABOUT}\n\n{markdown_table(*run_table(ledgers))}"


def unscored_in_words(report: dict) -> list[str]:
    """Say which tasks and retention sets have no scores, and that metrics leave them out."""
    if "unscored" not in report:
        return []
    said = f"Nobody scores {', '.join(report['unscored'])}: without a test set, or with `scorer: none`."
    rest = "Metrics and means are over the others." if scored(report, report["tasks"]) else "So there are no metrics."
    return [f"{said} {rest}"]


def metric_columns(report: Mapping) -> dict[str, Mapping]:
    """Return the ways in which a report counts its answers, each with its metrics: strict, official and lenient.

    Where it has no lenient count, the strict one is called "value".
    """
    columns = {"strict" if "lenient" in report else "value": report}
    return columns | {name: report[name] for name in ("official", "lenient") if name in report}


def _metrics_table(report: dict) -> str:
    columns = metric_columns(report)
    rows = [[head, *map(_number, values), meaning] for head, meaning, values in metric_rows([*columns.values()])]
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


def _lenient_part(report: dict) -> list[str]:
    if "lenient" not in report:
        return []
    before = report.get("zero_shot", {}).get("lenient")
    return [
        "## Accuracy as a reader counts it (lenient)",
        ABOUT_LENIENT,
        _matrix_table(report["tasks"], report["lenient"]["accuracy_matrix"], before),
    ]


def _parts_part(report: dict) -> list[str]:
    if "parts" not in report:
        return []
    tables = []
    for task, stages in report["parts"].items():
        rows = [[PART_STAGES[stage], *map(_number, values.values())] for stage, values in stages.items()]
        tables += [f"{task}:", markdown_table(["", *stages["end"]], rows)]
    return ["## Parts of the accuracy", ABOUT_PARTS, *tables]


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
        *(
            ["Accuracy as a reader counts it (lenient):", _table(rows, sets, retention["lenient_matrix"])]
            if "lenient_matrix" in retention
            else []
        ),
        "Points lost from before the first task to the end: superficial by a lost answer format, essential by lost "
        "content.",
        _loss_table("set", sets, retention["losses"]),
    ]


def _ledger_part(report: dict) -> list[str]:
    if "ledger" not in report:
        return []
    found = report["ledger"]
    tables = [ABOUT, markdown_table(*task_table(found)), ABOUT_PHASES, markdown_table(*phase_table(found))]
    return [f"## {LEDGER_HEAD}", *tables]


def _loss_table(head: str, names: Sequence[str], losses: Sequence[Mapping[str, float] | None]) -> str:
    rows = [
        [name, *(_number(loss and loss[key]) for key in Loss._fields)]
        for name, loss in zip(names, losses, strict=True)
    ]
    return markdown_table([head, "lost", "superficial", "essential"], rows)


def _matrix_table(tasks: Sequence[str], matrix: Matrix, before: Row | None = None, errors: Row | None = None) -> str:
    first, last = before is not None, errors is not None
    names = [BEFORE] * first + [*tasks] + [_ERRORS] * last
    return _table(names, tasks, [before] * first + [*matrix] + [errors] * last)


def _last_errors(report: Mapping) -> Row | None:
    """Return the standard errors of the last row of accuracies, where they are known."""
    count = report["num_scored_tasks"]
    row = report["stderr_matrix"][count - 1] if count and "stderr_matrix" in report else ()
    return row if any(value is not None for value in row) else None


def provenance_in_words(report: Mapping) -> list[str]:
    """Say in one sentence with which seed and versions a report was made, and how many answers it rests on."""
    said = []
    if "seed" in report:
        seeds = report["seed"] if isinstance(report["seed"], list) else [report["seed"]]
        said.append(f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")
    if counts := report.get("counts"):
        fewest, most = min(counts.values()), max(counts.values())
        said.append(f"{fewest}{f' to {most}' * (fewest < most)} answers to each test set")
    if "versions" in report:
        said.append(", later ".join(map(in_words, report["versions"])))
    return [f"{'; '.join(said)}."] if said else []


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
