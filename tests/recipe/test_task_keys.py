"""`task_keys`: keys that differ for tasks of a benchmark, and the tasks whose styles no rule can write."""

import json

import pytest

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe, recipe_warnings
from sefe_plugin.run.export import plain_recipe


def recipe_of(benchmark: str, **keys) -> dict:
    return {
        "benchmark": benchmark,
        "model_name_or_path": str(BASE),
        "template": "llava",
        "output_dir": "runs/x",
        "num_train_epochs": 1.0,
        **keys,
    }


def load(benchmark: str, **keys):
    return load_recipe(recipe_of(benchmark, **keys), "test.yaml", host_keys(), check_data=False)


def errors_of(benchmark: str, **keys) -> list[str]:
    with pytest.raises(RecipeError) as error:
        load(benchmark, **keys)
    return error.value.errors


def test_keys_go_to_the_tasks_they_are_for():
    entries = [
        {"name": "Med", "num_train_epochs": 3.0},
        {"name": "Sci", "num_train_epochs": 2.0, "dataset": ["a", "b"]},
    ]
    loaded = load("dcl", task_keys=entries, task_order="reversed")
    assert {task.name: dict(task.overrides) for task in loaded.tasks} == {
        "Fin": {},
        "Sci": {"num_train_epochs": 2.0},
        "AD": {},
        "Med": {"num_train_epochs": 3.0},
        "RS": {},
    }
    assert [task.dataset for task in loaded.tasks][:2] == ["dcl_fin_train", "a, b"]
    assert "task_keys" not in loaded.arguments
    plain = plain_recipe(loaded.to_dict())
    assert plain["task_keys"] == [
        {"name": "Sci", "dataset": "a, b", "num_train_epochs": 2.0},
        {"name": "Med", "num_train_epochs": 3.0},
    ]
    again = load("dcl", **{key: value for key, value in plain.items() if key != "benchmark"})
    assert again.tasks == loaded.tasks
    assert "task_keys" not in plain_recipe(load("dcl").to_dict())


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ("Med", "`task_keys` must be a list of mappings with the name of a task; got 'Med'"),
        (
            [{"name": "Med"}, {"name": "Med"}],
            "`task_keys` must name each task of the benchmark once at most; got 'Med'",
        ),
        ([{"name": "Medd"}], "Did you mean `Med`?"),
        ([{"num_train_epochs": 3}], "`task_keys`: `name` is required and must be text; got None."),
        ([{"name": ["Med"]}], "`task_keys`: `name` is required and must be text; got ['Med']."),
        ([{"name": "Med", "lora_rank": 0, "epoch": 3}], "`task_keys` (Med): `epoch`"),
        ([{"name": "Med", "scorer": "box"}], "`task_keys` (Med): `scorer`"),
        ([{"name": "Med", "carry": "none"}], "`task_keys` (Med): `carry` belongs to the whole sequence"),
        ([{"name": "Med", "asd_ratio": 2}], "`task_keys` (Med): `asd_ratio` must be a share in [0, 1]"),
        ([{"name": "Med", "dataset": ["a,b"]}], "`task_keys` (Med): `dataset` must be names of datasets"),
    ],
)
def test_faults_are_named(entries, expected):
    assert any(expected in error for error in errors_of("dcl", task_keys=entries))


def test_they_are_checked_although_the_order_is_wrong():
    found = errors_of("dcl", task_order="backwards", task_keys=[{"name": "Med", "epoch": 3}], asd_ratio=2)
    for start in ("`asd_ratio` must", "`task_order` must be one of", "`task_keys` (Med): `epoch`"):
        assert sum(error.startswith(start) for error in found) == 1


def test_they_need_a_benchmark():
    task = {"name": "a", "dataset": "b"}
    keys = recipe_of("", tasks=[task], task_keys=[{"name": "a"}])
    del keys["benchmark"]
    with pytest.raises(RecipeError, match="`task_keys` are for tasks of a `benchmark`"):
        load_recipe(keys, "test.yaml", host_keys(), check_data=False)


