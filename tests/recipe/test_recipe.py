"""Sequence recipes: every error at once, each with key, rule, value and near match."""

import json
from pathlib import Path

import pytest

from sefe_plugin.benchmarks import benchmark_names, load_benchmark, named_orders
from sefe_plugin.carry.ways import merges_apart
from sefe_plugin.evaluation.scorers import spec_faults
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe import keys
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe, recipe_warnings
from sefe_plugin.recipe.options import PATH_KEYS, TASK_KEYS, plugin_keys
from sefe_plugin.recipe.single_run import run_errors, single_run_errors


@pytest.fixture
def recipe(tmp_path):
    """A sound recipe of two tasks on files in tmp_path."""
    for name in ("a_train", "a_test", "b_train", "b_test"):
        (tmp_path / f"{name}.json").write_text('[{"output": "red", "answer_bbox": "[0, 0, 1, 1]"}]')
    info = {path.stem: {"file_name": path.name} for path in tmp_path.glob("*.json")}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    return {
        "model_name_or_path": "owner/name",
        "template": "llava",
        "dataset_dir": str(tmp_path),
        "output_dir": str(tmp_path / "run"),
        "learning_rate": 1e-4,
        "tasks": [
            {"name": "A", "dataset": "a_train", "test_dataset": "a_test", "scorer": "short_answer"},
            {"name": "B", "dataset": "b_train", "test_dataset": "b_test", "scorer": "box", "num_train_epochs": 2},
        ],
    }


def errors_of(recipe) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, "test.yaml", host_keys())
    assert str(caught.value).startswith("test.yaml cannot start: ")
    return caught.value.errors


def test_sound_recipe_is_resolved(recipe):
    loaded = load_recipe(recipe, "test.yaml", host_keys())
    assert [task.name for task in loaded.tasks] == ["A", "B"]
    assert loaded.tasks[1].overrides == {"num_train_epochs": 2}
    assert "tasks" not in loaded.arguments
    filled_in = {"cl_method": "lora", "carry": "merge", "finetuning_type": "lora"}
    assert loaded.arguments.items() >= filled_in.items()
    assert loaded.to_dict()["tasks"] == recipe["tasks"]


def test_a_path_may_begin_with_the_home_folder(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    own = {"output_dir": "~/runs/x", "dataset_dir": "~", "media_dir": "~/pictures", "cache_dir": "a/~"}
    own |= {"default_system": "~ is no path", "scoring_python": "~/bin/python", "tokenized_path": "~/tokens"}
    recipe["tasks"][0] |= {"deepspeed": "~/zero.json", "scorer": {"name": "judge", "model": "m", "file": "~/r.jsonl"}}
    (tmp_path / "zero.json").write_text("{}")
    (tmp_path / "a_test.json").write_text('[{"instruction": "What is it?", "output": "red"}]')
    loaded = load_recipe(recipe | own, "test.yaml", host_keys(), check_data=False)
    assert loaded.output_dir == tmp_path / "runs/x"
    expected = {"output_dir": f"{tmp_path}/runs/x", "dataset_dir": str(tmp_path), "media_dir": f"{tmp_path}/pictures"}
    expected |= {"scoring_python": f"{tmp_path}/bin/python", "cache_dir": "a/~", "default_system": "~ is no path"}
    assert loaded.arguments.items() >= expected.items()
    assert loaded.tasks[0].overrides == {"deepspeed": f"{tmp_path}/zero.json"}
    assert loaded.tasks[0].scorer["file"] == f"{tmp_path}/r.jsonl"
    (tmp_path / "model").mkdir()
    assert f"names the folder '{tmp_path}/model'" in "".join(errors_of(recipe | {"model_name_or_path": "~/model"}))


def test_every_key_of_paths_is_a_key():
    assert {*host_keys().paths} - host_keys().keys.keys() <= {"logging_dir"}  # not in every version
    assert {*PATH_KEYS} <= plugin_keys().keys()


def test_what_a_scorer_needs_is_looked_for_with_the_recipe(recipe, tmp_path, monkeypatch):
    judge = {"name": "judge", "model": "m", "file": str(tmp_path)}
    (tmp_path / "a_test.json").write_text('[{"instruction": "What is it?", "output": "red"}]')
    recipe["tasks"][0]["scorer"] = judge
    (recipe["tasks"][1]["test_dataset"], recipe["tasks"][1]["scorer"]) = ("a_test", judge)
    assert errors_of(recipe) == [f"`scorer` of A, B: `file` must be a file that can be written; got '{tmp_path}'."]
    monkeypatch.chdir(tmp_path)
    for task in recipe["tasks"]:
        task["scorer"] = {**judge, "file": "r.jsonl"}
    recipe["retention_sets"] = [{"name": "R", "dataset": "c_test", "scorer": {**judge, "file": "r.jsonl"}}]
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    (tmp_path / "c_test.json").write_text('[{"instruction": "What now?", "output": "blue"}]')
    (tmp_path / "dataset_info.json").write_text(json.dumps({**info, "c_test": {"file_name": "c_test.json"}}))
    loaded = load_recipe(recipe, "test.yaml", host_keys())
    scorers = [task.scorer for task in loaded.tasks] + [one["scorer"] for one in loaded.arguments["retention_sets"]]
    assert [one["file"] for one in scorers] == [str(tmp_path / "r.jsonl")] * 3


def test_test_sets_are_read_before_anything_starts(recipe, tmp_path):
    (tmp_path / "b_test.json").write_text('[{"output": "red"}]')
    assert errors_of(recipe) == [
        "task 2 (B): `test_dataset`: 1 of 1 records of 'b_test' have no gold answer for the scorer 'box': record 1: "
        "'answer_bbox' must be written as '[x1, y1, x2, y2]', got 'red'. Put it into a field "
        "'answer_bbox', or where dataset_info.json says that the response is, or choose another scorer."
    ]


def test_a_dataset_may_be_called_like_a_file(recipe, tmp_path):
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    info["charts.json"] = info["a_train"]
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    recipe["tasks"][0] |= {"dataset": "charts.json"}
    load_recipe(recipe, "test.yaml", host_keys())


WHERE = "task 1 (A): `dataset`: the entry 'a_train' of {info}: "


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"a_train": {}}], "task 1 (A): {info} must be one mapping, "),
        (None, "task 1 (A): {info} must be one mapping, "),
        ({"a_train": None}, WHERE + "it must be a mapping, such as"),
        (
            {"a_train": {"file_name": ["a.json", "b.json"]}},
            WHERE + "`file_name` must be the name of one file or folder",
        ),
        ({"a_train": {"file_name": 7}}, WHERE + "`file_name` must be the name of one file or folder; got 7."),
        ({"a_train": {"columns": None}}, WHERE + "`columns` must be a mapping of names; got None."),
        ({"a_train": {"columns": ["text"]}}, WHERE + "`columns` must be a mapping of names; got ['text']."),
        ({"a_train": {"columns": {"images": 3}}}, WHERE + "`columns`: `images` must be text; got 3."),
        ({"a_train": {"tags": "from"}}, WHERE + "`tags` must be a mapping of names; got 'from'."),
        ({"a_trains": {}}, "task 1 (A): `dataset`: 'a_train' is not declared in {info}. Did you mean `a_trains`?"),
        ('{"a_train": {}}'.encode("utf-16"), "task 1 (A): {info} is in UTF-16. Save it in UTF-8 without that mark."),
        (b"\xef\xbb\xbf{}", "task 1 (A): {info} is in UTF-8 with a byte order mark."),
        (
            '{"a": "图表"}'.encode("gbk"),
            "task 1 (A): {info} is not in UTF-8 (byte 9 is no part of it); it looks like GBK.",
        ),
        (b'{"a_train": ', "task 1 (A): {info} is no valid JSON: "),
        (
            b'{"a_train": {}, "b": {"columns": {"x": "y", "x": "z"}}, "a_train": {}}',
            "task 1 (A): {info} holds `x` in the entry 'b' and the dataset 'a_train' more than once",
        ),
    ],
)
def test_odd_shapes_of_the_declarations_are_named(recipe, tmp_path, content, message):
    info = tmp_path / "dataset_info.json"
    if isinstance(content, bytes):
        info.write_bytes(content)
    else:
        if isinstance(content, dict):
            declared = json.loads(info.read_text())
            usual = declared.pop("a_train")
            content = declared | {name: entry if entry is None else usual | entry for name, entry in content.items()}
        info.write_text(json.dumps(content))
    found = errors_of(recipe)
    assert found[0].startswith(message.format(info=info))
    assert not any("Did you mean `a_train`" in error for error in found)


