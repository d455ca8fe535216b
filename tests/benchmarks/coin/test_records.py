import json

import pytest

from sefe_plugin.benchmarks.coin.tasks import COIN
from sefe_plugin.benchmarks.published import records
from sefe_plugin.benchmarks.published.convert import gold_field


LETTER_LINE = "Answer with the option's letter from the given choices directly."


TASKS = {task.name: task for task in COIN.tasks}


def to_train_row(task, record):
    return records.to_train_row(TASKS[task], record)


def to_test_row(task, record, added):
    return records.to_test_row(TASKS[task], record, added, gold_field(TASKS[task]))


def turns(*texts):
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


@pytest.mark.parametrize("question", ["Who?", "<image>\nWho?", "Who?\n<image>", "<image>Who?<image>"])
def test_the_image_tag_stands_once_in_front(question):
    record = {
        "question_id": 3,
        "image": "a/b.jpg",
        "conversations": turns(question, "x", "<image>\nAnd?", "y <image>"),
    }
    assert to_train_row("GQA", record) == {
        "id": "3",
        "image": "a/b.jpg",
        "conversations": turns("<image>\nWho?", "x", "And?", "y <image>"),
    }


def test_science_qa_without_an_image_has_no_tag():
    row = to_train_row("ScienceQA", {"id": "1", "conversations": turns("<image>\nWho?", "A")})
    assert row == {"id": "1", "image": None, "conversations": turns("Who?", "A")}


@pytest.mark.parametrize(
    ("task", "record", "message"),
    [
        ("GQA", {"conversations": turns("q", "a")}, "needs a path as 'image'"),
        ("ScienceQA", {"image": 3, "conversations": turns("q", "a")}, "needs a path as 'image'.*got 3"),
        ("GQA", {"image": "x"}, "pairs of question and answer as 'conversations', got None"),
        ("GQA", {"image": "x", "conversations": []}, "pairs of question and answer"),
        ("GQA", {"image": "x", "conversations": turns("q", "a", "q")}, "pairs of question and answer"),
        ("GQA", {"image": "x", "conversations": turns("q", "a")[::-1]}, "needs a text from 'human'"),
        ("GQA", {"image": "x", "conversations": turns("q", 3)}, "needs a text from 'gpt'"),
    ],
)
def test_faults_of_training_records_are_named(task, record, message):
    with pytest.raises(ValueError, match=message):
        to_train_row(task, record)


@pytest.mark.parametrize(
    ("task", "record", "message"),
    [
        ("VQAv2", {"text": "q", "answer": "a"}, "needs a path as 'image'"),
        ("VQAv2", {"image": "x", "answer": "a"}, "needs a text as 'text', got None"),
        ("VQAv2", {"image": "x", "text": "q", "answer": []}, "needs a text as 'answer'"),
        ("Grounding", {"image": "x", "text": "q", "answer": "a", "size": [1, 1]}, "needs a text as 'answer_bbox'"),
        ("Grounding", {"image": "x", "text": "q", "answer_bbox": "[0, 0, 1, 1]"}, "width and height as 'size'"),
        ("TextVQA", {"image": "x", "text": "q"}, "needs a text as 'answer'"),
    ],
)
def test_faults_of_test_records_are_named(task, record, message):
    with pytest.raises(ValueError, match=message):
        to_test_row(task, record, {})


def test_science_qa_gets_the_number_of_its_choices():
    text = f"<image>\nContext: none.\nWhich one?\nA. this\nB. that\nC. none\n{LETTER_LINE}"
    row = to_test_row("ScienceQA", {"question_id": "9", "text": text, "answer": "B"}, {})
    assert row == {
        "question_id": "9",
        "text": text.removeprefix("<image>\n"),
        "answer": "B",
        "num_choices": 3,
        "image": None,
    }
    assert "num_choices" not in to_test_row("ScienceQA", {"text": "Which?", "answer": "B"}, {})


def test_text_vqa_gets_its_ten_answers(tmp_path):
    answers = ["b"] * 6 + ["a"] * 4
    file = tmp_path / "answers.json"
    file.write_text(json.dumps({"data": [{"question_id": 9, "answers": answers}]}))
    golds = TASKS["TextVQA"].golds.read(file, [], print)

    def row_of(record):
        return to_test_row("TextVQA", record, golds(1, record))

    record = {"question_id": 9, "image": "x", "text": "q"}
    assert row_of(record) == record | {"text": "<image>\nq", "answer": "b", "answers": answers}
    assert row_of(record | {"answer": "own"})["answer"] == "own"
    assert "answers" not in row_of(record | {"question_id": 8, "answer": "own"})
