"""What a task was made of is recorded, and a change of it is noticed whatever kind of input it is."""

import json
import os
import shutil

import pytest

from sefe_plugin.files import write_json
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run import inputs
from sefe_plugin.run.inputs import TEST, TRAINING, accepted, changes, read_inputs, task_inputs, write_inputs


TASK = Task("A", "a_train,b_train", "a_test", "short_answer", {})


@pytest.fixture
def keys(tmp_path):
    """A recipe with data, images, a local base and a configuration of DeepSpeed."""
    data, base = tmp_path / "data", tmp_path / "base"
    columns = {"columns": {"messages": "conversations", "images": "image"}}
    info = {"a_train": {"file_name": "a.json", **columns}, "b_train": {"file_name": "b.jsonl"}}
    write_json(data / "dataset_info.json", info | {"a_test": {"file_name": "test.json", **columns}})
    write_json(data / "a.json", [{"image": "1.png"}, {"image": ["2.png", "1.png"]}])
    (data / "b.jsonl").write_text("{}\n")
    write_json(data / "test.json", [{"image": "1.png"}])
    for number in (1, 2):
        (data / f"{number}.png").write_bytes(bytes(100))
    write_json(base / "config.json", {"hidden_size": 8})
    (base / "model.safetensors").write_bytes(os.urandom(9 << 20))
    write_json(tmp_path / "ds.json", {"zero_optimization": {"stage": 2}})
    return {"dataset_dir": str(data), "model_name_or_path": str(base), "deepspeed": str(tmp_path / "ds.json")}


def test_what_is_recorded(keys, tmp_path):
    found = task_inputs(keys, TASK, {})
    assert {name: record["for"] for name, record in found.items()} == {
        "a_train in dataset_info.json": TRAINING,
        "a_train": TRAINING,
        "images of a_train": TRAINING,
        "b_train in dataset_info.json": TRAINING,
        "b_train": TRAINING,
        "a_test in dataset_info.json": TEST,
        "a_test": TEST,
        "images of a_test": TEST,
        "base: config.json": TRAINING,
        "base: model.safetensors": TRAINING,
        "`deepspeed`": TRAINING,
    }
    write_inputs(tmp_path / "1_A", found)
    assert read_inputs(tmp_path / "1_A") == found
    assert changes(found, task_inputs(keys, TASK, found)) == []


def test_nothing_is_read_again_that_is_as_large_and_as_old(keys, monkeypatch):
    found = task_inputs(keys, TASK, {})
    for reader in ("file_digest", "_weights_digest"):
        monkeypatch.setattr(inputs, reader, None)
    assert task_inputs(keys, TASK, found) == found


def test_a_copy_with_new_times_is_no_change(keys, tmp_path):
    found = task_inputs(keys, TASK, {})
    for folder, _, names in os.walk(tmp_path):
        for name in names:
            os.utime(f"{folder}/{name}", (1, 1))
    assert changes(found, task_inputs(keys, TASK, found)) == []


