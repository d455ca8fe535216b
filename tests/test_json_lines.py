import json

import pytest

from sefe_plugin.json_lines import GrowingFile, numbered_records, read_json_lines, write_json_lines


RECORDS = [{"a": "one\u2028two\x85three"}, ["é", 1.5], {}]


def test_what_is_written_is_read_back(tmp_path):
    file = tmp_path / "new" / "x.jsonl"
    write_json_lines(file, RECORDS)
    assert read_json_lines(file) == RECORDS
    assert file.read_bytes().count(b"\n") == 3 and "é".encode() in file.read_bytes()


def test_half_a_surrogate_pair_is_written_as_an_escape(tmp_path):
    write_json_lines(tmp_path / "x.jsonl", [{"a": "\ud83d"}])
    assert (tmp_path / "x.jsonl").read_bytes() == b'{"a": "\\ud83d"}\n'
    assert read_json_lines(tmp_path / "x.jsonl") == [{"a": "\ud83d"}]


def test_lines_are_numbered_with_the_empty_ones(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n[2]')
    assert list(numbered_records(tmp_path / "x.jsonl")) == [(1, {"a": 1}), (4, [2])]


@pytest.mark.parametrize("line", [b"{", b'"\xff"', b"{} {}"])
def test_a_line_that_is_no_json_is_named(tmp_path, line):
    (tmp_path / "x.jsonl").write_bytes(b"{}\n" + line)
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2: each line must be one JSON object"):
        read_json_lines(tmp_path / "x.jsonl")


def test_a_file_goes_on_where_it_was_cut_off(tmp_path):
    file = tmp_path / "new" / "x.jsonl"
    with GrowingFile(file) as records:
        for record in RECORDS:
            place = records.append(record)
            assert read_json_lines(file)[-1] == record == records.read(place)
    whole = file.read_bytes()
    second = whole.index(b"\n") + 1
    for end in range(second, whole.index(b"\n", second) + 1):
        file.write_bytes(whole[:end])
        with GrowingFile(file) as records:
            # Opening and reading change nothing.
            assert [record for _, record in records] == RECORDS[:1]
            assert file.read_bytes() == whole[:end]
            for record in RECORDS[1:]:
                records.append(record)
            assert [records.read(place) for place, _ in records] == RECORDS
        assert file.read_bytes() == whole


def test_a_damaged_line_that_is_whole_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({}) + "\n{\n")
    with GrowingFile(tmp_path / "x.jsonl") as records, pytest.raises(ValueError, match=r"x\.jsonl, line 2"):
        list(records)


def test_only_one_process_writes(tmp_path):
    with GrowingFile(tmp_path / "x.jsonl"), pytest.raises(ValueError, match="another process is writing"):
        GrowingFile(tmp_path / "x.jsonl")
    with GrowingFile(tmp_path / "x.jsonl") as records:
        assert list(records) == []