def test_captions_are_refused_by_name_where_rules_are_to_rewrite_them():
    (error,) = errors_of("ucit", asd_ratio=0.2)
    assert "`asd_ratio`: the answers of VizWiz and Flickr30k are free texts" in error
    entries = [{"name": "VizWiz", "asd_ratio": 0}, {"name": "Flickr30k", "asd_ratio": 0}]
    assert "`task_keys: [{name: VizWiz, asd_ratio: 0}, {name: Flickr30k, asd_ratio: 0}]`" in error
    loaded = load("ucit", asd_ratio=0.2, task_keys=entries)
    assert [task.name for task in loaded.tasks if not task.overrides] == [
        "ImageNet-R",
        "ArxivQA",
        "IconQA",
        "CLEVR-Math",
    ]
    (error,) = errors_of("ucit", asd_ratio=0.2, task_keys=entries[:1])
    assert "the answers of Flickr30k are" in error
    assert load("ucit").tasks
    assert load("dcl", asd_ratio=0.2).tasks


def test_datasets_that_a_user_has_added_reach_the_run(tmp_path):
    entry = {"file_name": "VizWiz/train_x20.json", "formatting": "sharegpt"}
    own = {"file_name": "VizWiz/train.jsonl"}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"vizwiz_x20": entry, "ucit_vizwiz_train": own}))
    (tmp_path / "manifest.json").write_text(json.dumps({"images": str(tmp_path)}))
    load_benchmark("ucit").prepare(tmp_path / "run", {"dataset_dir": str(tmp_path)})
    info = json.loads((tmp_path / "run" / "dataset_info.json").read_text())
    assert info["vizwiz_x20"] == entry | {"file_name": str(tmp_path / "VizWiz/train_x20.json")}
    assert len(info) == 13
    assert info["ucit_vizwiz_train"]["columns"]["images"] == "image"


def test_datasets_that_a_user_has_added_twice_are_told_with_the_recipe(tmp_path):
    texts = dict.fromkeys(("variant", "images"), str(tmp_path))
    manifest = {"version": 2, "benchmark": "ucit", **texts}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "dataset_info.json").write_text('{"x": {}, "x": {}}')
    found = load_benchmark("ucit").errors({"dataset_dir": str(tmp_path)})
    assert f"{tmp_path}/dataset_info.json holds the dataset 'x' more than once" in found[-1]


DRAWN = {
    # name: (keys of a recipe, what is said of them)
    "dataset_dir": ({"dataset_dir": "/tmp/odd"}, "`dataset_dir` cannot be set with `benchmark: styles`"),
    "media_dir": ({"media_dir": "/tmp/odd"}, "`media_dir` cannot be set with `benchmark: styles`"),
    "eval_dataset": ({"eval_dataset": "nothing"}, "`eval_dataset` must name datasets that `benchmark: styles` draws"),
    "dataset of a task": (
        {"task_keys": [{"name": "Facts", "dataset": "good"}]},
        "`task_keys` (Facts): `dataset` must name datasets that `benchmark: styles` draws; got 'good'. They are",
    ),
    "one of several": (
        {"task_keys": [{"name": "Facts", "dataset": ["styles_facts_train", "styles_boxes_trian"]}]},
        "got 'styles_boxes_trian'. Did you mean `styles_boxes_train`?",
    ),
    "eval_dataset of a task": (
        {"task_keys": [{"name": "Facts", "eval_dataset": "good"}]},
        "`task_keys` (Facts): `eval_dataset` must name datasets",
    ),
    "mix of a task": (
        {"task_keys": [{"name": "Facts", "mix": [{"dataset": "general", "share": 1.0}]}]},
        "`mix` needs a `dataset_info.json` of yours",
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_data_beside_that_which_is_drawn_is_refused(name):
    keys, expected = DRAWN[name]
    (error,) = errors_of("styles", **keys)
    assert expected in error


def test_tasks_may_have_the_drawn_data_of_others_and_are_warned_of_their_test_sets():
    facts = {"name": "Facts", "dataset": "styles_facts_train, styles_boxes_train", "eval_dataset": "styles_facts_test"}
    assert recipe_warnings(load("styles", task_keys=[facts], eval_dataset=["styles_choices_test"])) == []
    reading = {"name": "Reading", "dataset": "styles_facts_test"}
    (warning,) = recipe_warnings(load("styles", task_keys=[reading]))
    assert warning.startswith("task Facts: `test_dataset`: 'styles_facts_test' is the training data of Reading.")
