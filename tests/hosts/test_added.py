"""Samples of earlier tasks and general ones, joined to a task's own in the host's own loader."""

import inspect
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Picture

from sefe_plugin.answers.styles import FORMAT_LINES, SHORT_ANSWER
from sefe_plugin.data.added import KEPT_FOLDER, check_kept
from sefe_plugin.hosts.llamafactory import patches
from sefe_plugin.hosts.llamafactory.added import keep, read_kept


LINE = FORMAT_LINES[SHORT_ANSWER]
SIZES = {"first": 40, "second": 30, "third": 20, "general": 10}


@pytest.fixture
def folder(tmp_path):
    """Datasets of questions with a picture each; the general one has none."""
    media = tmp_path / "data" / "pictures"
    media.mkdir(parents=True)
    info = {}
    for name, size in SIZES.items():
        rows = []
        for i in range(size):
            question = f"What is at place {i} of {name}?\n{LINE}"
            row = {"messages": [{"from": "human", "value": question}, {"from": "gpt", "value": f"{name} {i % 5}"}]}
            if name != "general":
                (media / f"{name}{i}.png").write_bytes(b"")
                row["messages"][0]["value"] = f"<image>{question}"
                row["images"] = [f"{name}{i}.png"]
            rows.append(row)
        (tmp_path / "data" / f"{name}.json").write_text(json.dumps(rows))
        columns = {"messages": "messages"} | ({} if name == "general" else {"images": "images"})
        info[name] = {"file_name": f"{name}.json", "formatting": "sharegpt", "columns": columns}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path


@pytest.fixture
def load(folder, monkeypatch):
    """Loads a task's data as the host does, up to where it tokenizes: the training part and the held-out one."""
    from llamafactory.data import loader
    from llamafactory.hparams.data_args import DataArguments
    from llamafactory.hparams.model_args import ModelArguments

    monkeypatch.setattr(loader, "get_dataset_module", dict)
    monkeypatch.setattr(loader, "DatasetDict", dict)

    def run(name, number=1, seed=3, process=0, data=folder / "data", **keys):
        if "replay_ratio" in keys:
            earlier = [name for name in SIZES if name != "general"][: number - 1]
            keys["replay_from"] = [str(folder / "run" / task / KEPT_FOLDER) for task in earlier]
            keys.setdefault("replay_to", str(folder / "run" / name / KEPT_FOLDER))
        data_args = DataArguments(
            dataset=name, dataset_dir=str(data), media_dir=str(data / "pictures"), overwrite_cache=True, **keys
        )
        output = folder / "run" / name
        output.mkdir(parents=True, exist_ok=True)
        training_args = SimpleNamespace(
            seed=seed,
            do_train=True,
            should_save=process == 0,
            local_process_index=process,
            output_dir=str(output),
            main_process_first=lambda **kwargs: nullcontext(),
        )
        get, preprocess = patches.added(inspect.unwrap(loader.get_dataset), lambda dataset, *_, **__: dataset)
        monkeypatch.setattr(loader, "_get_preprocessed_dataset", preprocess)
        model_args = ModelArguments(model_name_or_path="none", cache_dir=str(folder / "cache"))
        parts = get(None, model_args, data_args, training_args, "sft", None)
        return parts["train"].to_list(), parts["validation"].to_list() if "validation" in parts else None

    return run


def test_old_samples_come_as_they_were_trained_and_in_exact_numbers(load):
    keys = {"asd_ratio": 0.5, "replay_ratio": 0.4}
    first, _ = load("first", 1, **keys)
    plain, _ = load("first", 1, asd_ratio=0.5)
    assert first == plain and len(first) == 40
    rewritten = [row for row in first if LINE not in row["_prompt"][0]["content"]]
    assert len(rewritten) == 20
    second, _ = load("second", 2, **keys)
    own, _ = load("second", 2, asd_ratio=0.5)
    assert second[:30] == own and len(second) == 42
    assert all(row in first for row in second[30:]) and any(row in rewritten for row in second[30:])
    third, _ = load("third", 3, **keys)
    assert len(third) == 28
    assert all(row in first for row in third[20:24]) and all(row in own for row in third[24:])


def test_only_what_was_kept_is_ever_drawn(load, folder):
    keys = {"replay_ratio": 0.5, "replay_size": 4}
    first, _ = load("first", 1, **keys)
    assert check_kept(folder / "run" / "first" / KEPT_FOLDER) == 4
    kept = read_kept(folder / "run" / "first" / KEPT_FOLDER, str(folder / "data" / "pictures")).to_list()
    assert all(row in first for row in kept)
    second, _ = load("second", 2, **keys)
    drawn = second[30:]
    assert len(drawn) == 15 and all(row in kept for row in drawn)
    assert sorted(drawn.count(row) for row in kept) == [3, 4, 4, 4]
    # its own are kept, not those that it has drawn
    own = read_kept(folder / "run" / "second" / KEPT_FOLDER, str(folder / "data" / "pictures")).to_list()
    assert len(own) == 4 and all("second" in row["_prompt"][0]["content"] for row in own)