def test_all_errors_come_at_once(recipe):
    recipe |= {
        "asd_ratio": 2,
        "reglora_wieght": 1.0,
        "reglora_key_ratio": 0,
        "reglora_reduction": "sum",
        "num_train_epochs": "many",
        "lr_scheduler_typ": "cosine",
        "deepspeed": "absent.json",
        "do_predict": True,
    }
    recipe["tasks"].append({"name": "a", "dataset": "c_train", "test_dataset": "b_tset", "scorer": "boxes"})
    text = "\n".join(errors_of(recipe))
    for expected in (
        "`asd_ratio` must be a share in [0, 1]",
        "got 2.",
        "`reglora_wieght` is not a key of LLaMA-Factory or of this plugin; got value 1.0. Did you mean",
        "`reglora_key_ratio` must be a share in (0, 1]",
        "`reglora_reduction` must be one of ('official_mean', 'per_task_sum'); got 'sum'.",
        "`num_train_epochs` must be a number; got 'many'.",
        "Did you mean `lr_scheduler_type`?",
        "`deepspeed` must be a DeepSpeed configuration or a JSON file with one",
        "`do_predict` cannot be set in a sequence",
        "task 3 (a): the name 'a' is taken by task 1.",
        "`scorer` must be one of",
        "got 'boxes'. Did you mean `box`?",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"asd_ratio": True}, "`asd_ratio` must be a share"),
        ({"asd_ratio": "0.2"}, "`asd_ratio` must be a share"),
        ({"reglora_weight": -1}, "`reglora_weight` must be a number of at least 0"),
        ({"reglora_key_ratio": 1.5}, "`reglora_key_ratio` must be a share in (0, 1]"),
        ({"reglora_offload": "gpu"}, "`reglora_offload` must be one of ('none', 'cpu'); got 'gpu'."),
        ({"pad_images": "yes"}, "`pad_images` must be true or false; got 'yes'."),
        (
            {"use_reglora": True},
            "`use_reglora` is gone: write `cl_method: reglora` for true, `cl_method: lora` for false; got True.",
        ),
        ({"cl_method": "regolra"}, "got 'regolra'. Did you mean `reglora`?"),
        ({"cl_method": ["lora"]}, "`cl_method` must be text; got ['lora']."),
        (
            {"cl_method": "full", "carry": "stack"},
            "`carry` must be one of ('replace', 'none') with `cl_method: full`; got 'stack'.",
        ),
        ({"cl_method": "reglora", "carry": "continue"}, "with `cl_method: reglora`; got 'continue'."),
        ({"carry": "stakc"}, "`carry` must be one of ('merge', 'stack', 'continue', 'replace', 'none'); got 'stakc'."),
        (
            {"carry": ["stack"]},
            "`carry` must be one of ('merge', 'stack', 'continue', 'replace', 'none'); got ['stack'].",
        ),
        ({"cl_method": "full", "quantization_bit": 4}, "`quantization_bit` cannot be combined with `cl_method: full`"),
        ({"cl_method": "full", "finetuning_type": "lora"}, "needs `finetuning_type: full`; got 'lora'. Change one."),
        ({"cl_method": "reglora", "use_dora": True}, "`use_dora` cannot be combined"),
        ({"asd_ratio": 0.2, "tokenized_path": "x"}, "`tokenized_path` cannot be combined with `asd_ratio`"),
        ({"asd_ratio": 0.2, "streaming": True}, "`streaming` cannot be combined with `asd_ratio`"),
        ({"finetuning_type": "full"}, "`cl_method: lora` needs `finetuning_type: lora`; got 'full'. Change one."),
        ({"finetuning_type": "lorra"}, "Did you mean `lora`?"),
        ({"output_dir": None}, "`output_dir` is required"),
        ({"dataset": "a_train"}, "`dataset` cannot be set in a sequence: each task names its own"),
        ({"push_to_hub": True}, "`push_to_hub` cannot be set in a sequence: LLaMA-Factory would push every task"),
        ({"hub_model_id": "me/x"}, "`sefe export RUN --out DIR --push REPO_ID` pushes the model of all tasks"),
        ({"export_hub_model_id": "me/x"}, "`export_hub_model_id` cannot be set in a sequence"),
        ({"keep_merged": "none"}, "`keep_merged` must be one of ('all', 'last'); got 'none'."),
        ({"keep_merged": "last", "carry": "stack"}, "no effect with `carry: stack`: it leaves no merged models"),
        (
            {"keep_merged": "last", "cl_method": "full", "carry": "replace"},
            "no effect with `carry: replace`: its models are the results of the tasks themselves",
        ),
        ({"merge_adapter": True}, "`merge_adapter` is filled in by the sequence"),
        ({"benchmark": "minicoin"}, "`tasks` and `benchmark` exclude each other"),
        ({"task_order": "reversed"}, "`task_order` orders the tasks of a `benchmark`. Drop it and write `tasks`"),
        ({"model_name_or_path": "./nowhere"}, "holds no config.json"),
        ({"dataset_dir": "nowhere"}, "dataset_info.json does not exist"),
        ({"tasks": []}, "`tasks` must be a list of at least one mapping"),
        ({"tasks": "A"}, "`tasks` must be a list of at least one mapping"),
        ({"tasks": [{"name": "A/B"}]}, "`name` may hold letters"),
        ({"tasks": [{"name": "A"}]}, "`dataset` is required and must be text; got None."),
        ({"bf16": "maybe"}, "`bf16` must be true or false; got 'maybe'."),
        ({"lora_rank": 8.5}, "`lora_rank` must be a whole number; got 8.5."),
        ({"max_samples": [1]}, "`max_samples` must be a whole number; got [1]."),
        (
            {"lora_target": ["q_proj", 1]},
            "`lora_target` must be words, as a list or separated by commas; got",
        ),
        ({"reglora_weight": float("inf")}, "`reglora_weight` must be a number of at least 0"),
        ({"use_hyper_parallel": True}, "`use_hyper_parallel` switches to HyperParallel"),
        ({"use_kt": True}, "`use_kt` switches to KTransformers"),
        ({"cl_method": "reglora", "fsdp": "full_shard"}, "`fsdp` cannot be combined with `cl_method: reglora`"),
        ({"carry": "stack", "use_dora": True}, "`use_dora` cannot be combined with `carry: stack`"),
        ({"carry": "stack", "pissa_init": True}, "`pissa_init` cannot be combined with `carry: stack`"),
    ],
)
def test_one_error(recipe, change, expected):
    assert any(expected in error for error in errors_of(recipe | change))


