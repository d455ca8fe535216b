"""Broken recipes and dataset_info.json: RecipeError or nothing."""

import json

import yaml
from fuzzing import broken, fuzzed, only, scalars, values
from hypothesis import strategies as st

from sefe_plugin.hosts.llamafactory.host import read_recipe
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.data_trial import data_errors
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe
from sefe_plugin.recipe.options import plugin_keys
from sefe_plugin.recipe.single_run import single_run_errors
from sefe_plugin.zero import read_deepspeed


TASK = {"name": "A", "dataset": "a_train", "test_dataset": "a_test", "scorer": "short_answer", "num_train_epochs": 2}
RECIPE = {
    "model_name_or_path": "owner/name",
    "template": "llava",
    "cl_method": "reglora",
    "asd_ratio": 0.2,
    "learning_rate": 1e-4,
    "lora_target": ["q_proj"],
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "tasks": [TASK, {**TASK, "name": "B"}],
}
BENCHMARK = {"benchmark": "minicoin", "task_order": "reversed", "output_dir": "run", "quantization_bit": 4}
INFO = {
    "a_train": {"file_name": "a.json", "columns": {"prompt": "instruction", "response": "output", "images": "images"}},
    "a_test": {"file_name": "a.json", "formatting": "sharegpt", "tags": {"role_tag": "role"}},
}
RECORDS = [{"instruction": f"What is {i}?", "output": "red", "images": ["a.png"]} for i in range(4)]
KEYS = [*host_keys().keys, *plugin_keys(), "name", "dataset", "test_dataset", "scorer", "odd"]


def write_data(folder):
    (folder / "a.json").write_text(json.dumps(RECORDS))
    (folder / "dataset_info.json").write_text(json.dumps(INFO))


@fuzzed(data=broken(yaml.safe_dump(RECIPE).encode(), yaml.safe_dump(BENCHMARK).encode(), json.dumps(RECIPE).encode()))
def test_a_broken_file(folder, data):
    file = folder / "recipe.yaml"
    file.write_bytes(data)
    with only(RecipeError):
        keys = read_recipe(file, [])
        single_run_errors(keys, host_keys())
        load_recipe({"dataset_dir": str(folder), "output_dir": "run", **keys}, "recipe.yaml", host_keys())


@fuzzed(
    top=st.dictionaries(st.sampled_from(KEYS), values, max_size=4),
    task=st.dictionaries(st.sampled_from(KEYS), values, max_size=4),
    base=st.sampled_from([RECIPE, BENCHMARK]),
)
def test_any_values(folder, top, task, base):
    write_data(folder)
    recipe = {"dataset_dir": str(folder), "output_dir": "run", **base, **top}
    if base is RECIPE and "tasks" not in top:
        recipe["tasks"] = [{**TASK, **task}]
    single_run_errors({**top, **task}, host_keys())
    with only(RecipeError):
        load_recipe(recipe, "recipe.yaml", host_keys())


@fuzzed(data=broken(json.dumps(INFO).encode()), records=broken(json.dumps(RECORDS).encode()))
def test_broken_files_of_a_dataset(folder, data, records):
    (folder / "dataset_info.json").write_bytes(data)
    (folder / "a.json").write_bytes(records)
    errors = data_errors({**TASK, "dataset_dir": str(folder), "asd_ratio": 0.5})
    assert all(isinstance(error, str) for error in errors)


@fuzzed(
    entry=st.fixed_dictionaries(
        {"file_name": st.sampled_from(["a.json", "a.jsonl"]) | scalars},
        optional={
            "columns": st.dictionaries(st.sampled_from(["prompt", "response", "images", "messages"]), values) | values,
            "formatting": st.sampled_from(["alpaca", "sharegpt", "openai"]) | scalars,
            "tags": st.dictionaries(st.sampled_from(["role_tag", "content_tag", "user_tag"]), values) | values,
            "ranking": values,
        },
    ),
    records=st.lists(st.dictionaries(st.sampled_from(["instruction", "output", "conversations"]), values) | values),
    lines=st.booleans(),
)
def test_any_dataset(folder, entry, records, lines):
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    (folder / "a.json").write_text(text)
    (folder / "a.jsonl").write_text(text)
    (folder / "dataset_info.json").write_text(json.dumps({"a_train": entry, "a_test": entry}))
    errors = data_errors({**TASK, "dataset_dir": str(folder), "asd_ratio": 0.5})
    assert all(isinstance(error, str) for error in errors)


@fuzzed(data=broken(b'{"zero_optimization": {"stage": 3}, "optimizer": {"type": "AdamW"}}'))
def test_a_broken_deepspeed_configuration(folder, data):
    (folder / "zero.json").write_bytes(data)
    with only(OSError, ValueError):
        read_deepspeed({"deepspeed": str(folder / "zero.json")})
    with only(RecipeError):
        load_recipe({**BENCHMARK, "deepspeed": str(folder / "zero.json")}, "recipe.yaml", host_keys())
