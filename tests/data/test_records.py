import json
import random
import textwrap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sefe_plugin.data import reader, records
from sefe_plugin.data.records import RecordFile, Replacements, write_replaced


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = texts | st.integers() | st.lists(texts, max_size=3)
contents = st.lists(st.dictionaries(texts, values, max_size=4), max_size=8)


def array(content, indent=None):
    return json.dumps(content, ensure_ascii=False, indent=indent)


def lines(content):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in content)


WRITERS = [array, lambda content: array(content, 2), lines, lambda content: lines(content).rstrip("\n")]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@given(content=contents)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_records_are_what_json_reads_at_any_chunk_size(tmp_path, monkeypatch, writer, chunk, content):
    monkeypatch.setattr(records, "_CHUNK", chunk)
    monkeypatch.setattr(reader, "_CHUNK", chunk)
    file = tmp_path / "data.json"
    file.write_text(writer(content), encoding="utf-8")
    found = RecordFile(file)
    assert [found[i] for i in range(len(found))] == content
    assert [found[i] for i in reversed(range(len(found)))] == content[::-1]
    found.close()


@pytest.mark.parametrize("writer", WRITERS)
def test_replacing_changes_nothing_else(tmp_path, writer):
    content = [{"id": i, "text": "é" * i, "list": [{"x": "}"}]} for i in range(200)]
    source, target = tmp_path / "in.json", tmp_path / "out" / "out.json"
    source.write_text(writer(content), encoding="utf-8")
    found = RecordFile(source)
    replaced = Replacements(len(found), tmp_path)
    chosen = random.Random(0).sample(range(200), 50)
    for i in chosen:
        replaced[i] = {"wrong": True}
    for i in chosen:
        replaced[i] = content[i] | {"text": "新"}
    write_replaced(found, replaced, target)
    expected = [record | {"text": "新"} if i in chosen else record for i, record in enumerate(content)]
    written = RecordFile(target)
    assert [written[i] for i in range(len(written))] == expected
    # The records that are not replaced and what lies between them keep their bytes.
    text = source.read_text(encoding="utf-8")
    for i in chosen:
        forms = [json.dumps(content[i], ensure_ascii=False, indent=indent) for indent in (None, 2)]
        old = next(form for form in (forms[0], textwrap.indent(forms[1], "  ").lstrip()) if form in text)
        text = text.replace(old, json.dumps(content[i] | {"text": "新"}, ensure_ascii=False))
    assert target.read_text(encoding="utf-8") == text


def test_half_a_surrogate_pair_is_kept_as_an_escape(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "\\ud83d é"}\n{"text": "é"}\n', encoding="utf-8")
    found = RecordFile(tmp_path / "in.jsonl")
    replaced = Replacements(2, tmp_path)
    replaced[0], replaced[1] = {**found[0], "more": 1}, {**found[1], "more": 1}
    write_replaced(found, replaced, tmp_path / "out.jsonl")
    written = (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")
    assert written == ['{"text": "\\ud83d \\u00e9", "more": 1}', '{"text": "é", "more": 1}', ""]


def test_without_replacements_the_copy_is_the_file(tmp_path):
    file = tmp_path / "in.json"
    file.write_bytes(b'\xef\xbb\xbf [ {"a":1} ,\r\n\t{"b" : 2}\n]\n\n')
    found = RecordFile(file)
    assert [found[0], found[1]] == [{"a": 1}, {"b": 2}]
    write_replaced(found, Replacements(2, tmp_path), tmp_path / "out.json")
    assert (tmp_path / "out.json").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}, {"b": ', r"must be a JSON array or JSON lines .* at byte 1[0-9]"),
        ('[{"a": 1}', "must be a JSON array"),
        ('[{"a": 1}] tail', "must be a JSON array"),
        ('[{"a": 1}, 5]', "at record 2: an object expected, got '5', at byte 11"),
        ("text", "must be a JSON array"),
    ],
)
def test_other_files_are_refused_with_the_place(tmp_path, content, message):
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        RecordFile(tmp_path / "data.json")
