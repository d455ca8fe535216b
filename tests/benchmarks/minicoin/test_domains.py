"""Mini-CoIN's second visual domain: other pictures of the same questions, all answers still true."""

import colorsys
import json
from functools import partial

import pytest
from PIL import Image

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.benchmarks.minicoin import MiniCoIN, data, domains
from sefe_plugin.benchmarks.minicoin.domains import MiniCoIN16
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.load import load_recipe


TRAIN, TEST = 8, 8


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(data, "write_data", partial(data.write_data, train_size=TRAIN, test_size=TEST))


def prepared(folder, seed=42):
    assert MiniCoIN16().prepare(folder, {"seed": seed}) == {"dataset_dir": str(folder)}
    return folder


def contents(folder):
    """Records, and pixels of the pictures: the compressed bytes of a PNG depend on the zlib in use."""
    found = {file.relative_to(folder): json.loads(file.read_text()) for file in folder.rglob("*.json")}
    return found | {file.relative_to(folder): Image.open(file).tobytes() for file in folder.rglob("*.png")}


def records(folder, task, split):
    info = json.loads((folder / "dataset_info.json").read_text())
    return json.loads((folder / info[f"minicoin16_{task.lower()}_{split}"]["file_name"]).read_text())


def questions(folder, task, split):
    def text(record):
        return record["conversations"][0]["value"] if split == "train" else record["text"]

    return {
        (Image.open(folder / record["image"]).tobytes() if "image" in record else b"", text(record))
        for record in records(folder, task, split)
    }


def test_sixteen_tasks_with_data(tmp_path):
    folder = prepared(tmp_path / "data")
    assert type(load_benchmark("minicoin16")) is MiniCoIN16
    assert len(MiniCoIN16.tasks) == 16
    assert MiniCoIN16.tasks[:8] == MiniCoIN.tasks
    for dark, light in zip(MiniCoIN16.tasks[:8], MiniCoIN16.tasks[8:], strict=True):
        assert (light.name, light.scorer) == (f"{dark.name}_light", dark.scorer)
        for split, size in (("train", TRAIN), ("test", TEST)):
            ours, theirs = (records(folder, task.name, split) for task in (light, dark))
            assert len(ours) == len(theirs) == size
            assert {frozenset(record) - {"image"} for record in ours} == {
                frozenset(record) - {"image"} for record in theirs
            }
            for record in ours:
                assert record.get("image", "light/").startswith("light/")
                assert "image" not in record or Image.open(folder / record["image"]).size == (64, 64)


def test_a_sequence_finds_its_datasets(tmp_path):
    keys = {"benchmark": "minicoin16", "output_dir": str(tmp_path / "run"), "task_order": "shuffled"}
    tasks = load_recipe(keys, "test.yaml", host_keys()).tasks
    info = json.loads((prepared(tmp_path / "data") / "dataset_info.json").read_text())
    assert len(tasks) == 16
    for task in tasks:
        for name in (task.dataset, task.test_dataset):
            assert (tmp_path / "data" / info[name]["file_name"]).is_file()
            assert info[name]["file_name"].startswith("light/") == task.name.endswith("_light")


def test_the_first_domain_is_mini_coin(tmp_path):
    folder = prepared(tmp_path / "two")
    data.write_data(tmp_path / "one", 42)
    one, two = contents(tmp_path / "one"), contents(folder)
    assert all(two[name] == content for name, content in one.items() if name.name != "dataset_info.json")


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path):
    one, two, other = (contents(prepared(tmp_path / name, seed)) for name, seed in (("a", 7), ("b", 7), ("c", 8)))
    assert one == two
    light = [name for name in one.keys() & other.keys() if name.suffix == ".png" and name.parts[0] == "light"]
    assert len(light) >= 7 * (TRAIN + TEST) - 4  # some of ScienceQA's have no picture
    assert all(one[name] != other[name] for name in light)


def test_a_complete_folder_is_kept_and_an_unfinished_one_is_drawn_anew(tmp_path):
    folder = prepared(tmp_path)
    file = folder / "light" / "GQA" / "train.json"
    before, stamp = contents(folder), file.stat().st_mtime_ns
    prepared(folder)
    assert (contents(folder), file.stat().st_mtime_ns) == (before, stamp)
    (folder / "light").rename(folder / ".light.tmp")  # as if stopped while drawing
    (folder / ".light.tmp" / "GQA" / "train.json").write_text("half")
    prepared(folder)
    assert contents(folder) == before
    prepared(folder, 43)
    assert contents(folder) != before


@pytest.mark.parametrize("changed", [{"version": 1}, {"test_size": 9}, {"train_sizes": {}}])
def test_a_second_domain_of_another_version_or_size_is_drawn_anew(tmp_path, changed):
    folder = prepared(tmp_path)
    before, manifest = contents(folder), folder / "light" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changed))
    (folder / "light" / "GQA" / "train.json").write_text("[]")
    prepared(folder)
    assert contents(folder) == before


def test_no_question_is_both_trained_and_tested(tmp_path):
    first, second = prepared(tmp_path / "a", 42), prepared(tmp_path / "b", 43)
    names = [task.name for task in MiniCoIN16.tasks]
    train, test = (
        {
            split: {(n.removesuffix("_light"), *q) for n in names for q in questions(folder, n, split)}
            for split in ("train", "test")
        }
        for folder in (first, second)
    )
    assert len(train["train"]) >= 15 * TRAIN  # two of ScienceQA's few questions without a picture may be the same
    assert len(train["test"]) >= 15 * TEST
    assert not train["train"] & (train["test"] | test["test"])
    assert not test["train"] & (train["test"] | test["test"])


@pytest.mark.parametrize("seed", [0, 42, data.VALIDATION_SEEDS - 1, data.VALIDATION_SEEDS, 5000])
def test_the_second_domain_has_streams_of_its_own_on_the_same_side(seed):
    second = domains._second_seed(seed)
    assert (second >= data.VALIDATION_SEEDS) == (seed >= data.VALIDATION_SEEDS)
    assert second < 0 or second >= 10**9


def test_lightness_is_inverted_and_hues_stay(monkeypatch):
    monkeypatch.setattr(domains, "_GRAIN", 0.0)
    colours = [(220, 40, 40), (40, 170, 60), (60, 90, 240), (240, 220, 40), (20, 20, 20), (255, 255, 255), (0, 0, 0)]
    picture = Image.new("RGB", (len(colours), 1))
    picture.putdata(colours)
    for before, after in zip(colours, domains.to_light(picture, "").getdata(), strict=True):
        (hue, lightness, _), (new_hue, new_lightness, _) = (
            colorsys.rgb_to_hls(*(value / 255 for value in colour)) for colour in (before, after)
        )
        assert new_lightness == pytest.approx(1 - lightness, abs=1e-9)
        if max(before) > min(before):
            assert new_hue == pytest.approx(hue, abs=1e-9)


def test_grain_is_drawn_from_its_seed():
    picture = Image.new("RGB", (64, 64), (20, 20, 20))
    one, again, other = (domains.to_light(picture, seed) for seed in ("a", "a", "b"))
    assert one.tobytes() == again.tobytes() != other.tobytes()
    # a tenth of grain with values from 0 to 255 around nine tenths of 235
    low, high = one.convert("L").getextrema()
    assert 0.9 * 235 - 1 <= low < high <= 0.9 * 235 + 26
