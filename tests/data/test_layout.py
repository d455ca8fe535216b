import doctest
import json

import pytest

from sefe_plugin.data import layout as layouts
from sefe_plugin.data.layout import entry_of, find_dataset, layout_like, layout_of
from sefe_plugin.data.sample import Sample, UnsuitableSampleError


NEW = Sample("<image>\nIs it?", "No")
SHAREGPT = {
    "id": 1,
    "image": "a.png",
    "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
}
OPENAI = {"messages": [{"role": r, "content": c} for r, c in (("system", "S"), ("user", "Q"), ("assistant", "A"))]}
ALPACA = {"instruction": "Q", "input": "more", "output": "A", "images": ["a.png", "b.png"], "system": "S"}


@pytest.mark.parametrize(
    ("record", "question", "images"),
    [(SHAREGPT, "Q", ("a.png",)), (OPENAI, "Q", ()), (ALPACA, "Q\nmore", ("a.png", "b.png"))],
)
def test_recognised_layouts_read_and_write(record, question, images):
    layout, before = layout_like(record), json.dumps(record)
    assert layout.read(record) == Sample(question, "A")
    assert layout.images(record) == images
    new = layout.write(record, NEW)
    assert layout.read(new) == NEW
    assert json.dumps(record) == before
    assert list(new) == list(record)
    # Going back to the old turn restores all but the split of an Alpaca question over two columns.
    back = layout.write(new, layout.read(record))
    assert back == (record if record is not ALPACA else ALPACA | {"instruction": "Q\nmore", "input": ""})


@pytest.mark.parametrize("record", [SHAREGPT, OPENAI, ALPACA])
def test_the_entry_of_a_layout_is_read_as_that_layout(record):
    assert doctest.testmod(layouts).failed == 0
    found = layout_like(record)
    assert layout_of("x", entry_of(found)) == found


def test_entries_name_columns_and_tags():
    entry = {
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "images": "pics"},
        "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "u", "assistant_tag": "a"},
    }
    record = {"talk": [{"who": "u", "what": "Q"}, {"who": "a", "what": "A"}], "pics": ["x"], "images": ["y"]}
    layout = layout_of("mine", entry)
    assert (layout.read(record), layout.images(record)) == (Sample("Q", "A"), ("x",))
    layout = layout_of("mine", {"columns": {"prompt": "q", "response": "a"}})
    assert layout.read({"q": "Q", "a": "A", "input": "ignored"}) == Sample("Q", "A")
    assert layout_of("mine", {}).read(ALPACA) == Sample("Q\nmore", "A")


@pytest.mark.parametrize(
    "record",
    [
        SHAREGPT | {"conversations": SHAREGPT["conversations"] * 2},
        SHAREGPT | {"conversations": []},
        SHAREGPT | {"conversations": SHAREGPT["conversations"][::-1]},
    ],
)
def test_other_than_one_turn_is_unsuitable(record):
    with pytest.raises(UnsuitableSampleError, match="one question with one answer"):
        layout_of("mine", {"formatting": "sharegpt"}).read(record)


def test_alpaca_with_a_history_or_without_an_answer_is_unsuitable():
    layout = layout_of("mine", {"columns": {"prompt": "q", "response": "a", "history": "h"}})
    assert layout.read({"q": "Q", "a": "A", "h": []}) == Sample("Q", "A")
    for record in ({"q": "Q", "a": "A", "h": [["x", "y"]]}, {"q": "Q", "a": None}, {"q": "Q"}):
        with pytest.raises(UnsuitableSampleError):
            layout.read(record)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"ranking": True}, "without `ranking`"),
        ({"formatting": "llava"}, "got 'llava'"),
        ({"columns": {"prompt": "q"}}, "must name response"),
        ({"formatting": "sharegpt", "columns": {"images": "i"}}, "must name messages"),
    ],
)
def test_entries_that_do_not_fit_are_errors(entry, message):
    with pytest.raises(ValueError, match=message):
        layout_of("mine", entry)


def test_unknown_records_are_errors():
    with pytest.raises(ValueError, match=r"but \['answer', 'text'\]; describe the columns"):
        layout_like({"text": "", "answer": ""})


def test_datasets_are_found_by_name_or_path(tmp_path):
    info = {
        "there": {"file_name": "there.jsonl", "formatting": "sharegpt"},
        "gone": {"file_name": "gone.json"},
        "hub": {"hf_hub_url": "some/where"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "there.jsonl").touch()
    file, layout = find_dataset("there", tmp_path)
    assert file == tmp_path / "there.jsonl" and layout.messages == "conversations"
    assert find_dataset(str(tmp_path / "x.json"), tmp_path) == (tmp_path / "x.json", None)
    for name, message in (("else", "has no dataset 'else'; it has there, gone, hub"), ("gone", "that exists"), ("hub", "that exists")):  # fmt: skip  # noqa: E501
        with pytest.raises(ValueError, match=message):
            find_dataset(name, tmp_path)
    with pytest.raises(ValueError, match=r"dataset_info\.json does not exist"):
        find_dataset("there", tmp_path / "none")


def test_a_list_of_parts_in_the_place_of_a_text_is_an_error():
    parts = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "Q"}]
    record = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "A"}]}
    with pytest.raises(ValueError, match="'content' must be a text, not a list of parts: write <image>") as error:
        layout_like(record).read(record)
    # It is the file that is wrong; a sample that is merely unsuitable would be passed over.
    assert not isinstance(error.value, UnsuitableSampleError)
    nothing = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": None}]}
    with pytest.raises(UnsuitableSampleError):
        layout_like(nothing).read(nothing)


def test_tags_that_are_not_named_do_not_exist_as_in_the_host():
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
    record = SHAREGPT | {"conversations": [{"from": "system", "value": "S"}, *SHAREGPT["conversations"]]}
    assert layout_of("mine", {"formatting": "sharegpt"}).read(record) == Sample("Q", "A")
    with pytest.raises(UnsuitableSampleError):
        layout_of("mine", {"formatting": "sharegpt", "tags": tags}).read(record)
    named = layout_of("mine", {"formatting": "sharegpt", "tags": tags | {"system_tag": "system"}})
    assert named.read(record) == Sample("Q", "A")
    with pytest.raises(ValueError, match="`tags` must name content_tag and user_tag and assistant_tag, got"):
        layout_of("mine", {"formatting": "sharegpt", "tags": {"role_tag": "from"}})


def test_an_empty_instruction_leaves_the_input_alone_as_in_the_host():
    assert layout_of("mine", {}).read(ALPACA | {"instruction": ""}) == Sample("more", "A")
    with pytest.raises(UnsuitableSampleError):
        layout_of("mine", {}).read(ALPACA | {"input": 5})


@pytest.mark.parametrize("odd", [None, "hi", 5, [], ["hi"], {"from": "human"}, [None, {}], [{}]])
def test_messages_of_other_kinds_are_unsuitable(odd):
    with pytest.raises(UnsuitableSampleError, match="one question with one answer"):
        layout_of("mine", {"formatting": "sharegpt"}).read({"conversations": odd})
