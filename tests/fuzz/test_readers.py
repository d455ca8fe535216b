"""Broken files of records and of JSON lines, records of any form: ValueError or nothing."""

import json

from fuzzing import broken, fuzzed, only, values
from hypothesis import strategies as st

from sefe_plugin.asd.diversify import diversify
from sefe_plugin.asd.writer.journal import Journal
from sefe_plugin.data.layout import find_dataset, layout_like, layout_of
from sefe_plugin.data.reader import read_array, read_records
from sefe_plugin.data.records import RecordFile
from sefe_plugin.data.sample import Sample
from sefe_plugin.json_lines import GrowingFile, read_json_lines


RECORDS = [{"instruction": "What is it?\u2028", "output": "rouge é", "images": [f"{i}.png"], "n": i} for i in range(5)]
ARRAY = json.dumps(RECORDS).encode()
LINES = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS).encode()
JOURNAL = (
    b"\n".join(b'{"key": "%02x", "samples": [1], "style": "brief", "reply": "A b."}' % i for i in range(4)) + b"\n"
)
ENTRY = {"columns": {"messages": "conversations", "images": "images"}, "formatting": "sharegpt"}


@fuzzed(data=broken(ARRAY, json.dumps(RECORDS, indent=1).encode(), LINES, b"\xef\xbb\xbf" + ARRAY))
def test_files_of_records(folder, data):
    file = folder / "a.json"
    file.write_bytes(data)
    with only(ValueError):
        for placed in read_records(file):
            assert json.loads(data[placed.start : placed.end]) == placed.record or placed.record != placed.record
    with only(ValueError):
        list(read_array(file))
    with only(ValueError):
        records = RecordFile(file)
        assert all(isinstance(records[i], dict) for i in range(len(records)))
        records.close()


@fuzzed(data=broken(LINES, JOURNAL))
def test_json_lines(folder, data):
    file = folder / "a.jsonl"
    file.write_bytes(data)
    with only(ValueError):
        read_json_lines(file)
    with GrowingFile(file) as growing, only(ValueError):
        list(growing)
    assert file.read_bytes() == data


@fuzzed(data=broken(JOURNAL))
def test_a_journal_of_replies(folder, data):
    (folder / "journal.jsonl").write_bytes(data)
    with only(ValueError), Journal(folder / "journal.jsonl") as journal:
        for i in range(4):
            journal.get(bytes([i]))


PARTS = st.sampled_from(["instruction", "output", "input", "history", "images", "conversations", "messages", "image"])


@fuzzed(
    entry=st.dictionaries(
        st.sampled_from(["formatting", "columns", "tags", "ranking", "file_name"]),
        st.sampled_from(["alpaca", "sharegpt", "openai"])
        | st.dictionaries(st.sampled_from(["prompt", "response", "messages", "images", "role_tag"]), values)
        | values,
    ),
    record=st.dictionaries(PARTS, values | st.lists(st.dictionaries(st.sampled_from(["from", "value"]), values))),
)
def test_layouts(folder, entry, record):
    for find in (lambda: layout_of("a", entry), lambda: layout_of("a", ENTRY), lambda: layout_like(record)):
        with only(ValueError):
            layout = find()
            layout.images(record)
            layout.write(record, layout.read(record))
    (folder / "dataset_info.json").write_text(json.dumps({"a": entry}))
    with only(ValueError):
        find_dataset("a", folder)


@fuzzed(data=broken(json.dumps({"a": ENTRY}).encode()))
def test_a_broken_description_of_datasets(folder, data):
    (folder / "dataset_info.json").write_bytes(data)
    with only(ValueError):
        find_dataset("a", folder)


@fuzzed(turns=st.lists(st.tuples(st.text(max_size=60), st.text(max_size=30)), min_size=5, max_size=12))
def test_samples_of_any_text_are_rewritten_or_refused(folder, turns):
    samples = [Sample(question, answer) for question, answer in turns]
    with only(ValueError):
        rewritten, _ = diversify(samples, 0.5, seed=1)
        assert len(rewritten) == len(samples)
