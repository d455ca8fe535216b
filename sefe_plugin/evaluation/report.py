"""The report of a run in its folder: data, text, pictures and a page; and pages of several runs."""

from collections.abc import Sequence
from pathlib import Path

from sefe_plugin.evaluation.html_report.content import PageRun, page_content
from sefe_plugin.evaluation.html_report.details import RunDetails
from sefe_plugin.evaluation.html_report.page import render_page
from sefe_plugin.evaluation.report_data import build_report
from sefe_plugin.evaluation.report_text import format_report
from sefe_plugin.files import read_json, replacing, write_json, write_text


REPORT_FILE, PAGE_FILE = "report.json", "report.html"
_TEXT_FILE, _MATRIX_FILE, _CURVES_FILE = "report.md", "matrix.png", "curves.png"
#: All that `write_report` writes; the data last.
REPORT_FILES = (_TEXT_FILE, _MATRIX_FILE, _CURVES_FILE, PAGE_FILE, REPORT_FILE)


def write_report(folder: Path, report: dict, title: str, details: RunDetails | None = None) -> None:
    """Write ``report.md``, ``matrix.png``, ``curves.png``, ``report.html`` and, last, ``report.json`` into a folder.

    Each file appears whole or not at all. ``report.json`` holds times only in its "ledger", so beside that equal
    results give equal bytes.

    Args:
        folder: Created where it is missing.
        report: What `build_report` returned.
        title: Head of the text and the pictures, such as the run's name.
        details: What ``report.html`` shows beside the report; nothing else by default.
    """
    from sefe_plugin.evaluation.figures import draw_curves, draw_matrices

    accuracy, more = report["accuracy_matrix"], {key: report.get(key) for key in ("zero_shot", "retention")}
    more["unscored"] = report.get("unscored", ())
    figures = {
        _MATRIX_FILE: draw_matrices(report["tasks"], accuracy, report["format_matrix"], title, **more),
        _CURVES_FILE: draw_curves(report["tasks"], accuracy, title, report.get("retention")),
    }
    write_text(folder / _TEXT_FILE, format_report(report, title))
    for name, figure in figures.items():
        with replacing(folder / name) as temporary:
            figure.savefig(temporary, format="png")
    write_page(folder / PAGE_FILE, title, [PageRun(title, report, details or RunDetails())])
    write_json(folder / REPORT_FILE, report)


def write_page(file: Path, title: str, runs: Sequence[PageRun]) -> None:
    """Write a page that stands alone, of one run or of several side by side.

    Args:
        file: The HTML file.
        title: Head of the page.
        runs: The runs, over the same tasks in the same order.

    Raises:
        ValueError: Where the tasks of the runs differ.
    """
    write_text(file, render_page(page_content(title, runs)))


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
        # rows of finished tasks: of one that nobody scores, nothing else tells that it is
        finished = stored["num_scored_tasks"]
        rows = [row for i, row in enumerate(stored["accuracy_matrix"]) if i < finished or {*row} != {None}]
        computed = build_report(
            stored["tasks"],
            rows,
            stored["format_matrix"],
            official,
            zero_shot=stored.get("zero_shot"),
            single_task=stored.get("forward_transfer", {}).get("single_task"),
            retention=stored.get("retention"),
            trained_alone=stored.get("trained_alone", False),
            stderr_matrix=stored.get("stderr_matrix"),
            counts=stored.get("counts"),
            unscored=stored.get("unscored", ()),
            lenient_matrix=stored["lenient"]["accuracy_matrix"] if "lenient" in stored else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a report or is damaged ({error!r}); write the report again") from error
    return {**stored, **computed}
