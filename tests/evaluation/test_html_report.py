"""The page of a run as data and as HTML; tests/evaluation/test_page_in_browser.py looks at it in a browser."""

import base64
import doctest
import hashlib
import json
import re
from importlib.resources import files

import pytest
from left_answers import draw_pictures

from sefe_plugin.evaluation.html_report import choice, content, details, page
from sefe_plugin.evaluation.html_report.choice import choose
from sefe_plugin.evaluation.html_report.content import PageRun, page_content
from sefe_plugin.evaluation.html_report.details import Question, RunDetails, SetAnswers, StageAnswers, change
from sefe_plugin.evaluation.html_report.page import render_page
from sefe_plugin.evaluation.html_report.pictures import Pictures
from sefe_plugin.evaluation.report_data import build_report
from sefe_plugin.evaluation.scorers import Score


RIGHT, WRONG, NO_FORMAT = Score(1.0, True), Score(0.0, True), Score(0.0, False)
REPORT = build_report(["A", "B"], [[80.0, None], [40.0, 70.0]], [[90.0, None], [60.0, 80.0]])


def answers_of(*scores, name="A", learned=0, **keys):
    """A set of which each stage from 0 on has these scores."""
    questions = [Question(f"question {number}", "gold") for number in range(len(scores[0]))]
    stages = {stage: StageAnswers([str(score) for score in row], row) for stage, row in enumerate(scores)}
    return SetAnswers(name, "short_answer", False, learned, questions=questions, stages=stages, **keys)


def run_of(*sets, name="mine", report=REPORT):
    return PageRun(name, report, RunDetails({"cl_method": "lora"}, (), sets))


@pytest.mark.parametrize("module", [details, choice])
def test_doctests(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        (RIGHT, RIGHT, "."),
        (RIGHT, WRONG, "c"),
        (RIGHT, NO_FORMAT, "f"),
        (WRONG, RIGHT, "r"),
        (NO_FORMAT, RIGHT, "r"),
        (WRONG, NO_FORMAT, "."),
        (NO_FORMAT, WRONG, "."),
        (Score(0.6, True), Score(0.3, True), "c"),
        (Score(0.3, True), Score(0.6, True), "r"),
    ],
)
def test_what_became_of_an_answer(then, now, expected):
    assert change(then, now) == expected


def test_what_was_lost_and_regained_adds_up_to_the_change_of_accuracy():
    then = [RIGHT] * 6 + [WRONG] * 4
    now = [RIGHT, WRONG, WRONG, NO_FORMAT, RIGHT, RIGHT, RIGHT, WRONG, NO_FORMAT, RIGHT]
    letters = answers_of(then, now).changes(1)
    lost = letters.count("f") + letters.count("c") - letters.count("r")
    assert lost == sum(score.correct for score in then) - sum(score.correct for score in now)
    assert (letters.count("f"), letters.count("c"), letters.count("r")) == (1, 2, 2)


def test_before_a_task_is_learned_nothing_is_lost():
    found = answers_of([RIGHT, WRONG], [WRONG, RIGHT], [WRONG, WRONG], learned=1)
    assert [found.changes(stage) for stage in (0, 1, 2)] == ["..", "..", ".c"]


def test_answers_without_scores_are_shown_without_judgement():
    found = answers_of([RIGHT], [WRONG])
    found.stages[1] = StageAnswers(["a long text"], None)
    (shown,) = page_content("t", [run_of(found)])["sets"]
    assert shown["runs"][0][1] == {"answers": ["a long text"], "changes": ".", "counts": {"all": 1}}


def test_questions_are_chosen_by_their_changes_and_always_the_same():
    rare = [number in (17, 940) for number in range(1000)]
    often = [number % 2 == 0 for number in range(1000)]
    chosen = choose([rare, often], 1000, 50)
    assert len(set(chosen)) == 50
    assert {17, 940} <= {*chosen}
    assert sum(often[number] for number in chosen) >= 48
    assert chosen == sorted(chosen) == choose([rare, often], 1000, 50)
    assert max(chosen) - min(chosen) > 500  # from all over a test set, which may be sorted