def test_task_errors_name_task_and_files(recipe, tmp_path):
    (tmp_path / "b_test.json").unlink()
    recipe["tasks"][0]["dataset"] = "a_trains"
    recipe["tasks"][1]["asd_ratio"] = 7
    recipe["tasks"][1]["output_dir"] = "x"
    found = errors_of(recipe)
    assert any(f.startswith("task 1 (A): `dataset`: 'a_trains'") and "Did you mean `a_train`?" in f for f in found)
    assert any(f.startswith("task 2 (B): `asd_ratio` must be a share") for f in found)
    assert any(f.startswith("task 2 (B): `output_dir` belongs to the whole sequence") for f in found)
    recipe["tasks"][1] = {"name": "B", "dataset": "b_train", "test_dataset": "b_test", "scorer": "box"}
    assert any("b_test.json of 'b_test' does not exist" in f for f in errors_of(recipe))


def test_unknown_benchmark_gets_a_near_match(recipe):
    del recipe["tasks"]
    found = errors_of(recipe | {"benchmark": "minicion", "task_order": "reversed"})
    assert any("Did you mean `minicoin`?" in error for error in found)
    assert not any("`task_order`" in error for error in found)  # its benchmark is not known


NAMES = ["ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCRVQA"]


@pytest.fixture
def minicoin(recipe):
    """A sound recipe of mini-CoIN."""
    return {"benchmark": "minicoin", "output_dir": recipe["output_dir"]}


def test_named_orders_never_change():
    # runs in one order are compared with runs made years before
    assert named_orders(NAMES) == {
        "coin": tuple(NAMES),
        "reversed": tuple(NAMES[::-1]),
        "shuffled": ("ImageNet", "OCRVQA", "VizWiz", "TextVQA", "ScienceQA", "VQAv2", "Grounding", "GQA"),
    }


