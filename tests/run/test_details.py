"""What a page shows of a run, read from its folder; and where pages are written."""

import shutil

import pytest
from left_answers import draw_pictures, leave_answers

from sefe_plugin.cli import main
from sefe_plugin.evaluation.results import predictions_file, write_predictions
from sefe_plugin.files import read_json, write_json
from sefe_plugin.json_lines import read_json_lines
from sefe_plugin.run.details import run_details
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.reporting import run_report
from sefe_plugin.run.rescoring import rescore_run


TASKS = {"A": "short_answer", "B": "multiple_choice"}
RECORDS = {
    "A": [{"text": f"colour {i}?", "answer": "red", "image": f"{i}.png"} for i in range(3)],
    "B": [{"text": "which?", "answer": "B"}],
    "general": [{"text": "is it?", "answer": "Yes"}],
}
#: Stage and test set -> answers.
GIVEN = {
    (-1, "general"): ["Yes"],
    (0, "A"): ["red", "red", "blue"],
    (0, "general"): ["no"],
    (1, "A"): ["B", "blue", "red"],
    (1, "B"): ["B"],
    (1, "general"): ["maybe so"],
    (-1, "A"): ["x", "x", "x"],
    (-1, "B"): ["A"],
    (0, "B"): ["C"],
}


@pytest.fixture
def run(tmp_path):
    draw_pictures(tmp_path / "run_data", 2)
    return leave_answers(tmp_path / "run", TASKS, RECORDS, lambda *where: GIVEN[where])


def test_answers_stand_beside_question_gold_answer_and_pictures(run, tmp_path):
    one, two = run_details(run).sets
    assert [tuple(question) for question in one.questions] == [
        (f"colour {i}?", "red", (f"{i}.png",)) for i in range(3)
    ]
    assert one.media_dir == tmp_path / "run_data"
    assert [*one.stages] == [0, 1]
    assert [*one.stages[1].answers] == ["B", "blue", "red"]
    assert one.changes(1) == "fcr"
    assert (one.learned, two.learned) == (0, 1)
    assert [*two.stages] == [1]
    assert not one.notes + two.notes


def test_answers_are_judged_as_the_run_scores_them(run):
    for found in run_details(run).sets:
        for stage, given in found.stages.items():
            scores = read_json(run.task_folder(stage, "AB"[stage]) / "scores.json")[found.name]
            assert 100 * sum(score.correct for score in given.scores) / len(given.scores) == scores["accuracy"]
            assert 100 * sum(score.formatted for score in given.scores) / len(given.scores) == scores["format"]


def test_retention_sets_are_compared_with_the_untouched_base(tmp_path):
    retention = [("general", "yes_no")]
    run = leave_answers(tmp_path / "run", TASKS, RECORDS, lambda *where: GIVEN[where], retention_sets=retention)
    general = run_details(run).sets[-1]
    assert (general.name, general.retention, general.learned) == ("general", True, -1)
    assert [general.changes(stage) for stage in (-1, 0, 1)] == [".", "c", "f"]


def test_tasks_that_are_not_learned_yet_have_answers_but_no_changes(tmp_path):
    run = leave_answers(tmp_path / "run", TASKS, RECORDS, lambda *where: GIVEN[where], score_unseen=True)
    later = run_details(run).sets[1]
    assert sorted(later.stages) == [-1, 0, 1]
    assert [later.changes(stage) for stage in (-1, 0, 1)] == [".", ".", "."]


def test_what_the_tasks_took(run):
    first, second = run_details(run).costs
    assert (first.task, first.seconds, first.training, first.steps) == ("A", 90.0, 60.0, 10)
    assert (second.peak_memory, second.memory_of) == (2 * 10**9, "process")
    (run.task_folder(0, "A") / "cost.json").unlink()
    first, _ = run_details(run).costs
    assert (first.training, first.steps, first.peak_memory) == (None, None, None)


def test_an_unfinished_run_has_what_is_complete(run):
    manifest = run.read_manifest()
    run.complete_task(manifest["recipe"], manifest["complete"][:1])
    found = run_details(run)
    assert [[*one.stages] for one in found.sets] == [[0]]
    assert len(found.costs) == 1
    assert run_details(RunFolder(run.path / "nothing")).sets == ()


def test_answers_that_are_gone_or_unreadable_are_told_and_not_hidden(run):
    file = predictions_file(run.task_folder(1, "B"), "A")
    file.write_text('{"answer": "red"}\n')
    (found, _) = run_details(run).sets
    assert [*found.stages] == [0]
    assert "the answers of 2_B cannot be shown: " in found.notes[0]
    assert "must be a mapping with a text as `prediction`" in found.notes[0]
    file.unlink()
    (found, _) = run_details(run).sets
    assert "No such file" in found.notes[0]
    assert str(file) in found.notes[0]


