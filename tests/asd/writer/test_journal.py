import json

import pytest

from sefe_plugin.asd.writer.journal import Journal, request_key


KEYS = [request_key("m", "yes_no", [i], [], ["prompt"]) for i in range(5)]


def test_replies_outlive_the_process(tmp_path):
    with Journal(tmp_path / "j.jsonl") as journal:
        for i, key in enumerate(KEYS[:3]):
            assert journal.get(key) is None
            journal.add(key, [i], "yes_no", f"é\n{i}")
            # Written the moment it comes.
            assert len((tmp_path / "j.jsonl").read_bytes().splitlines()) == i + 1
        assert journal.get(KEYS[0]) == "é\n0"
        journal.add(KEYS[3], [3], "yes_no", "after a look back")
    with Journal(tmp_path / "j.jsonl") as journal:
        assert len(journal) == 4
        assert [journal.get(key) for key in KEYS] == ["é\n0", "é\n1", "é\n2", "after a look back", None]


def test_a_line_cut_short_at_any_place_is_dropped_and_written_anew(tmp_path):
    file = tmp_path / "j.jsonl"
    with Journal(file) as journal:
        for i in range(2):
            journal.add(KEYS[i], [i], "yes_no", "reply é")
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        file.write_bytes(whole[:end])
        with Journal(file) as journal:
            assert (journal.get(KEYS[0]), journal.get(KEYS[1])) == ("reply é", None)
            journal.add(KEYS[1], [1], "yes_no", "reply é")
        assert file.read_bytes() == whole


def test_only_one_process_writes(tmp_path):
    with Journal(tmp_path / "j.jsonl"), pytest.raises(ValueError, match="another process is writing"):
        Journal(tmp_path / "j.jsonl")
    with Journal(tmp_path / "j.jsonl") as journal:
        assert len(journal) == 0


def test_every_part_of_a_request_is_in_its_key():
    base = ["m", "yes_no", [1, 2], ["a.png"], ["prompt", "reply", "correction"]]
    others = [
        ["n", *base[1:]],
        ["m", "brief", *base[2:]],
        ["m", "yes_no", [1], *base[3:]],
        [*base[:3], ["b.png"], base[4]],
        [*base[:4], ["prompt"]],
    ]
    keys = {request_key(*parts) for parts in [base, *others]}
    assert len(keys) == 6 and {len(key) for key in keys} == {16}
    assert request_key(*json.loads(json.dumps(base))) == request_key(*base)