@pytest.mark.parametrize("order", [None, "coin", "reversed", "shuffled", [NAMES[i] for i in (3, 1, 0, 2, 7, 6, 5, 4)]])
def test_task_order(minicoin, order):
    loaded = load_recipe(minicoin | ({} if order is None else {"task_order": order}), "test.yaml", host_keys())
    assert loaded.task_order == (order or "coin")
    expected = order if isinstance(order, list) else list(named_orders(NAMES)[order or "coin"])
    assert [task.name for task in loaded.tasks] == expected
    assert [task.dataset for task in loaded.tasks] == [f"minicoin_{name.lower()}_train" for name in expected]
    assert {task.name: task.scorer for task in loaded.tasks} == {
        task.name: task.scorer for task in load_benchmark("minicoin").tasks
    }
    assert "task_order" not in loaded.to_dict()
    assert [task["name"] for task in loaded.to_dict()["tasks"]] == expected  # what a run folder compares


@pytest.mark.parametrize("comma", [",", ", "])
def test_task_order_as_one_text(minicoin, comma):
    # as on the command line
    loaded = load_recipe(minicoin | {"task_order": comma.join(NAMES[::-1])}, "test.yaml", host_keys())
    assert [task.name for task in loaded.tasks] == loaded.task_order == NAMES[::-1]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("revresed", ["must be one of ('coin', 'reversed', 'shuffled') or all", "Did you mean `reversed`?"]),
        (None, ["or all tasks of the benchmark, as a list or separated by commas; got None."]),
        ([1, 2], ["as a list or separated by commas; got [1, 2]."]),
        (NAMES[1:], ["must name every task once; it names 'ScienceQA' 0 times."]),
        ([*NAMES, "GQA"], ["must name every task once; it names 'GQA' 2 times."]),
        (", ".join([*NAMES, "GQA"]), ["must name every task once; it names 'GQA' 2 times."]),
        (",".join([*NAMES, "VizWizz"]), ["'VizWizz' is no task of the benchmark. Did you mean `VizWiz`?"]),
        ([*NAMES, "VizWizz"], ["'VizWizz' is no task of the benchmark. Did you mean `VizWiz`?"]),
    ],
)
def test_wrong_task_order(minicoin, order, expected):
    (error,) = errors_of(minicoin | {"task_order": order})
    assert error.startswith("`task_order`")
    for part in expected:
        assert part in error


def test_coin_without_data_names_every_missing_file(tmp_path):
    recipe = {
        "benchmark": "coin",
        "model_name_or_path": "llava-hf/llava-1.5-7b-hf",
        "template": "llava",
        "dataset_dir": str(tmp_path),
        "output_dir": str(tmp_path / "run"),
    }
    found = errors_of(recipe)
    assert len(found) == 8
    for task in load_benchmark("coin").tasks:
        (error,) = [f for f in found if f.startswith(f"data of {task.name} is missing")]
        assert str(tmp_path / "annotations" / task.name / "train.json") in error
        assert str(tmp_path / "annotations" / task.name / "test.json") in error
        assert "jinpeng0528/CoIN-ASD" in error


def test_coin_with_data_points_to_it(tmp_path):
    coin = load_benchmark("coin")
    for task in coin.tasks:
        for split in ("train", "test"):
            file = tmp_path / "coin" / "annotations" / task.name / f"{split}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("[]")
    arguments = {"dataset_dir": str(tmp_path / "coin")}
    assert coin.errors(arguments) == []
    keys = coin.prepare(tmp_path / "data", arguments)
    assert keys == {"dataset_dir": str(tmp_path / "data"), "media_dir": str(tmp_path / "coin")}
    info = json.loads((tmp_path / "data" / "dataset_info.json").read_text())
    assert len(info) == 16
    assert all(Path(entry["file_name"]).is_file() for entry in info.values())
    assert info["coin_grounding_test"]["columns"]["response"] == "answer_bbox"


@pytest.mark.parametrize("name", benchmark_names())
def test_benchmarks_are_whole(name):
    tasks = load_benchmark(name).tasks
    counts = {"minicoin16": 16, "styles": 7, "ucit": 6, "dcl": 5, "trigap": 10}
    assert len({task.name for task in tasks}) == len(tasks) == counts.get(name, 8)
    assert not any(spec_faults(task.scorer) for task in tasks)


def test_single_run_with_plugin_keys_is_checked_too():
    assert single_run_errors({"cl_method": "reglora", "learning_rate": 1e-4}, host_keys()) == []
    found = single_run_errors({"cl_method": "reglora", "reglora_key_elements": "a.safetensors, b"}, host_keys())
    assert [error.split("the file ")[1].split()[0] for error in found] == ["a.safetensors", "b"]
    found = single_run_errors({"cl_method": "reglora", "asd_ratoi": 0.2, "reglora_weight": -1}, host_keys())
    assert len(found) == 2
    assert "Did you mean `asd_ratio`?" in found[0]
    (error,) = single_run_errors({"cl_method": "reglora", "use_hyper_parallel": True}, host_keys())
    assert "`use_hyper_parallel` switches to HyperParallel" in error


@pytest.mark.parametrize(
    ("changes", "apart"),
    [
        ({}, False),
        ({"quantization_bit": 4}, True),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, False),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, True),
        ({"deepspeed": {"bf16": {"enabled": True}}}, False),
    ],
)
def test_quantized_and_partitioned_bases_are_merged_apart(tmp_path, changes, apart):
    assert merges_apart(changes) == apart
    if "deepspeed" in changes:
        file = tmp_path / "zero.json"
        file.write_text(json.dumps(changes["deepspeed"]))
        assert merges_apart({"deepspeed": str(file)}) == apart


def test_a_method_says_how_tasks_are_trained_and_carried_on(recipe):
    for method, trained, carry in (("full", "full", "replace"), ("reglora", "lora", "merge")):
        loaded = load_recipe(recipe | {"cl_method": method}, "test.yaml", host_keys())
        filled_in = {"cl_method": method, "finetuning_type": trained, "carry": carry}
        assert loaded.arguments.items() >= filled_in.items()


