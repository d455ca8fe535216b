import io
import json
import re
import subprocess
import sys

import matplotlib.image
import pytest

from sefe_plugin.evaluation.report import load_report, write_report
from sefe_plugin.evaluation.report_data import build_report
from sefe_plugin.evaluation.report_text import format_report, format_table


TASKS = ["alpha", "beta", "gamma"]
ACCURACY = [[80.0, None, None], [60.0, 90.0, None], [50.0, 70.0, 40.0]]
FORMATS = [[100.0, None, None], [90.0, 95.0, None], [60.0, 100.0, 100.0]]
FILES = ["curves.png", "matrix.png", "report.html", "report.json", "report.md"]


@pytest.fixture
def report():
    return build_report(TASKS, ACCURACY, FORMATS)


def test_the_report_says_what_the_matrices_say(report):
    assert report["tasks"] == TASKS
    assert (report["accuracy_matrix"], report["format_matrix"]) == (ACCURACY, FORMATS)
    # Means of three numbers of at most two digits.
    assert [report[key] for key in ("mft", "mfn", "maa", "bwt", "forgetting")] == pytest.approx(
        [70, 160 / 3, (80 + 75 + 160 / 3) / 3, -50 / 3, 25], abs=1e-12
    )
    assert report["bwt_earlier"] == -25
    # (100 - 60) * (0.8 + 50 / 60) / 2
    assert report["losses"][0] == pytest.approx({"drop": 30, "superficial": 98 / 3, "essential": -8 / 3}, abs=1e-12)
    assert report["losses"][2] == {"drop": 0, "superficial": 0, "essential": 0}


def test_round_trip(tmp_path, report):
    write_report(tmp_path / "run" / "report", report, "a title")
    folder = tmp_path / "run" / "report"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert load_report(folder) == report


def test_official_accuracy_stands_beside_the_clean_one(tmp_path, report):
    official = [[70.0, None, None], [55.0, 80.0, None], [50.0, 60.0, 30.0]]
    both = build_report(TASKS, ACCURACY, FORMATS, official)
    assert {key: both[key] for key in report} == report
    assert both["official"]["accuracy_matrix"] == official
    # means of three numbers of two digits
    assert [both["official"][key] for key in ("mft", "mfn", "bwt")] == pytest.approx([60, 140 / 3, -40 / 3], abs=1e-12)
    write_report(tmp_path, both, "a title")
    assert load_report(tmp_path) == both
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert re.search(r"\| MFT +\| +70.00 \| +60.00 \|", text)
    assert re.search(r"\| BWT +\| +-16.67 \| +-13.33 \| .*over all T tasks as in CoIN and SEFE", text)
    assert re.search(r"\| BWT \(T-1\) +\| +-25.00 \| +-20.00 \| .*as in MCITlib and MLLM-CL", text)
    assert re.search(r"## Official accuracy\n(.*\n)+\| gamma \| 50.00 \| 60.00 \| 30.00 \|", text)


def test_what_a_reader_would_accept_stands_beside_the_strict_numbers_by_its_name(tmp_path, report):
    lenient = [[90.0, None, None], [80.0, 95.0, None], [70.0, 80.0, None]]
    sets = {"sets": ["general"], "accuracy_matrix": [[1.0]], "format_matrix": [[2.0]], "lenient_matrix": [[3.0]]}
    base = {"accuracy": [1.0] * 3, "format": [2.0] * 3, "lenient": [44.0] * 3}
    both = build_report(TASKS, ACCURACY, FORMATS, lenient_matrix=lenient, retention=sets, zero_shot=base)
    assert {key: both[key] for key in report} == report
    assert both["lenient"]["accuracy_matrix"] == lenient
    # gamma's scorer makes no difference, so its strict accuracy counts
    assert both["lenient"]["mft"] == pytest.approx((90 + 95 + 40) / 3)
    assert both["lenient"]["mfn"] == pytest.approx((70 + 80 + 40) / 3)
    half = build_report(TASKS, ACCURACY, FORMATS, lenient_matrix=[[None] * 3, *lenient[1:]])
    assert half["lenient"]["mfn"] is None  # an earlier version scored the first stage
    # what lacks a task would be the mean of others
    partly = [[90.0, None, None], [80.0, None, None], [70.0, None, 60.0]]
    official = build_report(TASKS, ACCURACY, FORMATS, official_matrix=partly)["official"]
    assert (official["mft"], official["mfn"], official["accuracy_matrix"]) == (None, None, partly)
    write_report(tmp_path, both, "a title")
    assert load_report(tmp_path) == both
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert re.search(r"\| metric +\| strict +\| lenient \|", text)
    assert re.search(r"## Accuracy as a reader counts it \(lenient\)\n(.*\n)+\| before \| 44.00 \|", text)
    assert re.search(r"## Accuracy as a reader counts it \(lenient\)\n(.*\n)+\| beta +\| 80.00 \| 95.00 \|", text)
    assert re.search(r"reader counts it \(lenient\):\n\n(.*\n)+\| before +\| +3.00 \|", text)
    assert "reader counts it (lenient)" in (tmp_path / "report.html").read_text(encoding="utf-8")
    both["lenient"]["mfn"] = 75.0
    table = format_table({"old": report, "new": both})
    assert [line.split("|")[11].strip() for line in table.splitlines()[::2][:1]] == ["MFN lenient"]
    assert [line.split("|")[11].strip() for line in table.splitlines()[2:]] == ["-", "75.00"]


