"""Mini-CoIN's test set of no task: drawn apart, from pictures that nothing is trained on, readable by its scorer."""

import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.benchmarks.minicoin.data import part_of, write_data
from sefe_plugin.benchmarks.minicoin.general import GENERAL, _items, add_general
from sefe_plugin.data.test_sets import test_set_errors as errors_of_test_set
from sefe_plugin.evaluation.scorers import SCORERS
from sefe_plugin.files import read_json


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_nothing_else_changes_and_it_is_the_same_again(tmp_path):
    write_data(tmp_path, 42, 6, 4)
    before = digests(tmp_path)
    add_general(tmp_path, 42, 20)
    after = digests(tmp_path)
    assert [name for name in before if before[name] != after[name]] == ["dataset_info.json"]
    info = read_json(tmp_path / "dataset_info.json")
    entry = info.pop(GENERAL)
    assert len(info) == 16
    records = read_json(tmp_path / entry["file_name"])
    assert len(records) == 20
    assert all(Image.open(tmp_path / record["image"]).size == (64, 64) for record in records)
    assert errors_of_test_set(GENERAL, tmp_path, "short_answer", SCORERS["short_answer"]) == []
    add_general(tmp_path, 42, 20)
    assert digests(tmp_path) == after
    add_general(tmp_path, 43, 20)
    assert digests(tmp_path)["general/test.json"] != after["general/test.json"]


@pytest.mark.parametrize(("seed", "part"), [(42, "test"), (1000, "validation")])
def test_its_pictures_are_of_a_part_that_is_never_trained(tmp_path, seed, part):
    write_data(tmp_path, seed, 1, 1)
    add_general(tmp_path, seed, 10)
    items = _items(part, seed)
    for record in read_json(tmp_path / "general/test.json"):
        item = next(items)
        assert part_of(item.picture) == part
        drawn = io.BytesIO()
        item.picture.draw().save(drawn, "png")
        assert (tmp_path / record["image"]).read_bytes() == drawn.getvalue()


@pytest.mark.parametrize("name", ["minicoin", "minicoin16"])
def test_a_run_has_it_only_where_its_recipe_names_it(tmp_path, monkeypatch, name):
    small = lambda folder, seed: write_data(folder, seed, 2, 2)  # noqa: E731
    monkeypatch.setattr("sefe_plugin.benchmarks.minicoin.data.write_data", small)
    benchmark = load_benchmark(name)
    benchmark.prepare(tmp_path, {"seed": 7})
    before = digests(tmp_path)
    assert GENERAL not in read_json(tmp_path / "dataset_info.json")
    assert not (tmp_path / "general").exists()
    keys = {"seed": 7, "retention_sets": [{"name": "general", "dataset": GENERAL, "scorer": "short_answer"}]}
    for _ in range(2):  # a continued run
        benchmark.prepare(tmp_path, keys)
        info = read_json(tmp_path / "dataset_info.json")
        assert [entry for entry in info if "general" in entry] == [GENERAL]
    changed = [file for file, digest in before.items() if digests(tmp_path)[file] != digest]
    assert changed == ["dataset_info.json"]
    assert set(benchmark.retention_sets) == {GENERAL}