def test_full_fine_tuning_under_zero3_must_save_the_whole_model(recipe):
    zero = {"stage": 3}
    keys = {"cl_method": "full", "deepspeed": {"zero_optimization": zero}}
    (error,) = errors_of(recipe | keys)
    assert '"stage3_gather_16bit_weights_on_model_save": true' in error
    load_recipe(recipe | keys | {"cl_method": "lora"}, "test.yaml", host_keys())
    zero["stage3_gather_16bit_weights_on_model_save"] = True
    load_recipe(recipe | keys, "test.yaml", host_keys())


def test_what_cannot_be_read_is_said_once_beside_the_data(recipe, tmp_path):
    keys = {"cl_method": "full", "asd_ratio": 0.2, "deepspeed": str(tmp_path / "absent.json")}
    (error,) = errors_of(recipe | keys)
    assert error.startswith("`deepspeed` must be a DeepSpeed configuration or a JSON file with one")


def test_carry_belongs_to_the_whole_sequence(recipe):
    recipe["tasks"][1]["carry"] = "stack"
    assert any("`carry` belongs to the whole sequence" in error for error in errors_of(recipe))
    assert any("`carry` belongs to a sequence" in f for f in single_run_errors({"carry": "stack"}, host_keys()))


@pytest.mark.parametrize(
    ("common", "change", "expected"),
    [
        ({}, {"reglora_key_ratio": 0.1}, "task 2 (B): `reglora_key_ratio` belongs to the whole sequence"),
        ({}, {"cl_method": "reglora"}, "`cl_method` belongs to the whole sequence"),
        ({}, {"finetuning_type": "full"}, "`finetuning_type` belongs to the whole sequence"),
        ({"carry": "continue"}, {"lora_rank": 4}, "task 2 (B): `lora_rank` belongs to the whole sequence"),
        ({}, {"reglora_selection": "random"}, "`reglora_selection` belongs to the whole sequence"),
        ({"cl_method": "reglora"}, {"lora_target": "q_proj"}, "`lora_target` belongs to the whole sequence"),
        ({"carry": "stack"}, {"lora_target": "q_proj"}, "`lora_target` belongs to the whole sequence"),
        ({}, {"dataset_dir": "elsewhere"}, "`dataset_dir` belongs to the whole sequence"),
        ({}, {"deepspeed": "nowhere.json"}, "task 2 (B): `deepspeed` must be a DeepSpeed configuration"),
        ({"carry": "stack"}, {"use_dora": True}, "task 2 (B): `use_dora` cannot be combined with `carry: stack`"),
        ({"carry": "stack", "scoring_backend": "vllm"}, {"pad_images": True}, "task 2 (B): `pad_images` with"),
    ],
)
def test_what_a_task_cannot_change_is_said_before_the_first_starts(recipe, common, change, expected):
    recipe["tasks"][1] |= change
    assert any(expected in error for error in errors_of(recipe | common))


def test_a_task_of_a_plain_sequence_may_have_other_targets_and_another_rank(recipe):
    recipe["tasks"][1] |= {"lora_target": ["q_proj", "v_proj"], "lora_rank": 4}
    assert load_recipe(recipe, "test.yaml", host_keys()).tasks[1].overrides["lora_target"] == ["q_proj", "v_proj"]


def test_the_projectors_learning_rate_needs_the_trainers_optimizer(recipe):
    config = {"optimizer": {"type": "AdamW"}, "zero_optimization": {"stage": 2}}
    keys = {"additional_target": "multi_modal_projector", "projector_learning_rate": 2e-5, "deepspeed": config}
    assert any("Remove its section `optimizer`" in error for error in errors_of(recipe | keys))
    assert any("Remove its section `optimizer`" in error for error in single_run_errors(keys, host_keys()))
    del config["optimizer"]
    load_recipe(recipe | keys, "test.yaml", host_keys())


def test_scores_and_merged_models_follow_training():
    keys = {"test_sets": [], "merge_adapter": True}
    assert [error.split()[0] for error in single_run_errors(keys, host_keys())] == ["`merge_adapter`"]
    keys["do_train"] = True
    assert single_run_errors(keys, host_keys()) == []
    for change, expected in (
        ({"finetuning_type": "full"}, "`merge_adapter` needs `finetuning_type: lora`; got 'full'"),
        ({"quantization_bit": 4}, "`merge_adapter` cannot merge into weights that are quantized"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "`merge_adapter` cannot merge into weights that are"),
    ):
        (error,) = single_run_errors(keys | change, host_keys())
        assert error.startswith(expected)


def test_vllm_scores_sequences_only(monkeypatch):
    monkeypatch.setattr("sefe_plugin.recipe.combinations.find_spec", lambda name: name)
    keys = {"do_train": True, "test_sets": [{"name": "A"}], "scoring_backend": "vllm"}
    (error,) = single_run_errors(keys, host_keys())
    assert error.startswith("`scoring_backend` belongs to a sequence")


@pytest.mark.parametrize("value", [5, None, ["data"]])
def test_a_dataset_dir_that_is_no_text_is_told_beside_other_errors(recipe, value):
    found = errors_of(recipe | {"dataset_dir": value, "asd_ratio": 3})
    assert any("`dataset_dir` must be text" in error for error in found)
    assert any("`asd_ratio` must be" in error for error in found)


def test_options_of_another_method_have_no_effect_in_a_task_either(recipe):
    recipe["tasks"][1]["reglora_weight"] = 5.0
    (error,) = errors_of(recipe)
    assert error.startswith("task 2 (B): `reglora_weight` belongs to `cl_method: reglora` and has no effect with")


def test_a_single_run_is_the_last_training_of_a_task_that_has_several(tmp_path):
    keys = {"do_train": True, "finetuning_type": "full", "cl_method": "lota"}
    (error,) = run_errors(keys)
    assert error.startswith("`cl_method: lota` trains every task 2 times") and "needs `lota_mask`" in error
    mask = tmp_path / "mask.safetensors"
    mask.touch()
    assert run_errors(keys | {"lota_mask": str(mask)}) == []
    assert run_errors(keys, in_sequence=True) == []
    assert run_errors(keys | {"do_train": False}) == []
    assert run_errors(keys | {"test_sets": [{"name": "A"}]}) == []