def test_captions_may_exceed_100(tmp_path):
    report = build_report(["a"], [[140.9]], [[None]])
    write_report(tmp_path, report, "a title")
    assert load_report(tmp_path) == report
    assert "140.90" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_what_an_accuracy_is_the_mean_of_stands_in_the_reports(tmp_path):
    parts = {"a": {"learned": {"CIDEr": 100.0, "ROUGE-L": 40.0}, "end": {"CIDEr": 60.0, "ROUGE-L": 30.0}}}
    report = build_report(["a", "b"], [[70.0, None], [45.0, 80.0]], [[None] * 2] * 2, parts=parts)
    write_report(tmp_path, report, "a title")
    assert load_report(tmp_path) == report
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    part = text.partition("## Parts of the accuracy")[2].partition("##")[0]
    cells = [re.split(r" *\| *", line)[1:-1] for line in part.splitlines() if line.startswith("|")]
    assert cells[0] == ["", "CIDEr", "ROUGE-L"]
    assert cells[2:] == [["just learned", "100.00", "40.00"], ["at the end", "60.00", "30.00"]]
    assert "## Parts" not in format_report(build_report(["a"], [[1.0]], [[1.0]]), "none")


def test_equal_results_give_equal_bytes(tmp_path, report):
    for name in ("a", "b"):
        write_report(tmp_path / name, report, "a title")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_report_json_comes_last(tmp_path, report):
    """Its existence means that everything else is there."""
    (tmp_path / "curves.png").mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError, match=r"curves\.png"):
        write_report(tmp_path, report, "a title")
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_unfinished_sequences(tmp_path, rows):
    unfinished = build_report(TASKS, ACCURACY[:rows], FORMATS[:rows])
    assert unfinished["num_scored_tasks"] == rows
    assert unfinished["mft"] == (None if rows == 0 else sum((80, 90)[:rows]) / rows)
    assert [loss is None for loss in unfinished["losses"]] == [i >= rows for i in range(3)]
    write_report(tmp_path, unfinished, "a title")
    assert load_report(tmp_path) == unfinished
    assert f"Unfinished: {rows} of 3 tasks" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_keys_of_others_survive_loading(tmp_path, report):
    write_report(tmp_path, {**report, "method": "sefe"}, "a title")
    assert load_report(tmp_path)["method"] == "sefe"


def test_a_missing_report_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no report\.json in .*name the folder of a run"):
        load_report(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"tasks": ["a"]}', '{"tasks": ["a"], "accuracy_matrix": [[120]], "format_matrix": [[1]]}'],
)
def test_a_damaged_report_is_named(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError, match=r"report\.json is not a report or is damaged"):
        load_report(tmp_path)


@pytest.mark.parametrize(
    ("tasks", "accuracy", "formats", "message"),
    [
        ([], [], [], "at least one task"),
        (["a"], [[1.0, 2.0]], [[1.0]], "accuracy_matrix must have at most 1 rows of 1"),
        (["a"], [[1.0]], [[1.0], [2.0]], "format_matrix must have"),
        (["a"], [[251.0]], [[1.0]], r"accuracy_matrix\[0\]\[0\] must be a percentage"),
        (["a"], [[1.0]], [[float("nan")]], r"format_matrix\[0\]\[0\] must be a percentage"),
    ],
)
def test_bad_matrices_are_named(tasks, accuracy, formats, message):
    with pytest.raises(ValueError, match=message):
        build_report(tasks, accuracy, formats)


