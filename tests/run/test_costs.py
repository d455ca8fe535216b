"""What trainings took, as it is recorded and read, and what a task leaves."""

import json

import numpy as np
import pytest

from sefe_plugin.run.costs import COST_FILE, Cost, bytes_left, peak_memory_of_process, read_costs, record_cost
from sefe_plugin.run.records import RunFolderError


FIRST, LAST = Cost(10.5, 20, 0, 0.5, 3_000_000, "process"), Cost(30.0, 40, 0, 0.7, 2_000_000, "process")


def test_all_phases_of_a_task_are_read(tmp_path):
    assert read_costs(tmp_path) == []
    (tmp_path / "calibrate").mkdir()
    record_cost(tmp_path / "calibrate", FIRST)
    record_cost(tmp_path, LAST)
    assert read_costs(tmp_path) == [FIRST, LAST]


@pytest.mark.parametrize(
    "content", [[], {"seconds": 1}, {**LAST._asdict(), "seconds": "1"}, {**LAST._asdict(), "memory_of": "tpu"}]
)
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / COST_FILE).write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match=r"cost\.json is damaged: it must hold a mapping with \('seconds', "):
        read_costs(tmp_path)


@pytest.mark.parametrize(
    ("files", "method_file", "expected"),
    [
        ({"adapter_model.safetensors": 7, "README.md": 5}, None, 7),
        ({"adapter_model.safetensors": 7, "fisher.safetensors": 4}, "fisher.safetensors", 11),
        ({"adapter_model.safetensors": 7}, "adapter_model.safetensors", 7),
        ({"model.safetensors": 9, "mask.safetensors": 2}, "mask.safetensors", 11),
        ({"model-00001-of-00002.safetensors": 5, "model-00002-of-00002.safetensors": 6}, None, 11),
        ({"adapter_model.safetensors": 7, "merged/model.safetensors": 90}, None, 7),
        ({"adapter_model.safetensors": 7, "kept_samples/data-00000-of-00001.arrow": 3}, None, 10),
        ({}, "mask.safetensors", 0),
    ],
)
def test_bytes_that_a_task_leaves(tmp_path, files, method_file, expected):
    for name, size in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert bytes_left(tmp_path, method_file) == expected


def test_peak_memory_is_in_bytes_and_stays():
    import psutil

    before = peak_memory_of_process()
    block = np.ones(30_000_000)  # 240 MB
    held = psutil.Process().memory_info().rss
    del block
    assert peak_memory_of_process() >= max(before, 0.99 * held)
    assert peak_memory_of_process() < 100 * held