def test_files_of_an_adapter_that_must_go_on_need_it():
    keys = {"do_train": True, "cl_method": "ewc", "ewc_fisher": [__file__]}
    for odd in (keys, keys | {"adapter_name_or_path": "a", "create_new_adapter": True}):
        (error,) = run_errors(odd)
        assert error.startswith("`ewc_fisher` is of an adapter that goes on with `cl_method: ewc`")
    assert run_errors(keys | {"adapter_name_or_path": "a"}) == []


def test_a_deepspeed_section_that_is_no_mapping(recipe):
    load_recipe(recipe | {"deepspeed": {"zero_optimization": None}}, "test.yaml", host_keys())
    (error,) = errors_of(recipe | {"deepspeed": {"zero_optimization": 3}})
    assert error == "`deepspeed`: `zero_optimization` must be a mapping; got 3."
    for config, name in (({"optimizer": [1]}, "optimizer"), ({"optimizer": {"params": 1}}, "params")):
        (error,) = errors_of(recipe | {"deepspeed": config})
        assert error.startswith(f"`deepspeed`: `{name}` must be a mapping; got ")


def test_a_comma_in_the_run_folder_is_refused_where_adapters_are_trained(recipe):
    (error,) = errors_of(recipe | {"output_dir": "runs/a,b"})
    assert error.startswith("`output_dir` must hold no comma")


@pytest.mark.parametrize("carry", ["stack", "continue"])
def test_vllm_needs_merged_models_for_padding_and_whole_modules(recipe, monkeypatch, carry):
    monkeypatch.setattr("sefe_plugin.recipe.combinations.find_spec", lambda name: name)
    keys = {"carry": carry, "scoring_backend": "vllm", "pad_images": True, "additional_target": "lm_head"}
    assert [error.split(" with")[0] for error in errors_of(recipe | keys)] == ["`pad_images`", "`additional_target`"]


def test_general_data_is_none_of_the_tasks(recipe, tmp_path):
    (tmp_path / "general.json").write_text('[{"output": "red"}]')
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    (tmp_path / "dataset_info.json").write_text(json.dumps(info | {"general": {"file_name": "general.json"}}))
    sound = recipe | {"replay_ratio": 0.1, "mix": [{"dataset": "general", "share": 1.0}]}
    assert load_recipe(sound, "test.yaml", host_keys()).arguments["mix"] == sound["mix"]
    leaks = [{"dataset": name, "share": 1.0} for name in ("a_test", "b_train")]
    assert errors_of(recipe | {"mix": leaks}) == [
        f"`mix`: {what}, no general data. Name another, or use `replay_ratio` for earlier tasks."
        for what in ("'a_test' is the test set of A", "'b_train' is the training data of B")
    ]
    recipe["tasks"][1]["mix"] = [{"dataset": "genral", "share": 1.0}]
    (error,) = errors_of(recipe)
    assert error.startswith("task 2 (B): `mix`: 'genral' is not declared in") and "Did you mean `general`?" in error


def declare(folder: Path, **entries) -> None:
    file = folder / "dataset_info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.parametrize("part", [{"num_samples": 2}, {"split": "train[:2]"}, {"subset": "hard"}], ids=str)
def test_a_test_set_counts_whole_whatever_its_entry_says(recipe, tmp_path, part):
    entry = json.loads((tmp_path / "dataset_info.json").read_text())["a_test"]
    declare(tmp_path, a_test=entry | {"split": "train"})
    load_recipe(recipe, "test.yaml", host_keys())
    declare(tmp_path, a_test=entry | part)
    (error,) = errors_of(recipe)
    assert f"`test_dataset`: the entry 'a_test' of {tmp_path / 'dataset_info.json'} has `{next(iter(part))}`" in error
    assert "`max_test_samples`" in error


@pytest.mark.parametrize(
    ("key", "wrong", "right", "rule"),
    [
        ("learning_rate", -1.0, 1e-9, "more than 0"),
        ("learning_rate", 0, 1, "more than 0"),
        ("num_train_epochs", 0, 0.1, "more than 0"),
        ("lora_alpha", 0, 1, "more than 0"),
        ("weight_decay", -0.1, 0, "at least 0"),
        ("dataloader_num_workers", -1, 0, "at least 0"),
        ("adam_beta2", 1, 0.999, "at least 0 and less than 1"),
        ("per_device_train_batch_size", 0, 1, "at least 1"),
        ("gradient_accumulation_steps", 0, 1, "at least 1"),
        ("preprocessing_num_workers", 0, 1, "at least 1"),
        ("lora_rank", 0, 1, "at least 1"),
        ("max_samples", 0, 1, "at least 1"),
    ],
)
def test_a_number_with_which_nothing_would_be_trained_is_refused_by_name(recipe, key, wrong, right, rule):
    for place, where in ((recipe, ""), (recipe["tasks"][1], "task 2 (B): ")):
        place[key] = right
        load_recipe(recipe, "test.yaml", host_keys())
        place[key] = wrong
        assert errors_of(recipe) == [f"{where}`{key}` must be {rule}; got {wrong}."]
        del place[key]