def in_place(file) -> None:
    """Change one byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "name", "said"),
    [
        ("data/b.jsonl", "b_train", "sha256"),
        ("data/test.json", "a_test", "sha256"),
        ("data/2.png", "images of a_train", "content_sha256"),
        ("base/config.json", "base: config.json", "sha256"),
        ("ds.json", "`deepspeed`", "sha256"),
    ],
)
def test_a_byte_that_differs_is_a_change_that_is_named(keys, tmp_path, file, name, said):
    found = task_inputs(keys, TASK, {})
    if file.endswith("json"):
        (tmp_path / file).write_text((tmp_path / file).read_text() + " ")
    else:
        in_place(tmp_path / file)
    os.utime(tmp_path / file, (1, 1))
    (sentence,) = changes(found, task_inputs(keys, TASK, found))
    assert sentence.startswith(f"{name} (for {found[name]['for']}")
    assert f"it was {said}" in sentence or f", {said}" in sentence
    if "file" in found[name]:
        assert str(tmp_path / file) in sentence


def test_other_weights_of_the_same_size_are_a_change(keys, tmp_path):
    found = task_inputs(keys, TASK, {})
    (tmp_path / "base" / "model.safetensors").write_bytes(os.urandom(9 << 20))
    (sentence,) = changes(found, task_inputs(keys, TASK, found))
    assert sentence.startswith("base: model.safetensors")


def test_absent_files_and_entries_are_changes(keys, tmp_path):
    found = task_inputs(keys, TASK, {})
    (tmp_path / "data" / "a.json").unlink()
    shutil.rmtree(tmp_path / "base")
    info = json.loads((tmp_path / "data" / "dataset_info.json").read_text())
    info["b_train"]["file_name"] = "a.json"
    write_json(tmp_path / "data" / "dataset_info.json", info)
    listed = changes(found, task_inputs(keys, TASK, found))
    named = [sentence.split(" (for")[0] for sentence in listed]
    assert named == [
        "a_train",
        "images of a_train",
        "b_train in dataset_info.json",
        "b_train",
        "base: config.json",
        "base: model.safetensors",
    ]
    assert listed[0].endswith(", and is absent.")


def test_a_change_for_scoring_alone_is_told_apart(keys, tmp_path):
    found = task_inputs(keys, TASK, {})
    write_json(tmp_path / "data" / "test.json", [{"image": "2.png"}])
    present = task_inputs(keys, TASK, found)
    assert changes(found, present, TRAINING) == []
    assert [sentence.split(" (for")[0] for sentence in changes(found, present, TEST)] == ["a_test", "images of a_test"]


def test_an_accepted_change_is_none_until_the_next(keys, tmp_path):
    found = task_inputs(keys, TASK, {})
    (tmp_path / "data" / "b.jsonl").write_text("{}\n{}\n")
    present = task_inputs(keys, TASK, found)
    kept = accepted(found, present)
    assert kept["b_train"]["sha256"] == found["b_train"]["sha256"]
    assert changes(kept, task_inputs(keys, TASK, kept)) == []
    (tmp_path / "data" / "b.jsonl").write_text("{}\n{}\n{}\n")
    assert len(changes(kept, task_inputs(keys, TASK, kept))) == 1


def test_the_revision_of_a_hub_model_counts_once_it_is_known(keys, monkeypatch):
    states = [None, "c0ffee", "c0ffee", "decade"]
    monkeypatch.setattr(inputs, "_cached_revision", lambda model, revision: states.pop(0))
    keys = keys | {"model_name_or_path": "owner/name"}
    unknown, first, same, other = (task_inputs(keys, TASK, {}) for _ in range(4))
    assert changes(unknown, first) == changes(first, same) == []
    (sentence,) = changes(first, other)
    assert "it was revision c0ffee, and is revision decade" in sentence


def test_the_cache_of_the_hub_is_asked_for_the_revision(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert inputs._cached_revision("owner/name", "main") is None
    repository = tmp_path / "models--owner--name"
    (repository / "snapshots" / "abc123").mkdir(parents=True)
    (repository / "snapshots" / "abc123" / "config.json").touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    assert inputs._cached_revision("owner/name", "main") == "abc123"
    assert inputs._cached_revision("no/such/name", "main") is None


def test_general_data_is_an_input_of_training(keys, tmp_path):
    info = json.loads((tmp_path / "data/dataset_info.json").read_text())
    write_json(tmp_path / "data/dataset_info.json", info | {"general": {"file_name": "general.json"}})
    write_json(tmp_path / "data/general.json", [{}])
    keys = {**keys, "mix": [{"dataset": "general", "share": 1.0}]}
    found = task_inputs(keys, TASK, {})
    assert found["general"]["for"] == found["general in dataset_info.json"]["for"] == TRAINING
    in_place(tmp_path / "data/general.json")
    (change,) = changes(found, task_inputs(keys, TASK, found), TRAINING)
    assert change.startswith("general (for training")
