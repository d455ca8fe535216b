"""No value of any key, whatever its type, makes the check of a recipe fail in another way than with RecipeError."""

import datetime
import json
from itertools import cycle

import pytest

from sefe_plugin.benchmarks import benchmark_names
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe
from sefe_plugin.recipe.options import plugin_keys
from sefe_plugin.recipe.single_run import single_run_errors


TASK_KEYS = ("name", "dataset", "test_dataset", "scorer")

#: No key may have these, and the message names it.
NEVER = [
    datetime.date(2020, 1, 1),
    float("nan"),
    float("inf"),
    10**40,
    [["a"]],
    {"a": [float("nan")]},
    {1: 2},
    "x\0y",
    "\ud800",
    b"x",
]

ODD = [None, "", 5, -1, True, 1.5, "32", "yes", [], [1], ["a"], {}, {"a": 1}, [{"a": 1}]]
ODD += ["x" * 5000, "x/" * 3000, 10**5000]

KEYS = [*host_keys().keys, *plugin_keys(), *TASK_KEYS]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Makes a sound recipe with one key changed, at the top and in its task."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("a_train", "a_test"):
        (folder / f"{name}.json").write_text('[{"instruction": "What?", "output": "red"}]')
    info = {path.stem: {"file_name": path.name} for path in folder.glob("*.json")}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    sound = {
        "model_name_or_path": "owner/name",
        "template": "llava",
        "dataset_dir": str(folder),
        "output_dir": str(folder / "run"),
    }
    task = {"name": "A", "dataset": "a_train", "test_dataset": "a_test", "scorer": "short_answer"}

    def make(at_top, in_task):
        return {**sound, "tasks": [{**task, **in_task}], **at_top}

    load_recipe(make({}, {}), "test.yaml", host_keys())
    return make


def errors_of(recipe) -> list[str]:
    try:
        load_recipe(recipe, "test.yaml", host_keys())
    except RecipeError as error:
        return error.errors
    return []


def check(recipe, key, value):
    change = {key: value}
    for asked in (recipe(change, {}), recipe({}, change)):
        text = "\n".join(errors_of(asked))
        if any(value is odd for odd in NEVER):
            assert f"`{key}`" in text, (key, value)
            assert len(text) < 3000
    single_run_errors({"cl_method": "reglora", **change}, host_keys())


def test_odd_values_of_all_keys(recipe):
    """Each key gets one value after the other from the list; the long form below tries them all."""
    values = cycle([*ODD, *NEVER])
    for key in KEYS:
        check(recipe, key, next(values))


@pytest.mark.faults
@pytest.mark.parametrize("value", [*ODD, *NEVER], ids=lambda value: f"{type(value).__name__}")
def test_every_odd_value_of_every_key(recipe, value):
    for key in KEYS:
        check(recipe, key, value)


@pytest.mark.parametrize("benchmark", ["minicoin", "coin"])
@pytest.mark.parametrize("key", ["benchmark", "task_order", "dataset_dir", "media_dir", "model_name_or_path"])
def test_odd_values_beside_a_benchmark(tmp_path, benchmark, key):
    sound = {"template": "llava", "model_name_or_path": "owner/name", "output_dir": str(tmp_path)}
    for value in [*ODD, *NEVER]:
        errors_of({**sound, "benchmark": benchmark, key: value})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"lora_rank": "32"}, "`lora_rank` must be a whole number; got '32'. Write it without quotes: LLaMA-Factory"),
        ({"learning_rate": "1e-4"}, "`learning_rate` must be a number; got '1e-4'. Write it without quotes"),
        ({"bf16": "true"}, "`bf16` must be true or false; got 'true'. Write it without quotes"),
        ({"bf16": "yes"}, "`bf16` must be true or false; got 'yes'."),
        ({"save_strategy": False}, "Put the word in quotes: without them YAML reads no, off, yes and on as false and"),
        ({"run_name": 2024}, "`run_name` must be text; got 2024. Put it in quotes."),
        ({"quantization_method": "bitsandbytes"}, "`quantization_method` must be one of ('bnb', 'gptq'"),
        (
            {"lr_scheduler_kwargs": "min_lr"},
            "`lr_scheduler_kwargs` must be a mapping or a mapping in JSON as text; go",
        ),
        ({"report_to": [5]}, "`report_to` must be text or a list of words; got [5]."),
        ({"max_grad_norm": float("inf")}, "`max_grad_norm` must be a number; got inf. It holds a number that is not"),
        ({"tasks": 5}, "`tasks` must be a list of at least one mapping with the keys ('name', 'dataset'"),
        ({"benchmark": ["coin"]}, f"`benchmark` must be one of {benchmark_names()}; got ['coin']."),
        ({"reglora_key_elements": 5}, "`reglora_key_elements` must be words, as a list or separated by commas; got 5"),
    ],
)
def test_what_is_said_of_a_wrong_type(recipe, change, expected):
    assert any(expected in error for error in errors_of(recipe(change, {})))


@pytest.mark.parametrize(
    "change",
    [
        {"fsdp": False},
        {"report_to": ["wandb"]},
        {"lora_target": ["q_proj", "v_proj"]},
        {"lr_scheduler_kwargs": '{"min_lr": 0.1}'},
        {"save_strategy": "no", "optim": "adamw_torch", "lr_scheduler_type": "cosine"},
        {"num_train_epochs": 3, "save_steps": 0.5, "max_samples": None},
        {"default_system": "", "media_dir": None},
    ],
)
def test_what_the_host_takes_is_taken(recipe, change):
    assert errors_of(recipe(change, {})) == []
