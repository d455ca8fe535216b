"""Odd records, files, tasks and pictures: only errors of ours reach a person, and they say what is wrong."""

import json
import os
import re
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sefe_plugin.answers.styles import FORMAT_LINES, SHORT_ANSWER
from sefe_plugin.cli import main


LINE = FORMAT_LINES[SHORT_ANSWER]
COLORS = ("red", "blue", "green", "black", "white")


def talk(question, answer, **more):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **more}


GOOD = [talk(f"What color is {i}?\n{LINE}", COLORS[i % 5]) for i in range(8)]
DEEP = json.loads("[" * 90 + "]" * 90)
#: Name -> a record that is passed over, or trained as it is.
PASSED = {
    "no value": talk("What?", None),
    "a number": talk("What?", 3),
    "a truth": talk("What?", True),
    "an empty value": talk("What?", ""),
    "no messages": {"text": "x"},
    "messages are null": {"conversations": None},
    "messages are empty": {"conversations": []},
    "messages are a text": {"conversations": "hello"},
    "messages are texts": {"conversations": ["hi", "there"]},
    "messages are a mapping": {"conversations": {"from": "human", "value": "q"}},
    "messages are numbers": {"conversations": 5},
    "a message is null": {"conversations": [None, {"from": "gpt", "value": "x"}]},
    "a message is empty": {"conversations": [{}, {}]},
    "a role is a list": {"conversations": [{"from": ["human"], "value": "q"}, {"from": "gpt", "value": "x"}]},
    "three messages": {"conversations": [*GOOD[0]["conversations"], {"from": "human", "value": "?"}]},
    "two turns": {"conversations": GOOD[0]["conversations"] * 2},
    "a system turn": {"conversations": [{"from": "system", "value": None}, *GOOD[0]["conversations"]]},
    "tools": {"conversations": [{"from": "function_call", "value": "{}"}], "tools": "[]"},
    "half an emoji": talk("What \ud83d?", "red"),
    "half an emoji as answer": talk("What?", "\ud83d"),
    "a zero": talk("What \0?", "r\0d"),
    "a large number": {**GOOD[0], "id": 10**30},
    "not a number": {**GOOD[0], "w": float("nan")},
    "infinity": {**GOOD[0], "w": float("-inf")},
    "a deep record": {**GOOD[0], "x": DEEP},
    "a long text": talk("What?", "red " * 100_000),
    "pictures are numbers": {**GOOD[0], "images": [1, None, {}]},
}
#: Name -> the text of a file that is refused, and what the message says.
REFUSED = {
    "a list": (json.dumps([*GOOD, [1]]), r"at record 9: an object expected, got '\['"),
    "null": (json.dumps([*GOOD, None]), "at record 9: an object expected, got 'n'"),
    "parts": (json.dumps([*GOOD, talk([{"type": "text"}], "x")]), "sample 8: a message's 'value' must be a text"),
    "field": (json.dumps([*GOOD, {**GOOD[0], "asd": "x"}]), "sample 8 has a field 'asd'"),
    "cut": (json.dumps(GOOD)[:-9], "the file ends within it"),
    "too deep": (json.dumps(GOOD)[:-1] + ', {"x": ' + "[" * 5000 + "]" * 5000 + "}]", "nested at most 200 deep"),
    "too large": (json.dumps(GOOD)[:-1] + ', {"x": ' + "9" * 5000 + "}]", "a number has thousands of digits"),
    "no records": ("[]", "has no records"),
    "nothing": ("", "has no records"),
    "no layout": (json.dumps([{"text": "x"}] * 3), r"neither a list of mappings as `conversations`"),
    "one answer": (json.dumps([GOOD[0]] * 9), "First reason: the task has no answer other than 'red'"),
    "GBK": ("GBK", "must be in UTF-8; at record 1"),
    "UTF-16": ("UTF-16", "must be a text in UTF-8; it has zero bytes"),
}


@pytest.fixture
def sefe(capsys, tmp_path):
    """Runs `sefe asd` in this process; returns its status and what it said."""

    def run(command, *options):
        status = main(["asd", command, *map(str, options)])
        said = capsys.readouterr()
        assert status in (0, 1) and "Traceback" not in said.err
        return status, said.err

    return run


def build(sefe, file, *options):
    return sefe("build", "--dataset", file, "--out", file.with_name("new.json"), "--ratio", "0.5", *options)