def test_general_data_is_none_of_the_tasks_under_another_name(recipe, tmp_path):
    (tmp_path / "same.json").symlink_to("a_test.json")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "b.json").symlink_to(tmp_path / "b_test.json")
    for name in ("a_test", "copy"):
        (tmp_path / f"{name}.json").write_text('[{"text": "?", "answer": "a"}]')
    for name in ("./a_test.json", "same.json", "copy.json", "tests"):
        declare(tmp_path, general={"file_name": name})
        whose = "B, there called 'b_test'" if name == "tests" else "A, there called 'a_test'"
        for place in (recipe, recipe["tasks"][1]):
            place["mix"] = [{"dataset": "general", "share": 1.0}]
            (error,) = errors_of(recipe)
            assert error.startswith(f"`mix`: 'general' is the test set of {whose}, no general data.")
            del place["mix"]
    hub = {"hf_hub_url": "owner/name", "subset": "one"}
    declare(tmp_path, hub=hub, general={**hub, "split": "train"})
    recipe["tasks"][0]["dataset"] = "a_train,hub"
    (error,) = errors_of(recipe | {"mix": [{"dataset": "general", "share": 1.0}]})
    assert error.startswith("`mix`: 'general' is the training data of A, there called 'hub', no")
    declare(tmp_path, general={**hub, "split": "other"})
    load_recipe(recipe | {"mix": [{"dataset": "general", "share": 1.0}]}, "test.yaml", host_keys())


def test_general_data_of_a_single_run_is_none_of_its_test_sets(recipe, tmp_path):
    declare(tmp_path, general={"file_name": "a_test.json"})
    keys = {"cl_method": "lora", "do_train": True, "dataset": "a_train", "dataset_dir": str(tmp_path)}
    keys["mix"] = [{"dataset": "general", "share": 1.0}]
    assert single_run_errors(keys, host_keys()) == []
    keys["test_sets"] = [{"name": "A", "dataset": "a_test", "scorer": "short_answer"}]
    (error,) = single_run_errors(keys, host_keys())
    assert error.startswith("`mix`: 'general' is the test set of A, there called 'a_test', no general data.")


def test_replay_holds_for_the_whole_sequence_and_mix_needs_data_of_ones_own(recipe):
    recipe["tasks"][1]["replay_ratio"] = 0.1
    (error,) = errors_of(recipe)
    assert "`replay_ratio` belongs to the whole sequence" in error
    single = {"cl_method": "lora", "replay_ratio": 0.1}
    (error,) = single_run_errors(single, host_keys())
    assert error.startswith("`replay_ratio` draws from earlier tasks, and a single run has none.")
    assert single_run_errors(single | {"replay_from": []}, host_keys(), in_sequence=True) == []
    keys = {key: value for key, value in recipe.items() if key not in ("tasks", "dataset_dir", "template")}
    found = errors_of({**keys, "benchmark": "minicoin", "mix": [{"dataset": "general", "share": 1.0}]})
    assert any(error.startswith("`mix` needs a `dataset_info.json` of yours") for error in found)


def test_a_scorer_may_have_options(recipe, tmp_path):
    (tmp_path / "b_test.json").write_text('[{"instruction": "How many?", "output": "3 dogs"}]')
    recipe["tasks"][1]["scorer"] = {"name": "number", "tolerance": 0.05}
    recipe["tasks"][0]["scorer"] = {"name": "short_answer"}
    loaded = load_recipe(recipe, "test.yaml", host_keys())
    assert [task.scorer for task in loaded.tasks] == ["short_answer", {"name": "number", "tolerance": 0.05}]
    recipe["tasks"][1]["scorer"] |= {"tolerance": 5, "unit": "kg"}
    recipe["tasks"][0]["scorer"] = {"nam": "box"}
    found = "\n".join(errors_of(recipe))
    for sentence in (
        "task 1 (A): `scorer` must be one of multiple_choice, ",
        "or a mapping of its `name` and its options, such as {name: number, tolerance: 0.05}; got {'nam': 'box'}.",
        "task 2 (B): `scorer: number`: `unit` is no option of it; it has the options tolerance, ",
        "task 2 (B): `scorer: number`: `tolerance` must be a share in [0, 1]; got 5.",
    ):
        assert sentence in found
    recipe["tasks"][0]["scorer"] = "short_answer"
    (tmp_path / "b_test.json").write_text('[{"instruction": "How many?", "output": "many"}]')
    recipe["tasks"][1]["scorer"] = {"name": "number", "units": "required"}
    (error,) = errors_of(recipe)
    assert (
        "no gold answer for the scorer '{name: number, units: required}': record 1: 'answer' must be a number" in error
    )


def test_a_task_may_go_without_a_test_set_or_without_scores(recipe, tmp_path):
    (tmp_path / "b_test.json").write_text('[{"instruction": "Describe it."}]')  # no gold answer
    del recipe["tasks"][0]["test_dataset"], recipe["tasks"][0]["scorer"]
    recipe["tasks"][1]["scorer"] = "none"
    first, second = load_recipe(recipe, "test.yaml", host_keys()).tasks
    assert (first.test_dataset, first.scorer, first.is_scored) == (None, None, False)
    assert (second.test_dataset, second.scorer, second.is_scored) == ("b_test", "none", False)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"test_dataset": None}, "`scorer` needs a `test_dataset`, whose answers it scores; got 'short_answer'."),
        ({"test_dataset": None, "scorer": "none"}, "`scorer` needs a `test_dataset`, whose answers it scores;"),
        ({"scorer": None}, "`scorer` is required with `test_dataset` and must be one of multiple_choice, "),
        ({"scorer": None}, "judge, or none for answers without scores; got None."),
        ({"scorer": "None"}, "got 'None'. Did you mean `none`?"),
        ({"test_dataset": ["a_test", "b_test"]}, "`test_dataset` must name one test set; got ['a_test', 'b_test']."),
        ({"test_dataset": "a_test,b_test"}, "`test_dataset` must name one test set; got 'a_test,b_test'."),
        ({"test_dataset": 7}, "`test_dataset` is required and must be text; got 7."),
        ({"dataset": []}, "`dataset` must be names of datasets without commas, as a list, or one text of them"),
        ({"dataset": ["a_train", 7]}, "`dataset` must be names of datasets without commas, as a list, or one text"),
        ({"dataset": ["a_train,b_train"]}, "`dataset` must be names of datasets without commas, as a list, or one"),
        ({"dataset": ["a_train", "b_trains"]}, "`dataset`: 'b_trains' is not declared in"),
        ({"max_test_samples": 0}, "`max_test_samples` must be a whole number of at least 1 (leave it out for all rec"),
    ],
)
def test_odd_declarations_of_a_tasks_data(recipe, change, expected):
    recipe["tasks"][0] |= change
    (error,) = errors_of(recipe)
    assert error.startswith("task 1 (A): ") and expected in error


