"""Test sets of the host's formats: where the gold answer comes from, and what is said before anything is trained."""

import json

import pytest

from sefe_plugin.data.test_sets import images_in, question_in, read_test_set
from sefe_plugin.data.test_sets import test_set_errors as errors_of
from sefe_plugin.evaluation.scorers import SCORERS


TURNS = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}]
MESSAGES = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}


@pytest.fixture
def declare(tmp_path):
    """Writes a test set with its declaration and returns its folder."""

    def write(records, declaration=None, name="x.json"):
        (tmp_path / name).write_text(records if isinstance(records, str) else json.dumps(records))
        (tmp_path / "dataset_info.json").write_text(json.dumps({"x": {"file_name": name, **(declaration or {})}}))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("record", "declaration"),
    [
        ({"instruction": "What?", "output": "red"}, {}),
        ({"question": "What?", "gold": "red"}, {"columns": {"prompt": "question", "response": "gold"}}),
        ({"conversations": TURNS}, {"formatting": "sharegpt"}),
        ({"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "red"}]}, MESSAGES),
        ({"question": "What?", "answer": "red", "output": "blue"}, {}),
        (
            {"question": "What?", "answer": "It is red.", "label": "red"},
            {"columns": {"prompt": "question", "response": "label"}},
        ),
    ],
    ids=["alpaca", "columns", "sharegpt", "openai", "answer first", "named column first"],
)
def test_the_gold_answer_is_where_the_host_finds_the_response(declare, record, declaration):
    folder = declare([record], declaration)
    (read,) = read_test_set("x", folder, SCORERS["short_answer"])
    assert read == record | {"answer": "red"}
    assert SCORERS["short_answer"].rule("Red", read).correct == 1
    assert errors_of("x", folder, "short_answer", SCORERS["short_answer"]) == []


def test_boxes_and_lists_of_answers_have_fields_of_their_own(declare):
    box = {"instruction": "Where?", "output": "[0.1, 0.1, 0.5, 0.5]"}
    assert read_test_set("x", declare([box]), SCORERS["box"])[0]["answer_bbox"] == box["output"]
    ten = {"instruction": "What?", "output": "no", "answers": ["stop"] * 10}
    assert read_test_set("x", declare([ten]), SCORERS["text_vqa"]) == [ten]
    assert read_test_set("x", declare([ten]), SCORERS["short_answer"])[0]["answer"] == "no"


def test_lines_may_hold_any_separator(declare):
    folder = declare('{"output": "a\u2028b"}\n\n{"output": "c"}\n', name="x.jsonl")
    assert [record["answer"] for record in read_test_set("x", folder, SCORERS["short_answer"])] == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    ("records", "scorer", "expected"),
    [
        ([{"output": "red"}, {"output": 3}, {}], "short_answer", "2 of 3 records of 'x' have no gold answer"),
        ([{"output": "red"}, {"output": 3}], "short_answer", "record 2: needs a text as"),
        ([{"output": "Leaves"}], "multiple_choice", "must be an option's letter, got 'Leaves'"),
        ([{"output": "maybe"}], "yes_no", "must be yes or no"),
        ([{"output": "[1, 2]"}], "box", "must be written as"),
        ([{"conversations": TURNS[:1]}], "short_answer", "needs a text as 'answer', got None"),
        ([], "short_answer", "'x' holds no records"),
        ([1], "short_answer", "an object expected, got '1'"),
        ("[", "short_answer", "'x' cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_said(declare, records, scorer, expected):
    (error,) = errors_of("x", declare(records), scorer, SCORERS[scorer])
    assert expected in error


TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"}]


@pytest.mark.parametrize(
    ("record", "declared", "question"),
    [
        ({"instruction": "What?", "input": "A cat.", "output": "x"}, {}, "What?\nA cat."),
        ({"instruction": "What?", "input": "", "output": "x"}, {}, "What?"),
        ({"text": "What?", "answer": "x"}, {"columns": {"prompt": "text", "response": "answer"}}, "What?"),
        (
            {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "x"}]},
            {"formatting": "sharegpt"},
            "What?",
        ),
        (
            {"messages": [*TALK, {"role": "user", "content": "What?"}]},
            MESSAGES,
            "user: Hi\nassistant: Hi\nuser: What?",
        ),
        ({"text": "What?"}, {}, ""),
        ({"conversations": 5}, {"formatting": "sharegpt"}, ""),
    ],
)
def test_the_question_is_found_where_the_host_finds_it(record, declared, question):
    assert question_in(record, declared) == question


@pytest.mark.parametrize(
    ("images", "paths"),
    [("a.png", ("a.png",)), (["a.png", {"path": "b.png"}], ("a.png", "b.png")), ([{"bytes": "x"}, 5], ()), (None, ())],
)
def test_images_are_found_in_the_declared_column(images, paths):
    declared = {"columns": {"prompt": "text", "images": "pictures"}}
    assert images_in({"text": "What?", "pictures": images, "images": "other.png"}, declared) == paths
    assert images_in({"text": "What?", "pictures": images}, {}) == ()