@pytest.mark.parametrize("name", PASSED)
@pytest.mark.parametrize("first", [False, True])
def test_odd_records_are_passed_over(sefe, tmp_path, name, first):
    file = tmp_path / "data.json"
    records = [PASSED[name], *GOOD] if first else [*GOOD, PASSED[name]]
    file.write_text(json.dumps(records))
    # more are wanted than there are good ones, so that the odd one's turn comes
    status, said = sefe("build", "--dataset", file, "--out", tmp_path / "new.json", "--ratio", "0.9")
    assert status == 0, said
    after = json.loads((tmp_path / "new.json").read_text())
    assert len(after) == 9 and sum("asd" in record for record in after) == 8
    assert sefe("preview", "--dataset", tmp_path / "new.json", "--out", tmp_path / "page.html")[0] == 0


@pytest.mark.parametrize("name", REFUSED)
def test_files_are_refused_with_the_place(sefe, tmp_path, name):
    text, message = REFUSED[name]
    file, records = tmp_path / "data.json", json.dumps([talk("什么?", "红色")] * 3, ensure_ascii=False)
    content = records.encode(text) if name in ("GBK", "UTF-16") else text.encode()
    file.write_bytes(content)
    status, said = build(sefe, file)
    assert status == 1
    assert re.search(message, said), said
    assert not (tmp_path / "new.json").exists()
    assert sefe("preview", "--dataset", file, "--out", tmp_path / "page.html")[0] == 1


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("[1]", "must be a mapping from names to datasets, got '\\[1\\]'"),
        ('{"data": null}', "its entry must be a mapping with `file_name`, got None"),
        ('{"data": {"file_name": "data.json", "columns": null}}', "`columns` must be a mapping from names to names"),
        ('{"data": {"file_name": "data.json", "columns": {"prompt": 5}}}', "`columns` must be a mapping from names"),
        ('{"data": {"file_name": "data.json", "formatting": "sharegpt", "tags": "x"}}', "`tags` must be a mapping"),
        (
            '{"data": {"file_name": "data.json", "formatting": "sharegpt", "tags": {"role_tag": "x"}}}',
            "`tags` must name",
        ),
        ('{"data": {"file_name": ["data.json"]}}', "`file_name` in .* must be one .json"),
        ('{"data": {"file_name": "none.json"}}', "`file_name` in .* must be one .json"),
        ('{"data": {"formatting": ["x"]}}', "got \\['x'\\]"),
        ('{"data": {}, "data": {}}', "dataset_info.json holds the dataset 'data' more than once"),
        ('{"data": ', "must be valid JSON"),
        ("[" * 5000, "must be valid JSON"),
        ('{"é": 1}', "must be in UTF-8; byte 2"),
    ],
)
def test_declarations_are_refused(sefe, tmp_path, info, message):
    (tmp_path / "data.json").write_text(json.dumps(GOOD))
    (tmp_path / "dataset_info.json").write_bytes(info.encode("latin-1"))
    status, said = sefe("build", "--dataset", "data", "--dataset-dir", tmp_path, "--out", tmp_path / "new.json")
    assert status == 1 and re.search(message, said), said


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("mine: {kind: 5}", "`kind` must be the name of a folder of prompts, got 5"),
        ("mine: {columns: 5}", "`columns` must be a mapping"),
        ("mine: {columns: {a: 5}}", "`columns` must be a mapping"),
        ("mine: {per_image: maybe}", "`per_image` must be true or false, got 'maybe'"),
        ("mine: {native_style: [1]}", "native style must be one of"),
        ("mine: {native_style: brief}", "native style must be one of"),
        ("mine: {5: x}", "unknown keys \\['5'\\]"),
        ("5: {}", "describes no task 'mine', only 5"),
        ("mine: {", "must be valid YAML"),
        ("é: {}", "must be in UTF-8; byte 0"),
    ],
)
def test_descriptions_of_tasks_are_refused(sefe, tmp_path, tasks, message):
    (tmp_path / "tasks.yaml").write_bytes(tasks.encode("latin-1"))
    (tmp_path / "data.json").write_text(json.dumps(GOOD))
    status, said = build(sefe, tmp_path / "data.json", "--task", "mine", "--templates", tmp_path)
    assert status == 1 and re.search(message, said), said