def test_what_is_held_back_is_neither_added_to_nor_drawn_from(load):
    keys = {"val_size": 0.2, "replay_ratio": 1.0, "mix": [{"dataset": "general", "share": 0.5}]}
    first, held_out = load("first", 1, **keys)
    assert len(held_out) == 8 and held_out == load("first", 1, val_size=0.2)[1]
    assert len(first) == 32 + 16
    second, validation = load("second", 2, **keys)
    assert validation == load("second", 2, val_size=0.2)[1]
    assert len(second) == 24 + 24 + 12
    assert not any(row in held_out for row in second)


def test_general_samples_are_not_rewritten_and_repeated_where_they_are_few(load):
    mix = [{"dataset": "general", "share": 0.5}]
    rows, _ = load("first", 1, asd_ratio=1.0, mix=mix)
    general, _ = load("general")
    assert len(rows) == 60 and all(row["_images"] for row in rows[:40])
    assert sorted(rows[40:].count({**row, "_images": None}) for row in general) == [2] * 10
    own, _ = load("first", 1, asd_ratio=1.0)
    assert rows[:40] == own


def test_every_process_has_the_same_and_the_seed_decides(load):
    keys = {"replay_ratio": 0.4, "mix": [{"dataset": "general", "share": 0.1}]}
    load("first", 1, **keys)
    one = load("second", 2, **keys)
    assert load("second", 2, process=1, **keys) == one == load("second", 2, **keys)
    assert load("second", 2, seed=4, **keys) != one


def test_only_the_first_process_writes(load, folder):
    load("first", 1, process=1, replay_ratio=0.1)
    assert not list((folder / "run" / "first").iterdir())


def test_a_training_that_is_not_the_tasks_last_keeps_none(load, folder):
    rows, _ = load("first", 1, replay_ratio=0.1, replay_to=None)
    assert len(rows) == 40 and not list((folder / "run" / "first").iterdir())


def test_reading_leaves_no_cache_beside_the_kept_samples(load, folder):
    load("first", 1, replay_ratio=0.1)
    kept = folder / "run" / "first" / KEPT_FOLDER
    before = sorted(kept.iterdir())
    load("second", 2, replay_ratio=0.1)
    assert sorted(kept.iterdir()) == before


def test_data_may_move_between_tasks(load, folder):
    keys = {"replay_ratio": 0.1}
    load("first", 1, **keys)
    moved = (folder / "data").rename(folder / "moved")
    rows, _ = load("second", 2, data=moved, **keys)
    assert len(rows) == 33 and all(Path(row["_images"][0]).is_file() for row in rows)


def test_pictures_within_the_data_are_kept_as_they_are(tmp_path):
    pictures = [Picture.new("RGB", (4, 4), (40 * i, 0, 0)) for i in range(3)]
    features = Features(_images=[Image()], _videos=Value("null"), _audios=Value("null"))
    rows = {"_images": [[picture] for picture in pictures], "_videos": [None] * 3, "_audios": [None] * 3}
    samples = Dataset.from_dict(rows, features=features)
    keep(samples.select([2, 0]), tmp_path / KEPT_FOLDER, str(tmp_path))
    kept = read_kept(tmp_path / KEPT_FOLDER, str(tmp_path))
    assert kept.features == features
    assert [row["_images"][0].getpixel((0, 0)) for row in kept] == [(80, 0, 0), (0, 0, 0)]


def test_samples_that_are_lost_or_damaged_are_named(load, folder):
    place = folder / "run" / "first" / KEPT_FOLDER
    with pytest.raises(ValueError, match=f"{place}: .* are missing. Train its task again"):
        check_kept(place)
    load("first", 1, replay_ratio=0.1)
    assert check_kept(place) == 40
    (file,) = place.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"{place}: .* are damaged"):
        check_kept(place)
    load("first", 1, replay_ratio=0.1)
    for content in ("[]", "null", "3", "{"):
        (place / "dataset_info.json").write_text(content)
        with pytest.raises(ValueError, match=f"{place}: .* are damaged"):
            check_kept(place)


def test_a_sequence_trains_them_with_its_tasks(small_recipe, train_here, tmp_path):
    from sefe_plugin.hosts.llamafactory.plan import make_plan
    from sefe_plugin.plan.plan import format_plan

    mix = [{"dataset": "general", "share": 0.25}]
    recipe = small_recipe(tmp_path, 2, cl_method="lora", replay_ratio=0.5, replay_size=20, mix=mix, num_train_epochs=1)
    info = tmp_path / "data" / "dataset_info.json"
    entries = json.loads(info.read_text())
    entries["general"] = entries["minicoin_imagenet_train"]
    info.write_text(json.dumps(entries))
    plan = make_plan(recipe, [], gpus=1)
    assert [(task.samples, task.added) for task in plan.tasks] == [(64, 16), (64, 48)]
    assert "64 of the samples are of earlier tasks or general data" in format_plan(plan)
    train_here(recipe)
    places = [tmp_path / "run" / name for name in ("1_ScienceQA", "2_TextVQA")]
    steps = [json.loads((place / "trainer_state.json").read_text())["global_step"] for place in places]
    assert steps == list(plan.steps) == [5, 7]  # 80 and 112 samples, 16 in a step
    assert [check_kept(place / KEPT_FOLDER) for place in places] == [20, 20]
    for place in places:
        inputs = json.loads((place / "inputs.json").read_text())
        assert inputs["general"]["for"] == "training"
