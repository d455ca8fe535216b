import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sefe_plugin.benchmarks.coin import records
from sefe_plugin.benchmarks.coin.records import read_array, to_test_row, to_train_row


LETTER_LINE = "Answer with the option's letter from the given choices directly."
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(
    content=st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=4),
    chunk=st.integers(1, 7),
    indent=st.sampled_from([None, 1]),
    escape=st.booleans(),
)
def test_any_array_is_read_back_in_chunks_of_any_size(tmp_path_factory, content, chunk, indent, escape):
    file = tmp_path_factory.getbasetemp() / "array.json"
    file.write_text(json.dumps(content, indent=indent, ensure_ascii=escape), encoding="utf-8", errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_CHUNK", chunk)
        assert list(read_array(file)) == content


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "a.json").write_text('\ufeff [ {"a": 1} ] \n', encoding="utf-8")
    assert list(read_array(tmp_path / "a.json")) == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"at record 0: '\[' expected, got ''"),
        ('{"a": 1}', r"at record 0: '\[' expected, got '{'"),
        ('[{"a": 1}', "at record 1: ',' expected, got ''"),
        ('[{"a": 1} {"a": 2}]', "at record 1: ',' expected, got '{'"),
        ('[{"a": 1}, {"a": ]', "at record 2: no valid JSON"),
        ('[{"a": 1}, 2]', "at record 2: an object expected, got '2'"),
        ('[{"a": 1},]', "at record 2: an object expected, got ']'"),
        ('[{"a": 1}] 3', "at record 1: '' expected, got '3'"),
    ],
)
def test_a_damaged_array_is_named(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json must be a JSON array of objects; {message}"):
        list(read_array(tmp_path / "a.json"))


def test_a_record_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_CHUNK", 10)
    monkeypatch.setattr(records, "_MAX_RECORD", 50)
    (tmp_path / "a.json").write_text('[{"a": "' + "x" * 1000)
    reads = []
    monkeypatch.setattr(
        records._Text, "_read_on", lambda self, host=records._Text._read_on: reads.append(1) or host(self)
    )
    with pytest.raises(ValueError, match="no valid JSON"):
        list(read_array(tmp_path / "a.json"))
    assert len(reads) <= 7


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
        ("VQAv2", {"image": "x", "text": "q", "answer": ["a"]}, "needs a text as 'answer'"),
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


def test_text_vqa_gets_its_ten_answers():
    answers = {"9": ["b"] * 6 + ["a"] * 4}
    record = {"question_id": 9, "image": "x", "text": "q"}
    assert to_test_row("TextVQA", record, answers) == record | {
        "text": "<image>\nq",
        "answer": "b",
        "answers": answers["9"],
    }
    assert to_test_row("TextVQA", record | {"answer": "own"}, answers)["answer"] == "own"
    assert "answers" not in to_test_row("TextVQA", record | {"question_id": 8, "answer": "own"}, answers)