@pytest.mark.parametrize(
    "options",
    [
        ["--ratio", "nan"],
        ["--ratio", "2"],
        ["--tries", "0"],
        ["--max-fallback", "7"],
        ["--out", "."],
        ["--templates", "none", "--task", "x"],
        ["--generator", "openai"],
        ["--generator", "llamafactory", "--config", "none.yaml"],
        ["--dataset", "none.json"],
        ["--dataset", "\0.json"],
        ["--dataset", "x" * 5000 + ".json"],
        ["--dataset", "."],
    ],
)
def test_options_are_refused(sefe, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.json").write_text(json.dumps(GOOD))
    status, said = build(sefe, tmp_path / "data.json", *options)
    assert status == 1 and said.strip()


def test_the_scorer_tells_what_the_answers_are(sefe, tmp_path):
    file = tmp_path / "data.json"
    file.write_text(json.dumps([talk(f"Which letter is on sign {i}?", "ABC"[i % 3]) for i in range(12)]))
    status, said = build(sefe, file)
    assert status == 1 and "letters or numbers that may stand for options" in said
    assert build(sefe, file, "--scorer", "text_vqa")[0] == 0
    assert build(sefe, file, "--scorer", "multiple_choice")[0] == 1


def png(width, height, data=b""):
    """A PNG of one colour that claims this size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def cut(folder):
    Image.effect_noise((200, 200), 50).save(folder / "whole.png")
    return (folder / "whole.png").read_bytes()[:3000]


PICTURES = {
    "missing": None,
    "no picture": lambda folder: b"text",
    "empty": lambda folder: b"",
    "cut": cut,
    "damaged": lambda folder: cut(folder)[:60] + b"x" * 2000,
    "a bomb": lambda folder: png(60_000, 60_000),
    "a large one": lambda folder: png(12_000, 10_000, zlib.compress(b"\0" * 100)),
    "a compressed comment": lambda folder: png(9, 9).replace(b"IDAT", b"zTXt"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_one_broken_picture_loses_itself_alone(sefe, tmp_path, name):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "good.png")
    if PICTURES[name]:
        (tmp_path / "odd.png").write_bytes(PICTURES[name](tmp_path))
    records = [{**record, "images": ["good.png", "odd.png"]} for record in GOOD]
    (tmp_path / "data.json").write_text(json.dumps(records))
    assert build(sefe, tmp_path / "data.json")[0] == 0
    status, _ = sefe("preview", "--dataset", tmp_path / "new.json", "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert status == 0
    assert page.count("<article") == page.count("<img") == page.count("odd.png cannot be shown") == 4


@pytest.mark.parametrize("image", [5, {"bytes": "x"}, "a\0b.png", "x" * 5000, "pipe", "."])
def test_paths_that_lead_to_no_file_lose_their_picture_alone(sefe, tmp_path, image):
    os.mkfifo(tmp_path / "pipe")
    records = [{**record, "images": image} for record in GOOD]
    (tmp_path / "data.json").write_text(json.dumps(records))
    assert build(sefe, tmp_path / "data.json")[0] == 0
    assert sefe("preview", "--dataset", tmp_path / "new.json", "--out", tmp_path / "page.html")[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article") == 4 and "<img" not in page and "cannot be shown" in page


def test_a_large_picture_is_small_on_the_page(sefe, tmp_path):
    Image.effect_noise((2500, 2000), 80).convert("RGB").save(tmp_path / "large.jpg", quality=95)
    (tmp_path / "data.json").write_text(json.dumps([{**record, "images": ["large.jpg"]} for record in GOOD]))
    assert build(sefe, tmp_path / "data.json")[0] == 0
    assert sefe("preview", "--dataset", tmp_path / "new.json", "--out", tmp_path / "page.html")[0] == 0
    # four pictures of at most 320 x 320 pixels
    assert (tmp_path / "page.html").stat().st_size < 4 * 320 * 320 * 3 * 4 / 3


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
roles = st.sampled_from(["human", "gpt", "system"]) | anything
message = st.fixed_dictionaries({}, optional={"from": roles, "value": anything})
messages = anything | st.lists(anything | message, max_size=3)
fields = {"conversations": messages, "asd": anything, "images": anything}


@settings(deadline=None, max_examples=60)
@given(odd=st.lists(st.fixed_dictionaries({}, optional=fields), max_size=4))
def test_any_records_are_built_or_refused(tmp_path_factory, odd):
    folder = tmp_path_factory.getbasetemp() / "odd"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("new.json*"):
        old.unlink()
    (folder / "data.json").write_text(json.dumps([*odd, *GOOD]))
    assert main(["asd", "build", "--dataset", str(folder / "data.json"), "--out", str(folder / "new.json")]) in (0, 1)
    for file in ("new.json", "data.json"):
        assert main(["asd", "preview", "--dataset", str(folder / file), "--out", str(folder / "page.html")]) in (0, 1)