def test_the_text_shows_every_number_in_aligned_tables(report):
    text = format_report(report, "a title")
    assert text.startswith("# a title\n")
    assert "| beta  | 60.00 | 90.00 |     - |" in text
    assert "| MFN        |  53.33 |" in text
    assert "| alpha | 30.00 |       32.67 |     -2.67 |" in text
    assert "](matrix.png)" in text and "](curves.png)" in text
    tables = [block.split("\n") for block in text.strip().split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({len(line) for line in table}) == 1


def test_runs_side_by_side(report):
    half = build_report(TASKS, ACCURACY[:2], FORMATS[:2])
    assert format_table({"whole": report, "ha|f": half}).split("\n") == [
        "| run   | alpha |  beta | gamma |   MFT |   MFN |   MAA |    BWT | Forgetting | Format |",
        "| ----- | ----: | ----: | ----: | ----: | ----: | ----: | -----: | ---------: | -----: |",
        "| whole | 50.00 | 70.00 | 40.00 | 70.00 | 53.33 | 69.44 | -16.67 |      25.00 |  86.67 |",
        "| ha\\|f | 60.00 | 90.00 |     - | 85.00 | 75.00 | 77.50 | -10.00 |      20.00 |  92.50 |",
    ]


def test_runs_over_other_tasks_are_not_compared(report):
    with pytest.raises(ValueError, match=r"'a' has .*'alpha'.* 'b' has .*'x'"):
        format_table({"a": report, "b": build_report(["x"], [[1.0]], [[1.0]])})
    with pytest.raises(ValueError, match="at least one"):
        format_table({})


def test_pictures_show_the_numbers(tmp_path, report):
    from sefe_plugin.evaluation.figures import draw_curves, draw_matrices

    figure = draw_matrices(TASKS, ACCURACY, FORMATS, "a title")
    left, right = figure.axes[:2]
    assert [text.get_text() for text in left.texts] == ["80.0", "60.0", "90.0", "50.0", "70.0", "40.0"]
    assert [text.get_text() for text in right.texts] == ["100.0", "90.0", "95.0", "60.0", "100.0", "100.0"]
    curves = draw_curves(TASKS, ACCURACY, "a title").axes[0].lines
    assert [line.get_label() for line in curves] == TASKS
    assert [list(zip(*line.get_data(), strict=True)) for line in curves] == [
        [(0, 80), (1, 60), (2, 50)],
        [(1, 90), (2, 70)],
        [(2, 40)],
    ]
    buffer = io.BytesIO()
    figure.savefig(buffer)
    pixels = matplotlib.image.imread(io.BytesIO(buffer.getvalue()))
    # A light page: the corners are white.
    assert (pixels[0, 0] == 1).all() and (pixels[-1, -1] == 1).all()


def test_no_picture_library_is_loaded_before_it_is_needed():
    code = "import sys, sefe_plugin.evaluation.report as r; print(sorted({'matplotlib', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_no_two_of_many_lines_look_alike():
    from sefe_plugin.evaluation.figures import draw_curves

    tasks = [f"task {i}" for i in range(20)]
    accuracy = [[50.0 if j <= i else None for j in range(20)] for i in range(20)]
    lines = draw_curves(tasks, accuracy, "").axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20


#: Accuracy and right formats where the middle task alone is scored.
UNSCORED = [[[None, value, None] for value in column] for column in ((None, 90.0, 70.0), (None, 90.0, 90.0))]


def test_metrics_leave_out_tasks_without_scores_and_keep_their_stages(tmp_path):
    report = build_report(TASKS, *UNSCORED, unscored=["gamma", "alpha"])
    assert report["unscored"] == ["alpha", "gamma"]
    assert [report[key] for key in ("mft", "mfn", "maa", "bwt", "forgetting")] == [90, 70, 80, -20, 20]
    assert report["losses"] == [None, {"drop": 20, "superficial": 0, "essential": 20}, None]
    write_report(tmp_path, report, "a title")
    assert load_report(tmp_path) == report
    # finished or not is told by the rows that are there, also before the first scored task
    counts = [build_report(TASKS, *(m[:rows] for m in UNSCORED), unscored=["alpha", "gamma"]) for rows in range(4)]
    assert [one["num_scored_tasks"] for one in counts] == [0, 1, 2, 3]
    for one in counts:
        write_report(tmp_path, one, "a title")
        assert load_report(tmp_path) == one
    assert "| a run |     - | 70.00 |     - | 90.00 |" in format_table({"a run": report})


def test_errors_of_the_last_row_are_shown_when_the_first_task_has_no_scores():
    accuracy, errors = [[None, None], [None, 70.0]], [[None, None], [None, 3.0]]
    report = build_report(["A", "B"], accuracy, accuracy, stderr_matrix=errors, unscored=["A"])
    (row,) = [line for line in format_report(report, "x").splitlines() if line.startswith("| ±")]
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["-", "3.00"]


def test_pictures_have_dashes_where_nobody_scores():
    from sefe_plugin.evaluation.figures import draw_curves, draw_matrices

    retention = {"sets": ["x", "y"], "accuracy_matrix": [[None, 5.0]] * 4, "format_matrix": [[None, 5.0]] * 4}
    for more, dashes in (({}, [6, 6]), ({"retention": retention}, [8, 4, 8, 4])):
        unscored = ["alpha", "gamma", "x"]
        figure = draw_matrices(TASKS, *UNSCORED, "a title", unscored=unscored, **more)
        maps = [axes for axes in figure.axes if axes.get_title()]
        assert [sum(text.get_text() == "-" for text in axes.texts) for axes in maps] == dashes
    assert len(draw_curves(TASKS, UNSCORED[0], "a title").axes[0].lines) == 1
    assert not draw_curves(["alpha"], [[None]], "a title").axes[0].lines


def test_the_maps_of_many_tasks_fit_a_page():
    from sefe_plugin.evaluation.figures import draw_matrices

    def of(count):
        names = [f"task {i}" for i in range(count)]
        rows = [[50.0 if j <= i else None for j in range(count)] for i in range(count)]
        return draw_matrices(names, rows, rows, "a title")

    numbers = {count: sum(len(axes.texts) for axes in of(count).axes) for count in (24, 25)}
    assert numbers == {24: 24 * 25, 25: 0}
    assert of(64).get_size_inches().tolist() == of(24).get_size_inches().tolist()