def test_the_rest_is_filled_up_with_unchanged_answers():
    assert len(choose([[False] * 40], 40, 30)) == 30
    assert choose([], 5, 30) == [0, 1, 2, 3, 4]


def test_counts_are_over_all_answers_and_rows_over_those_shown(monkeypatch):
    monkeypatch.setattr(content, "MOST_ROWS", 10)
    now = [WRONG] * 30 + [NO_FORMAT] * 3 + [RIGHT] * 67
    (shown,) = page_content("t", [run_of(answers_of([RIGHT] * 100, now))])["sets"]
    stage = shown["runs"][0][1]
    assert stage["counts"] == {"all": 100, "c": 30, "f": 3, "wrong": 33}
    assert shown["total"] == 100
    assert len(shown["numbers"]) == len(stage["answers"]) == len(stage["changes"]) == 10
    assert stage["changes"].count("f") == 3
    assert [stage["answers"][place] for place, n in enumerate(shown["numbers"]) if n in (30, 31, 32)] == [
        str(NO_FORMAT)
    ] * 3


def test_long_texts_are_cut_and_say_so():
    found = answers_of([RIGHT])
    found.stages[0] = StageAnswers(["x" * 700], [RIGHT])
    (shown,) = page_content("t", [run_of(found)])["sets"]
    assert shown["runs"][0][0]["answers"] == ["x" * 600 + " ... (100 more characters)"]


def test_pictures_are_small_and_stored_once(tmp_path):
    name, _ = draw_pictures(tmp_path, 2, (640, 480))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    pictures = Pictures()
    assert [pictures.add(name, tmp_path) for _ in range(3)] == [0, 0, 0]
    assert pictures.add("1.png", tmp_path) == 1
    assert pictures.add(str(tmp_path / name), tmp_path) == 0
    assert len(pictures.uris) == 2
    assert all(uri.startswith("data:image/webp;base64,") and len(uri) < 10_000 for uri in pictures.uris)
    assert "gone.png cannot be shown: " in pictures.add("gone.png", tmp_path)
    assert "broken.png cannot be shown: " in pictures.add("broken.png", tmp_path)
    assert "cannot be shown" in pictures.add("n" * 5000, tmp_path)
    assert len(pictures.uris) == 2


@pytest.mark.parametrize(
    ("text", "images", "expected"),
    [
        ("<image>\nWhat is it?\n", "0.png", "What is it?\n"),
        ("<image> What is it?", "0.png", "What is it?"),
        ("What is it?\n<image>", "0.png", "What is it?"),
        ("<image>Is <image> newer?", "0.png 1.png", "Is image 2 newer?"),
        ("<image>\nWhat is it?", "gone.png", "<image>\nWhat is it?"),  # nothing else tells of the picture
        ("What is <image>?", "", "What is <image>?"),
    ],
)
def test_no_marker_stands_beside_the_picture_that_it_stands_for(tmp_path, text, images, expected):
    draw_pictures(tmp_path, 2)
    found = answers_of([RIGHT], media_dir=tmp_path)
    found.questions = [Question(text, "gold", tuple(images.split()))]
    (shown,) = page_content("t", [run_of(found)])["sets"]
    assert shown["questions"][0][0] == expected


def test_runs_are_paired_answer_by_answer():
    one = run_of(answers_of([RIGHT] * 4, [RIGHT, RIGHT, WRONG, WRONG]), name="one")
    two = run_of(answers_of([RIGHT] * 4, [RIGHT, WRONG, RIGHT, RIGHT]), name="two")
    (shown,) = page_content("t", [one, two])["sets"]
    assert "versus" not in shown["runs"][0][1]
    assert shown["runs"][1][1]["versus"] == ".wbb"
    assert shown["runs"][1][1]["counts"] == {"all": 4, "c": 1, "w": 1, "b": 2, "wrong": 1}


