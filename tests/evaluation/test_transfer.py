"""Forward transfer and retention: the arithmetic by hand, and how a report shows them."""

import doctest
import itertools
import re

import matplotlib.image
import pytest

from sefe_plugin.evaluation import metrics, transfer
from sefe_plugin.evaluation.figures import draw_curves, draw_matrices
from sefe_plugin.evaluation.report import load_report, write_report
from sefe_plugin.evaluation.report_data import build_report
from sefe_plugin.evaluation.report_text import format_report, format_table
from sefe_plugin.evaluation.transfer import learning_transfer, mean_over_stages, retention_losses, unseen_transfer


TASKS = ["alpha", "beta", "gamma"]
ACCURACY = [[80.0, 12.0, 20.0], [60.0, 90.0, 30.0], [50.0, 70.0, 40.0]]
FORMATS = [[100.0, 40.0, 50.0], [90.0, 95.0, 60.0], [60.0, 100.0, 100.0]]
ZERO_SHOT = {"accuracy": [5.0, 10.0, 14.0], "format": [50.0, 60.0, 70.0]}
RETENTION = {
    "sets": ["general", "maths"],
    "accuracy_matrix": [[80.0, 60.0], [70.0, 55.0], [60.0, 50.0], [30.0, 45.0]],
    "format_matrix": [[80.0, 90.0], [75.0, 90.0], [70.0, 90.0], [40.0, 90.0]],
}


@pytest.fixture
def report():
    return build_report(
        TASKS, ACCURACY, FORMATS, zero_shot=ZERO_SHOT, single_task=[80.0, 84.0, 46.0], retention=RETENTION
    )


@pytest.mark.parametrize("module", [metrics, transfer])
def test_doctests(module):
    assert doctest.testmod(module).failed == 0


def test_the_report_has_what_the_formulas_say(report):
    assert report["zero_shot"] == ZERO_SHOT
    assert report["forward_transfer"] == {
        "unseen": [(12 - 10 + 20 - 14) / 2, 30.0 - 14],
        "unseen_mean": 10.0,
        "learning": [0.0, 3.0, 0.0],
        "learning_mean": 1.0,
        "single_task": [80.0, 84.0, 46.0],
    }
    assert report["retention"]["losses"] == [
        {"drop": 50.0, "superficial": 35.0, "essential": 15.0},
        {"drop": 15.0, "superficial": 0.0, "essential": pytest.approx(15.0)},
    ]
    plain = build_report(TASKS, ACCURACY, FORMATS)
    assert {key: report[key] for key in plain} == plain
    assert not {"zero_shot", "forward_transfer", "retention", "trained_alone"} & plain.keys()


def test_each_part_comes_alone():
    unseen = build_report(TASKS, ACCURACY, FORMATS, zero_shot=ZERO_SHOT)
    assert unseen["forward_transfer"].keys() == {"unseen", "unseen_mean"}
    learning = build_report(TASKS, ACCURACY, FORMATS, single_task=[1.0, 2.0, 3.0])
    assert learning["forward_transfer"].keys() == {"learning", "learning_mean", "single_task"}
    retention = build_report(TASKS, ACCURACY, FORMATS, retention=RETENTION)
    assert "forward_transfer" not in retention
    alone = build_report(TASKS, ACCURACY, FORMATS, trained_alone=True)
    assert alone["trained_alone"] is True
    assert "each task was trained alone" in format_report(alone, "x").lower()


def test_unfinished_and_extended_sequences():
    begun = build_report(
        TASKS,
        ACCURACY[:1],
        FORMATS[:1],
        zero_shot=ZERO_SHOT,
        single_task=[80.0, 84.0, 46.0],
        retention={key: rows[:2] for key, rows in RETENTION.items()},
    )
    assert begun["forward_transfer"]["unseen"] == [4.0, None]
    assert begun["forward_transfer"]["unseen_mean"] == 4.0
    assert begun["forward_transfer"]["learning"] == [0.0, None, None]
    assert begun["retention"]["accuracy_matrix"][2:] == [[None, None]] * 2
    assert begun["retention"]["losses"][0]["drop"] == 10.0
    extended = [[80.0, 12.0, None], *ACCURACY[1:]]
    assert unseen_transfer(extended, ZERO_SHOT["accuracy"]) == [None, 16.0]
    assert mean_over_stages([None, 16.0], extended) is None
    nothing = build_report(TASKS, [], [], zero_shot={"accuracy": [None] * 3, "format": [None] * 3})
    assert nothing["forward_transfer"] == {"unseen": [None, None], "unseen_mean": None}
    assert "| before |" in format_report(nothing, "x")


