"""Records as they are counted and drawn before a run."""

import json
from types import SimpleNamespace

import pytest


pytest.importorskip("llamafactory")


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_line_separators_in_a_text_cut_no_record(tmp_path, suffix):
    from sefe_plugin.hosts.llamafactory.lengths import _read

    records = [{"instruction": f"one\u2028two\x85three {i}", "output": "a\u2029b"} for i in range(3)]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    text = f"[{','.join(lines)}]" if suffix == ".json" else "\n\n".join(lines) + "\n"
    (tmp_path / f"data{suffix}").write_text(text, encoding="utf-8")
    attributes = SimpleNamespace(dataset_name=f"data{suffix}", load_from="file")
    assert _read(attributes, tmp_path) == (3, records)
