"""Whole plans: what is printed, what is counted, and what a recipe at fault says."""

import doctest
import json
import re
from pathlib import Path

import pytest
import yaml
from published_models import PUBLISHED

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.cli import main
from sefe_plugin.hosts.llamafactory.plan import make_plan
from sefe_plugin.plan import answers
from sefe_plugin.plan.plan import format_plan
from sefe_plugin.plan.sizes import PlanError
from sefe_plugin.recipe.errors import RecipeError


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> str:
    """The configuration of LLaVA-1.5-7B with four layers, without tokenizer or weights."""
    folder = tmp_path_factory.mktemp("llava")
    config = PUBLISHED["llava-hf/llava-1.5-7b-hf"][0]()
    config.text_config.num_hidden_layers = 4
    config.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def recipe(llava, tmp_path):
    """A recipe of two tasks with data on this machine; returns its keys and a function that writes them."""
    rows = [{"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]}] * 33
    (tmp_path / "list.json").write_text(json.dumps(rows))
    (tmp_path / "lines.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows[:20]))
    (tmp_path / "test.json").write_text(json.dumps([{"text": "a?", "answer": "b"}] * 5))
    chat = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
    info = {
        "list": {"file_name": "list.json", **chat},
        "few": {"file_name": "list.json", "num_samples": 10, **chat},
        "lines": {"file_name": "lines.jsonl", **chat},
        "far": {"hf_hub_url": "nobody/nothing", **chat},
        "test": {"file_name": "test.json", "columns": {"prompt": "text", "response": "answer"}},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    keys = {
        "model_name_or_path": llava,
        "template": "llava",
        "finetuning_type": "lora",
        "lora_target": "all",
        "dataset_dir": str(tmp_path),
        "output_dir": str(tmp_path / "run"),
        "bf16": True,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1.0,
        "tasks": [
            {"name": "A", "dataset": "list,lines", "test_dataset": "test", "scorer": "short_answer"},
            {"name": "B", "dataset": "few", "test_dataset": "test", "scorer": "short_answer", "num_train_epochs": 2.0},
        ],
    }

    def write():
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(keys))
        return file

    return keys, write


def test_samples_and_steps_of_every_task(recipe):
    _, write = recipe
    plan = make_plan(write(), [], gpus=2)
    assert [task.samples for task in plan.tasks] == [53, 10]
    assert plan.steps == [7, 4]  # ceil(53 / 8); two epochs of ceil(10 / 8)
    assert [task.test_records for task in plan.tasks] == [5, 5]
    assert {task.source for task in plan.tasks} == {"counted"}
    assert plan.tasks[0].mean_tokens == 576 + 100
    assert make_plan(write(), ["max_samples=5"], gpus=1).tasks[0].samples == 10  # of either dataset


def test_the_mean_length_is_of_all_samples_each_part_by_its_number(recipe, tmp_path):
    keys, write = recipe
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    for name, words in (("long", 20), ("longer", 60)):
        talk = [{"from": "human", "value": "a " * words}, {"from": "gpt", "value": "b"}]
        (tmp_path / f"{name}.json").write_text(json.dumps([{"conversations": talk}] * 40))
        info[name] = {**info["list"], "file_name": f"{name}.json"}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    keys |= {"model_name_or_path": str(BASE), "bf16": False, "max_new_tokens": 8}

    def sizes(datasets, **changes):
        for task, dataset in zip(keys["tasks"], datasets, strict=True):
            task["dataset"] = dataset
        keys.update(changes)
        return [(task.samples, task.mean_tokens, task.longest_tokens) for task in make_plan(write(), [], gpus=1).tasks]

    (_, short, _), (_, long, longest) = sizes(["list", "long"])
    together, (_, longer, _) = sizes(["list,few,long", "longer"])
    assert together == (83, round((43 * short + 40 * long) / 83), longest)
    assert longer > long + 30 > short + 40
    mix = [{"dataset": "longer", "share": 2.0}]
    first, second = sizes(["long", "list"], mix=mix, replay_ratio=0.5)
    assert first == (40, round((long + 2 * longer) / 3), longer)
    assert second == (33, round((33 * short + 16 * long + 66 * longer) / (33 + 16 + 66)), longer)


def test_unseen_tasks_and_retention_sets_are_counted(recipe, tmp_path):
    assert doctest.testmod(answers).failed == 0
    keys, write = recipe
    plain = make_plan(write(), [], gpus=1)
    assert plain.answers == {"tasks so far": 2 * 5 + 5, "total": 15}
    assert "questions are answered" not in format_plan(plain)
    (tmp_path / "general.json").write_text(json.dumps([{"text": "b?", "answer": "c"}] * 7))
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    info["general"] = {**info["test"], "file_name": "general.json"}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    keys |= {"score_unseen": True}
    keys |= {"retention_sets": [{"name": "general", "dataset": "general", "scorer": "short_answer"}]}
    plan = make_plan(write(), [], gpus=1)
    # two tasks of five records in three rows, the set of seven in three rows
    assert plan.answers == {"tasks so far": 15, "unseen tasks": 15, "retention sets": 21, "total": 51}
    assert "51 questions are answered in all: 15 of tasks so far, 15 of unseen tasks, 21 of retention sets" in (
        format_plan(plan)
    )
    sizes = [(tmp_path / name).stat().st_size for name in ("test.json", "general.json")]
    assert plan.disk["predictions"] == 6 * (sizes[0] + 5 * 32) + 3 * (sizes[1] + 7 * 32)
    assert plan.to_dict()["answers"]["total"] == 51


def test_tasks_without_a_test_set_and_parts_of_test_sets_are_counted(recipe, tmp_path):
    keys, write = recipe
    size = (tmp_path / "test.json").stat().st_size
    keys["tasks"][0] |= {"max_test_samples": 2}
    plan = make_plan(write(), ["max_test_samples=4"], gpus=1)
    assert [(task.test_records, task.test_bytes) for task in plan.tasks] == [(2, size * 2 // 5), (4, size * 4 // 5)]
    assert plan.answers == {"tasks so far": 2 * 2 + 4, "total": 8}
    del keys["tasks"][0]["test_dataset"], keys["tasks"][0]["scorer"]
    plan = make_plan(write(), ["max_test_samples=99"], gpus=1)
    assert [(task.test_records, task.test_bytes) for task in plan.tasks] == [(0, 0), (5, size)]


def test_a_dataset_that_is_not_here_is_not_guessed(recipe):
    keys, write = recipe
    keys["tasks"][0]["dataset"] = "far"
    plan = make_plan(write(), [], gpus=1)
    assert plan.steps == [None, 6]
    assert [line.split()[1] for line in format_plan(plan).splitlines() if line.startswith(("A ", "total"))] == [
        "?"
    ] * 2


def test_errors_come_after_the_plan(capsys, monkeypatch, llava):
    monkeypatch.chdir(Path(__file__).parents[2])
    status = main(["plan", "recipes/coin_sefe.yaml", f"model_name_or_path={llava}", "dataset_dir=nowhere"])
    printed = capsys.readouterr()
    assert status == 1
    assert "573,840" in printed.out
    assert "published figures" in printed.out
    assert "recipes/coin_sefe.yaml cannot start: 8 errors." in printed.err
    assert "data of OCRVQA is missing" in printed.err


def test_all_other_errors_stop_the_plan(recipe):
    keys, write = recipe
    keys |= {"lora_rnak": 8, "asd_ratio": 2}
    with pytest.raises(RecipeError) as caught:
        make_plan(write(), [])
    assert len(caught.value.errors) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_name_or_path": "nobody/nothing"}, "`model_name_or_path`: the configuration of nobody/nothing"),
        (
            {"lora_target": "q_prj"},
            "`lora_target` names 'q_prj', which is no module of the model. Did you mean `q_proj`",
        ),
    ],
)
def test_what_cannot_be_planned_is_named(recipe, change, message):
    keys, write = recipe
    keys |= change
    with pytest.raises(RecipeError, match=message):
        make_plan(write(), [], gpus=1)


def test_a_recipe_of_one_run_is_no_sequence(recipe):
    keys, write = recipe
    del keys["tasks"]
    with pytest.raises(PlanError, match="describes no sequence"):
        make_plan(write(), [])


def test_missing_data_is_named(recipe):
    keys, write = recipe
    keys["tasks"][1]["dataset"] = "lisst"
    with pytest.raises(RecipeError, match=r"'lisst' is not declared .* Did you mean `list`"):
        make_plan(write(), [])


def test_packed_samples_cannot_be_counted_beforehand(recipe):
    keys, write = recipe
    keys["packing"] = True
    assert make_plan(write(), [], gpus=1).steps == [None, None]


def test_memory_is_that_of_the_greediest_task(recipe):
    keys, write = recipe
    plain = make_plan(write(), [], gpus=1).memory
    keys["tasks"][0] |= {"lora_rank": 64, "per_device_train_batch_size": 8}
    greedy = make_plan(write(), [], gpus=1).memory
    alone = make_plan(write(), ["lora_rank=64", "per_device_train_batch_size=8"], gpus=1).memory
    assert plain["total"] < greedy["total"] == alone["total"]


def test_overrides_may_stand_anywhere(recipe, capsys):
    _, write = recipe
    file = str(write())
    assert main(["plan", file, "--gpus", "1", "--json", "lora_rank=64"]) == 0
    behind = capsys.readouterr().out
    assert main(["plan", file, "lora_rank=64", "--gpus", "1", "--json"]) == 0
    assert capsys.readouterr().out == behind
    with pytest.raises(SystemExit):
        main(["plan", file, "--gpsu=1"])


def test_a_plan_without_a_gpu_says_so_and_shows_no_bars_of_the_host(recipe, capfd, monkeypatch):
    _, write = recipe
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert main(["plan", str(write()), "overwrite_cache=true"]) == 0
    said = capfd.readouterr()
    assert "planned for 1 GPU; this machine has none." in said.out
    assert not re.search("Generating|Converting|Running tokenizer", said.err), said.err
    assert main(["plan", str(write()), "--gpus", "2"]) == 0
    assert "this machine has none" not in capfd.readouterr().out


def test_json_holds_what_the_text_says(recipe):
    _, write = recipe
    plan = make_plan(write(), [], gpus=1)
    data = json.loads(json.dumps(plan.to_dict()))
    assert data["model"]["adapted_matrices"] == 28
    assert data["gpu_memory"]["total"] == plan.memory["total"]
    assert f"{plan.memory['total'] / 1e9:.1f} GB" in format_plan(plan)
    assert [task["tokens"] for task in data["tasks"]] == [53 * 676, 10 * 676]