def test_several_datasets_of_a_task_may_be_a_list(recipe):
    recipe["tasks"][0]["dataset"] = ["a_train", "b_train"]
    assert load_recipe(recipe, "test.yaml", host_keys()).tasks[0].dataset == "a_train, b_train"


def test_records_behind_the_last_that_is_answered_are_not_looked_at(recipe, tmp_path):
    (tmp_path / "a_test.json").write_text('[{"output": "red"}, {"output": ""}]')
    load_recipe(recipe | {"max_test_samples": 1}, "test.yaml", host_keys())
    assert "1 of 2 records of 'a_test' have no gold answer" in errors_of(recipe | {"max_test_samples": 2})[0]
    recipe["tasks"][0]["max_test_samples"] = 2
    assert len(errors_of(recipe | {"max_test_samples": 1})) == 1
    assert single_run_errors({"max_test_samples": 2, "cl_method": "lora"}, host_keys()) == [
        "`max_test_samples` belongs to a sequence. Add `tasks` or `benchmark`, or remove it."
    ]


def test_scoring_unseen_tasks_needs_a_task_with_a_test_set(recipe):
    for task in recipe["tasks"]:
        del task["test_dataset"], task["scorer"]
    load_recipe(recipe, "test.yaml", host_keys())
    assert errors_of(recipe | {"score_unseen": True}) == [
        "`score_unseen` has no effect: no task has a `test_dataset`. Remove it."
    ]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("epochs", "num_train_epochs"),
        ("lr", "learning_rate"),
        ("Batch-Size", "per_device_train_batch_size"),
        ("model", "model_name_or_path"),
        ("output", "output_dir"),
        ("r", "lora_rank"),
        ("lora_r", "lora_rank"),
        ("method", "cl_method"),
        ("learning_rat", "learning_rate"),
    ],
)
def test_an_unknown_key_gets_the_key_that_is_meant(recipe, key, meant):
    for errors in (errors_of(recipe | {key: 1}), single_run_errors({key: 1, "cl_method": "lora"}, host_keys())):
        assert any(error.startswith(f"`{key}` is not") and error.endswith(f"`{meant}`?") for error in errors)


@pytest.mark.parametrize("key", ["validation", "prompt", "precision", "save", "merge_adapte", "test_sts", "do_predic"])
def test_no_hint_is_better_than_a_wrong_one(recipe, key):
    """What is not like any key, or like one that no recipe may set, gets none."""
    (error,) = errors_of(recipe | {key: 1})
    assert error == f"`{key}` is not a key of LLaMA-Factory or of this plugin; got value 1."


def test_a_long_value_of_an_unknown_key_is_cut(recipe):
    wrong = {**recipe, "task": recipe["tasks"] * 9}
    del wrong["tasks"]
    error = next(error for error in errors_of(wrong) if error.startswith("`task` "))
    assert " ..." in error and error.endswith(" Did you mean `tasks`?") and len(error) < 200


def test_keys_of_a_task_have_hints_of_their_own(recipe):
    assert errors_of(recipe | {"scorer": "box"})[0].endswith("got value 'box'. It stands in an entry of `tasks`.")
    for key, meant in (("test_set", "test_dataset"), ("scorers", "scorer"), ("lr", "learning_rate"), ("dat", None)):
        wrong = {**recipe["tasks"][0], key: "x"}
        (error,) = errors_of(recipe | {"tasks": [wrong]})
        assert error.endswith(f" Did you mean `{meant}`?" if meant else "got value 'x'.")


def test_other_names_are_names_of_keys():
    host = host_keys()
    in_task = keys._OTHER_NAMES_IN_TASK
    assert set(host.other_names.values()) <= set(host.keys)
    assert set(keys._OTHER_NAMES.values()) <= set(plugin_keys())
    assert set(in_task.values()) <= set(TASK_KEYS)
    unknown = [*host.other_names, *keys._OTHER_NAMES, *in_task]
    assert not {*unknown} & {*host.keys, *plugin_keys(), *TASK_KEYS}
    assert len(set(unknown)) == len(unknown)


def test_a_test_set_of_training_data_is_doubtful(recipe, tmp_path):
    for name in ("a_train", "b_train"):  # all files of the fixture hold the same bytes
        (tmp_path / f"{name}.json").write_text(json.dumps([{"output": name}]))
    assert recipe_warnings(load_recipe(recipe, "test.yaml", host_keys())) == []
    (tmp_path / "b_test.json").write_text('[{"output": "a_train", "answer_bbox": "[0, 0, 1, 1]"}]')
    (tmp_path / "b_train.json").write_bytes((tmp_path / "b_test.json").read_bytes())
    recipe["tasks"][0]["test_dataset"] = "a_train"
    assert recipe_warnings(load_recipe(recipe, "test.yaml", host_keys())) == [
        "task A: `test_dataset`: 'a_train' is the training data of A. So it tests what was memorised; name other "
        "data.",
        "task B: `test_dataset`: 'b_test' is the training data of B, there called 'b_train'. So it tests what was "
        "memorised; name other data.",
    ]
    recipe["tasks"][1]["dataset"] = ["b_train", "a_train"]
    del recipe["tasks"][0]["test_dataset"], recipe["tasks"][0]["scorer"]
    assert len(recipe_warnings(load_recipe(recipe, "test.yaml", host_keys()))) == 1
