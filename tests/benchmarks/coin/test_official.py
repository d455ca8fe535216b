"""Every quirk of the official scripts, by cases worked out by hand from their rules."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sefe_plugin.answers.text_vqa import OFFICIAL_MAX_PERIODS, normalize_answer, soft_accuracy
from sefe_plugin.benchmarks.coin import TASKS
from sefe_plugin.benchmarks.coin.official import OFFICIAL, official_accuracy
from sefe_plugin.benchmarks.score_file import score_file
from sefe_plugin.cli import main
from sefe_plugin.evaluation.scorers import Score, scorer_of


SCIENCE = {"answer": "B", "num_choices": 4}
BOX = {"answer_bbox": "[0.10, 0.10, 0.90, 0.90]", "size": [640, 480]}
ANSWERS = {"answers": ["stop"] * 2 + ["go"] + ["slow down"] * 7}


@pytest.mark.parametrize(
    ("task", "record", "right", "wrong"),
    [
        (
            "ScienceQA",
            SCIENCE,
            ["B", "B. Leaves", "B. ", "So: The answer is B. Yes", "The answer is B!", "The answer is B. A"],
            [
                *("", "b", "B.", " B", "(B)", "B: Leaves", "B.Leaves", "The answer is B", "the answer is B."),
                *("The answer is B. The answer is B.", "A. The answer is B."),
            ],
        ),
        ("ScienceQA", {"answer": "E", "num_choices": 4}, [], ["E", "E. x", "The answer is E."]),
        ("ScienceQA", {"answer": "E", "num_choices": 5}, ["E", "E. x", "The answer is E."], ["F", "The answer is F."]),
        (
            "ImageNet",
            {"answer": "great white shark"},
            ["great white shark", "a great white shark.", "", "shark", "e"],
            ["Great white shark", "great-white shark", "shark."],
        ),
        ("GQA", {"answer": "red"}, ["red", "Red", "RED...", "red."], [" red", "red .", "the red", ""]),
        ("GQA", {"answer": "Red"}, [], ["Red", "red"]),
        *[
            (task, {"answer": "Red Car"}, ["red car", "RED CAR"], ["red car.", " red car", "car", ""])
            for task in ("VizWiz", "VQAv2", "OCRVQA")
        ],
        # only the upper case of the sharp s is "SS"
        ("VizWiz", {"answer": "strasse"}, ["straße"], []),
        ("OCRVQA", {"answer": "strasse"}, [], ["straße"]),
        ("VizWiz", {"answer": "Unanswerable"}, ["Unanswerable"], []),
        ("OCRVQA", {"answer": "Unanswerable"}, ["unanswerable"], ["Unanswerable"]),
        (
            "Grounding",
            BOX,
            # without its last digit 0.90 is still 0.9, and 0.95 becomes 0.9
            [
                *("[0.10, 0.10, 0.90, 0.90]", "[0.1, 0.1, 0.9, 0.95]", "(0.1, 0.1, 0.9, 0.9)"),
                *("00.1,0.1,0.9,0.9]]]0", "[[0.1], 0.1, 0.9, 0.90]"),
            ],
            # 0.9 becomes 0. and 1 becomes nothing
            [
                *("[0.1, 0.1, 0.9, 0.9]", "[0.1, 0.1, 0.9, 1]", "[0.1, 0.1, 0.9]", "", "[", "0.1 0.1 0.9 0.90"),
                *("The box is [0.10, 0.10, 0.90, 0.90]", "[xnan, 0.1, 0.9, 0.90]", "[0.1, 0.1, inf, 0.90]"),
                "[0.9, 0.9, 0.1, 0.10]",
            ],
        ),
    ],
)
def test_what_counts_as_right(task, record, right, wrong):
    assert [text for text in right + wrong if OFFICIAL[task](text, record)] == right


def test_a_first_coordinate_loses_its_first_character():
    record = {"answer_bbox": "0.0, 0.0, 1.0, 1.0", "size": [10, 10]}
    # read as .0, 0.0, 1.0, 1.0
    assert OFFICIAL["Grounding"]("[1.0, 0.0, 1.0, 1.00]", record) == 1


def test_an_iou_of_exactly_a_half_is_wrong():
    record = {"answer_bbox": "[0, 0, 2, 2]", "size": [1, 1]}
    assert OFFICIAL["Grounding"]("[00, 0, 2, 10]", record) == 0
    assert OFFICIAL["Grounding"]("[00, 0, 2, 1.10]", record) == 1


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Red-Car", "red car"),
        ("red - car", "red car"),
        # one mark beside a blank: the same mark is taken out everywhere
        ("a-b - c", "ab c"),
        ("1,000 and?", "1000 and"),
        ("U.S. 3.5 5.", "us 3.5 5"),
        ("none of two tens", "0 of 2 tens"),
        ("it's dont couldntve couldnt've y'allll", "it 's don't couldntve couldn't've y'all'll"),
        ("somebody'd", "somebodyd"),
        ("shell wed well", "shell wed well"),
        ("a\nb\tc", "b c"),
        ("the a an", ""),
    ],
)
def test_normal_form(text, normal):
    assert normalize_answer(text) == normal


def test_the_official_normal_form_stops_after_32_periods():
    assert OFFICIAL_MAX_PERIODS == 32
    assert normalize_answer("x" + "." * 34, OFFICIAL_MAX_PERIODS) == "x.."
    assert normalize_answer("x" + "." * 34) == "x"


@given(st.text(alphabet="ab 12.,'s?-\n", max_size=12))
def test_the_normal_form_has_single_blanks_and_no_capitals(text):
    normal = normalize_answer(text.upper())
    assert normal == normal.lower() == " ".join(normal.split())
    assert not re.search(r"[,?-]|\.(?!\d)", normal)


@pytest.mark.parametrize(
    ("equal", "value"),
    # k annotators see min(1, (k - 1) / 3), the others min(1, k / 3)
    [(0, 0.0), (1, 9 / 30), (2, (2 + 16) / 30), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_soft_accuracy(equal, value):
    # Ten terms below 1: a few units in the last place.
    assert soft_accuracy("stop", ["Stop."] * equal + ["x"] * (10 - equal)) == pytest.approx(value, abs=1e-15)


def test_the_clean_soft_score_knows_the_format():
    rule = scorer_of("text_vqa").rule
    assert rule("slow down", ANSWERS) == Score(1.0, True)
    assert rule("red", ANSWERS) == Score(0.0, True)
    assert rule("The sign says to stop.", ANSWERS) == Score(0.0, False)


def test_the_tasks_are_coins():
    assert list(OFFICIAL) == [task.name for task in TASKS]


def rows(task, *pairs):
    return [{"question_id": i, "prediction": p, "answer": a, "num_choices": 4} for i, p, a in pairs]


@pytest.mark.parametrize(
    ("task", "accuracy"),
    # rows 1 and 3 share an id: right, wrong (row 2), wrong by their own answers
    [("GQA", 0.0), ("ScienceQA", 0.0), ("ImageNet", 100 / 3), ("VizWiz", 0.0), ("VQAv2", 0.0), ("OCRVQA", 0.0)],
)
def test_rows_with_one_question_id(task, accuracy):
    letters = ("a", "b", "c") if task == "GQA" else ("A", "B", "C")
    a, b, c = letters
    given_rows = rows(task, (7, a, a), (8, b, c), (7, b, c))
    # One division of small whole numbers.
    assert official_accuracy(task, given_rows) == pytest.approx(accuracy, abs=1e-12)
    for i, row in enumerate(given_rows):
        row["question_id"] = i
    assert official_accuracy(task, given_rows) == pytest.approx(100 / 3, abs=1e-12)
    for row in given_rows:
        del row["question_id"]
    assert official_accuracy(task, given_rows) == pytest.approx(100 / 3, abs=1e-12)


def test_all_predictions_of_an_id_are_held_against_the_last_answer():
    assert official_accuracy("VQAv2", rows("VQAv2", (1, "B", "A"), (1, "B", "B"))) == 100
    # the last prediction alone counts, so there is one sample
    assert official_accuracy("ScienceQA", rows("ScienceQA", (1, "A", "B"), (1, "B", "B"))) == 100


def test_the_order_of_division_is_the_scripts():
    assert official_accuracy("GQA", [{"prediction": p, "answer": "a"} for p in ["a"] * 7 + ["b"] * 18]) == 7 / 25 * 100
    assert official_accuracy("VizWiz", [{"prediction": p, "answer": "a"} for p in ["a"] * 7 + ["b"] * 18]) == 700 / 25
    assert 7 / 25 * 100 != 700 / 25


def write(folder, *lines):
    file = folder / "p.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return file


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("ScienceQA", {"answer": "F", "num_choices": 4}, "line 2: .*letter A to E as 'answer', got 'F'"),
        ("ScienceQA", {"answer": "A"}, "line 2: .*whole number as 'num_choices', got None"),
        ("TextVQA", {"answers": ["x"] * 9}, "line 2: .*list of 10 texts as 'answers'"),
        ("TextVQA", {"answer": "x"}, "line 2: .*as 'answers', got None"),
        ("GQA", {}, "line 2: .*needs a text as 'answer', got None"),
        ("Grounding", {"answer_bbox": "[1, 2, 3]", "size": [1, 1]}, "line 2: .*four numbers as 'answer_bbox'"),
        ("Grounding", {"answer_bbox": "[1, 2, 3, 4]"}, "line 2: .*width and height as 'size', got None"),
    ],
)
def test_a_bad_row_is_named(tmp_path, task, row, message):
    good = {**SCIENCE, **ANSWERS, **BOX, "prediction": "A"}
    with pytest.raises(ValueError, match=rf"p\.jsonl, {message}"):
        score_file(task, write(tmp_path, good, {"prediction": "A", **row}), "official")


def test_all_bad_rows_are_counted_and_clean_scores_need_golds_that_an_answer_can_match(tmp_path):
    rows = [{**SCIENCE, **ANSWERS, **BOX, "prediction": "x", "answer": " "}] * 8
    with pytest.raises(ValueError, match=r"p\.jsonl: 3 more rows are at fault\.$") as error:
        score_file("GQA", write(tmp_path, *rows), "clean")
    assert [line.partition("line ")[2][:1] for line in str(error.value).splitlines()] == ["1", "2", "3", "4", "5", ""]
    # the official scores are what they are
    assert score_file("GQA", write(tmp_path, *rows), "official").accuracy == 0
    zero = {**BOX, "answer_bbox": "[0.5, 0.5, 0.5, 0.7]", "prediction": "[0.5, 0.5, 0.5, 0.7]"}
    assert score_file("Grounding", write(tmp_path, zero), "official").accuracy == 0
    with pytest.raises(ValueError, match="x1 < x2"):
        score_file("Grounding", write(tmp_path, zero), "clean")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1: each line must be one JSON object"),
        (["", "[]"], "line 2: needs a text as 'prediction', got \\[\\]"),
        ([{"prediction": 3, "answer": "x"}], "line 1: needs a text as 'prediction'"),
        ([""], "holds no predictions"),
    ],
)
def test_a_bad_file_is_named(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        score_file("GQA", write(tmp_path, *lines), "clean")


def test_unknown_words_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of ScienceQA, .*OCRVQA; got 'scienceqa'"):
        score_file("scienceqa", tmp_path, "clean")
    with pytest.raises(ValueError, match="must be one of official, clean; got 'strict'"):
        score_file("GQA", tmp_path, "strict")


def test_score_prints_the_accuracy(tmp_path, capsys):
    file = write(tmp_path, *({"prediction": p, "answer": "red"} for p in ("red", "Red.", " red", "It is red, I say.")))
    for mode, accuracy in (("official", "50.0000"), ("clean", "75.0000")):
        assert main(["score", "GQA", str(file), "--mode", mode]) == 0
        out, err = capsys.readouterr()
        assert out == f"{accuracy}\n"
        assert "right format 75.0000 %, 4 answers" in err