def test_edges():
    assert unseen_transfer([[80.0]], [10.0]) == []
    assert mean_over_stages([], [[80.0]]) is None
    assert learning_transfer([[80.0]], [None]) == [None]
    assert retention_losses([], []) == []
    assert retention_losses([[80.0], [None]], [[90.0], [None]]) == [None]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"zero_shot": {"accuracy": [1.0], "format": [1.0]}}, "zero_shot accuracy must have at most 1 rows of 3"),
        ({"single_task": [1.0, 2.0, 300.0]}, r"single_task\[0\]\[2\] must be a percentage"),
        ({"retention": {**RETENTION, "sets": ["one"]}}, "retention accuracy_matrix must have at most 4 rows of 1"),
    ],
)
def test_bad_rows_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        build_report(TASKS, ACCURACY, FORMATS, **given)


def test_round_trip_and_text(tmp_path, report):
    write_report(tmp_path, report, "a title")
    assert load_report(tmp_path) == report
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert re.search(r"\| FWD unseen +\| +10.00 \|", text)
    assert re.search(r"\| FWD learning +\| +1.00 \|", text)
    assert re.search(r"## Accuracy\n(.*\n)+?\| before +\| +5.00 \| 10.00 \| 14.00 \|\n\| alpha", text)
    assert re.search(r"## Retention\n(.*\n)+?\| before +\| +80.00 \| +60.00 \|", text)
    assert re.search(r"\| general \| 50.00 \| +35.00 \| +15.00 \|", text)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({len(line) for line in block.strip().split("\n")}) == 1


def test_runs_side_by_side_show_what_one_of_them_has(report):
    plain = build_report(TASKS, ACCURACY, FORMATS)
    both = format_table({"with": report, "without": plain}).split("\n")
    heads = [cell.strip() for cell in both[0].strip("|").split("|")]
    assert heads[-5:] == ["FWD unseen", "FWD learning", "Retention", "Retention format", "Retention lost"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")][-5:] for line in both[2:]]
    assert cells == [["10.00", "1.00", "37.50", "65.00", "32.50"], ["-"] * 5]
    assert "FWD" not in format_table({"without": plain})


def test_the_pictures_show_the_row_of_the_base_and_retention_apart(tmp_path, report):
    figure = draw_matrices(TASKS, ACCURACY, FORMATS, "a title", report["zero_shot"], report["retention"])
    accuracy, kept, formats, kept_formats = figure.axes[:4]
    assert [text.get_text() for text in accuracy.texts] == [
        f"{value:.1f}" for row in (ZERO_SHOT["accuracy"], *ACCURACY) for value in row
    ]
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["before", *TASKS]
    assert [text.get_text() for text in kept.texts][:4] == ["80.0", "60.0", "70.0", "55.0"]
    assert [label.get_text() for label in kept.get_xticklabels()] == ["general", "maths"]
    assert (formats.get_title(), kept_formats.get_title()) == ("Right format (%)", "Retention")
    figure.savefig(tmp_path / "matrix.png")
    boxes = [axes.get_tightbbox() for axes in figure.axes[:4]]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))  # nothing overlaps
    assert (matplotlib.image.imread(tmp_path / "matrix.png")[0, 0] == 1).all()
    lines = draw_curves(TASKS, ACCURACY, "a title", report["retention"]).axes[0].lines
    assert [(line.get_label(), line.get_linestyle()) for line in lines][-2:] == [("general", "--"), ("maths", "--")]
    assert list(zip(*lines[-1].get_data(), strict=True)) == [(-1, 60), (0, 55), (1, 50), (2, 45)]
    without_sets = draw_matrices(TASKS, ACCURACY, FORMATS, "a title", report["zero_shot"])
    assert len(without_sets.axes) == 3  # two maps and the scale
