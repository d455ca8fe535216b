"""The reader of records: JSON arrays and JSON lines, and places in the file."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sefe_plugin.data import reader
from sefe_plugin.data.reader import EncodingError, read_array, read_records


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
        patch.setattr(reader, "_CHUNK", chunk)
        assert list(read_array(file)) == content


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "a.json").write_text('\ufeff [ {"a": 1} ] \n', encoding="utf-8")
    assert list(read_array(tmp_path / "a.json")) == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"at record 0: '\[' expected, got the end of the file"),
        ('{"a": 1}', r"at record 0: '\[' expected, got '{'"),
        ('[{"a": 1}', "at record 1: ',' expected, got the end of the file"),
        ('[{"a": 1} {"a": 2}]', "at record 1: ',' expected, got '{'"),
        ('[{"a": 1}, {"a": ]', "at record 2: no valid JSON"),
        ('[{"a": 1}, 2]', "at record 2: an object expected, got '2'"),
        ('[{"a": 1},]', "at record 2: an object expected, got ']'"),
        ('[{"a": 1}] 3', "at record 1: the end of the file expected, got '3'"),
        ('[{"a": [1, "', "at record 1: no valid JSON, the file ends within it, at byte 11"),
        ('[{"a": 1}, null]', "at record 2: an object expected, got 'n', at byte 11"),
        ('[{"a": ' + "[" * 100_000, "at record 1: its lists and objects must be nested at most 200 deep, at byte 1"),
        (
            '[{"a": ' + "[" * 201 + "]" * 201 + "}]",
            "at record 1: its lists and objects must be nested at most 200 deep",
        ),
        ('[{"a": ' + "1" * 5000 + "}]", "at record 1: no valid JSON, a number has thousands of digits"),
    ],
)
def test_a_damaged_array_is_named(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json must be a JSON array of objects; {message}"):
        list(read_array(tmp_path / "a.json"))


def test_a_record_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_CHUNK", 10)
    monkeypatch.setattr(reader, "_MAX_RECORD", 50)
    (tmp_path / "a.json").write_text('[{"a": "' + "x" * 1000)
    reads = []
    monkeypatch.setattr(
        reader._Content, "_read_on", lambda self, host=reader._Content._read_on: reads.append(1) or host(self)
    )
    with pytest.raises(ValueError, match="no valid JSON"):
        list(read_array(tmp_path / "a.json"))
    assert len(reads) <= 7


@settings(deadline=None, max_examples=60)
@given(
    content=st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=4),
    chunk=st.integers(1, 7),
    mark=st.booleans(),
    lines=st.booleans(),
    escape=st.booleans(),
)
def test_a_place_holds_the_bytes_of_its_record(tmp_path_factory, content, chunk, mark, lines, escape):
    file = tmp_path_factory.getbasetemp() / "places.json"
    written = [json.dumps(record, ensure_ascii=escape) for record in content]
    text = "\r\n\n".join(written) if lines else f" [{' , '.join(written)}]\n"
    file.write_text(text, encoding="utf-8-sig" if mark else "utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_CHUNK", chunk)
        found = list(read_records(file))
    data = file.read_bytes()
    assert [placed.record for placed in found] == content
    assert [data[placed.start : placed.end].decode() for placed in found] == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1}\n\n5', "at record 2: an object expected, got '5', at byte 10"),
        (b'{"a": 1}\n, {"a": 2}', "at record 2: an object expected, got ',', at byte 9"),
        (b'{"a": 1}\n{"a": ', "at record 2: no valid JSON, the file ends within it, at byte 15"),
        (b"text", "at record 1: an object expected, got 't', at byte 0"),
        ('[{"é": 1}, {"é": x}]'.encode(), "at record 2: no valid JSON, Expecting value, at byte 19"),
        (b'{"a": 1}\n{"a": "\xc3', "at record 2: no valid"),
    ],
)
def test_damaged_lines_and_bytes_are_named(tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=rf"a\.json must be a JSON array or JSON lines of objects; {message}"):
        list(read_records(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'[{"a": 1}, {"a": "\xff"}]', "at record 2, byte 18, 0xff, is not"),
        ('[{"a": "红色"}]'.encode("gbk"), "at record 1, byte 8, 0xba, is not"),
        # the second byte of this sign is a backslash, so that no JSON is left either
        ('[{"a": "乗"}]'.encode("gbk"), "at record 1, byte 8, 0x81, is not"),
        ('{"a": 1}\n{"a": "é"}'.encode("latin-1"), "at record 2, byte 16, 0xe9, is not"),
    ],
)
def test_another_encoding_is_named(tmp_path, content, place):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(
        EncodingError, match=rf"a\.json must be in UTF-8; {place}\. Save the file in UTF-8; `iconv -f GBK"
    ):
        list(read_records(tmp_path / "a.json"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", None])
def test_a_file_with_zero_bytes_is_no_text(tmp_path, encoding):
    content = '[{"a": 1}]'.encode(encoding) if encoding else bytes(range(256))
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(EncodingError, match="must be a text in UTF-8; it has zero bytes, as files in UTF-16"):
        list(read_records(tmp_path / "a.json"))


@settings(deadline=None, max_examples=300)
@given(content=st.binary(max_size=60) | st.binary(max_size=20).map(lambda noise: b'[{"a": "' + noise + b'"}]'))
def test_any_bytes_are_records_or_an_error_of_ours(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert all(isinstance(placed.record, dict) for placed in read_records(file))