def test_answers_to_other_questions_are_not_compared(run):
    file = predictions_file(run.task_folder(1, "B"), "A")
    rows = [{**row, "text": "another question"} for row in read_json_lines(file)]
    write_predictions(run.task_folder(1, "B"), "A", rows, ["red"] * 3)
    (found, _) = run_details(run).sets
    assert [*found.stages] == [0]
    assert found.notes == ["the answers of 2_B are not shown: they are answers to other questions."]


def test_a_run_whose_data_is_gone_is_shown_without_questions_and_pictures(run, tmp_path):
    shutil.rmtree(tmp_path / "run_data")
    (found, _) = run_details(run).sets
    assert [question.gold for question in found.questions] == ["red"] * 3
    assert {question.text for question in found.questions} == {""}


def test_answers_that_nobody_scores_are_shown_without_judgement(tmp_path):
    records = {"A": [{"text": "tell a story", "answer": "once"}, {"text": "another"}], "B": RECORDS["B"]}
    given = {(0, "A"): ["Once upon", ""], (1, "A"): ["x", "y"], (1, "B"): ["B"]}
    run = leave_answers(tmp_path / "run", {**TASKS, "A": "none"}, records, lambda *where: given[where])
    (found, _) = run_details(run).sets
    assert [(question.text, question.gold) for question in found.questions] == [
        ("tell a story", "once"),
        ("another", ""),
    ]
    assert found.stages[1].scores is None
    assert [*found.stages[1].answers] == ["x", "y"]
    assert found.changes(1) == ".."
    assert main(["report", str(run.path), "--html"]) == 0
    assert "Nobody scores A: " in (run.path / "report.html").read_text()


def test_a_damaged_declaration_of_the_data_is_told(run, tmp_path):
    (tmp_path / "run_data" / "dataset_info.json").write_text("{")
    (found, _) = run_details(run).sets
    assert not found.stages
    assert [note.partition(": ")[0] for note in found.notes] == [
        f"the answers of {place} cannot be shown" for place in ("1_A", "2_B")
    ]


def test_a_benchmarks_data_moves_with_its_run(run, tmp_path):
    manifest = run.read_manifest()
    run.complete_task({**manifest["recipe"], "benchmark": "minicoin"}, manifest["complete"])
    (tmp_path / "run_data").rename(run.data)
    run.path.rename(tmp_path / "moved")
    moved = run_details(RunFolder(tmp_path / "moved")).sets[0]
    assert moved.media_dir == tmp_path / "moved" / "data"
    assert moved.questions[0].images == ("0.png",)


def test_golds_of_several_people_are_counted(tmp_path):
    records = [{"text": "what?", "answers": ["stop"] * 8 + ["go"] * 2}]
    run = leave_answers(tmp_path / "run", {"A": "text_vqa"}, {"A": records}, lambda stage, name: ["stop"])
    (found,) = run_details(run).sets
    assert found.questions[0].gold == "stop (8 of 10), go (2 of 10)"


def test_a_rescoring_writes_the_page_with_the_new_judgement(run):
    page = run.path / "report.html"
    rescore_run(run.path, {})
    assert '"changes":"fcr"' in page.read_text()
    rescore_run(run.path, {"A": "class_name"})
    assert '"scorer":"class_name"' in page.read_text()
    run.forget_scores(run.read_manifest()["recipe"], [1], 2)
    assert not page.exists()


def test_the_command_writes_a_page_of_one_run_or_of_several(run, tmp_path, capsys):
    assert main(["report", str(run.path), "--html"]) == 0
    assert capsys.readouterr().out == f"{run.path / 'report.html'}\n"
    assert '"changes":"fcr"' in (run.path / "report.html").read_text()
    shutil.copytree(run.path, tmp_path / "other")
    both = [str(run.path), str(tmp_path / "other")]
    assert main(["report", *both, "--html", str(tmp_path / "pages" / "both.html")]) == 0
    assert '"versus":"..."' in (tmp_path / "pages" / "both.html").read_text()
    assert main(["report", *both, "--html"]) == 1
    assert "`--html` needs a file" in capsys.readouterr().err


def test_the_command_writes_a_page_of_an_unfinished_run_and_of_a_report_alone(run, tmp_path):
    manifest = run.read_manifest()
    run.complete_task(manifest["recipe"], manifest["complete"][:1])
    assert main(["report", str(run.path), "--html"]) == 0
    assert "Unfinished: 1 of 2 tasks are scored" in (run.path / "report.html").read_text()
    write_json(tmp_path / "alone" / "report.json", run_report(run, ["A", "B"]))
    assert main(["report", str(tmp_path / "alone"), "--html"]) == 0
    assert '"sets":[]' in (tmp_path / "alone" / "report.html").read_text()