def test_runs_with_other_questions_are_not_paired():
    other = answers_of([RIGHT])
    other.questions = [Question("another question", "gold")]
    (shown,) = page_content("t", [run_of(answers_of([RIGHT])), run_of(other, name="two")])["sets"]
    assert shown["runs"][1] == {}
    assert shown["notes"] == ["two did not answer the same questions, so its answers are not shown."]


def test_answers_that_other_scorers_judge_are_not_paired():
    other = answers_of([WRONG])
    other.scorer = "class_name"
    (shown,) = page_content("t", [run_of(answers_of([RIGHT])), run_of(other, name="two")])["sets"]
    assert shown["runs"][1] == {}
    (note,) = shown["notes"]
    assert note.startswith("two is scored by 'class_name' here, and mine by 'short_answer'")
    assert note.endswith("sefe score two --scorer A=short_answer")


def test_runs_over_other_tasks_are_refused():
    other = run_of(name="two", report={**REPORT, "tasks": ["A", "C"]})
    with pytest.raises(ValueError, match=r"over the same tasks only: 'mine' has .*'two' has \['A', 'C'\]"):
        page_content("t", [run_of(), other])


def test_metrics_stand_with_their_meanings_and_official_values():
    official = build_report(["A"], [[50.0]], [[60.0]], [[40.0]], zero_shot={"accuracy": [1.0], "format": [2.0]})
    metrics = page_content("t", [run_of(report=official)])["metrics"]
    assert metrics["columns"] == ["value", "official"]
    assert ["MFN", "mean accuracy of all tasks at the end", 50.0, 40.0] in metrics["rows"]
    assert [row[0] for row in metrics["rows"]][-1] == "FWD unseen"


def test_lenient_values_stand_beside_strict_ones_by_their_names():
    report = build_report(["A"], [[50.0]], [[60.0]], lenient_matrix=[[70.0]])
    content = page_content("t", [run_of(report=report)])
    assert content["metrics"]["columns"] == ["strict", "lenient"]
    assert ["MFN", "mean accuracy of all tasks at the end", 50.0, 70.0] in content["metrics"]["rows"]
    assert "whatever their format" in content["lenient"]
    several = page_content("t", [run_of(report=report), run_of(name="two", report=report)])
    assert several["metrics"]["columns"] == ["mine", "mine, lenient", "two", "two, lenient"]


def test_unfinished_runs_and_tasks_trained_alone_are_told():
    report = build_report(["A", "B"], [[80.0, None]], [[90.0, None]], trained_alone=True)
    (run,) = page_content("t", [run_of(report=report)])["runs"]
    assert len(run["notes"]) == 2
    assert "Unfinished: 1 of 2 tasks" in run["notes"][1]


HOSTILE = "</script><!--<script>\u2028\u2029 & \ud800 <img src=x onerror=alert(1)>"


def test_nothing_of_the_data_is_html():
    html = render_page(page_content(HOSTILE, [run_of()]))
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert not {*data} & {*"<>&\u2028\u2029\ud800"}
    assert json.loads(data)["title"] == HOSTILE
    assert html.count("<script") == 2
    assert "onerror" not in html.replace(data, "")
    html.encode()


def test_only_the_pages_own_script_and_style_may_run():
    html = render_page(page_content("t", [run_of()]))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)">', html)
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    assert "*" not in policy
    for kind, tag in (("script", "<script>"), ("style", "<style>")):
        (text,) = re.findall(rf"{tag}(.*?)</{kind}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_the_scripts_never_make_html_of_a_text():
    folder = files(page.__package__)
    scripts = [file for file in folder.iterdir() if file.name.endswith(".js")]
    assert {file.name for file in scripts} == {*page._SCRIPTS}
    for file in scripts:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(", file.read_text()
        )


def test_equal_runs_give_equal_bytes():
    def render():
        return render_page(page_content("t", [run_of(answers_of([RIGHT] * 2000, [WRONG] * 1000 + [RIGHT] * 1000))]))

    assert render() == render()
