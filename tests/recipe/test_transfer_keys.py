"""The keys of row 0, retention sets and tasks trained alone: every mistake is told before anything starts."""

import json

import pytest

from sefe_plugin.evaluation.report import write_report
from sefe_plugin.evaluation.report_data import build_report
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe
from sefe_plugin.recipe.single_run import run_errors


GENERAL = {"name": "general", "dataset": "general_test", "scorer": "short_answer"}


@pytest.fixture
def recipe(tmp_path):
    """A sound recipe of two tasks and one retention set."""
    for name in ("a_train", "a_test", "b_train", "b_test", "general_test", "mixed"):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"output": "red", "instruction": name}]))
    (tmp_path / "copy.json").write_bytes((tmp_path / "a_train.json").read_bytes())
    (tmp_path / "plain.txt").write_text("red")
    info = {path.stem: {"file_name": path.name} for path in sorted(tmp_path.glob("*.*"))}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    return {
        "model_name_or_path": "owner/name",
        "template": "llava",
        "dataset_dir": str(tmp_path),
        "output_dir": str(tmp_path / "run"),
        "score_unseen": True,
        "retention_sets": [GENERAL],
        "tasks": [
            {"name": name, "dataset": f"{name.lower()}_train", "test_dataset": f"{name.lower()}_test"}
            | {"scorer": "short_answer"}
            for name in "AB"
        ],
    }


def errors_of(recipe) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, "test.yaml", host_keys())
    return caught.value.errors


def test_a_sound_recipe_keeps_the_keys(recipe):
    loaded = load_recipe(recipe, "test.yaml", host_keys())
    assert loaded.to_dict()["retention_sets"] == [GENERAL]
    assert loaded.arguments["score_unseen"] is True


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ([], "`retention_sets` must be a list of mappings with the keys ('name', 'dataset', 'scorer'); got []."),
        ("general_test", "`retention_sets` must be a list of mappings; got 'general_test'."),
        ([{"name": "general"}], "`retention_sets`, entry 1 ('general'): `dataset` is required and must be text"),
        ([{**GENERAL, "scorre": "box"}], "`scorre` is no key of a retention set"),
        ([{**GENERAL, "name": "a/b"}], "`name` may hold letters, digits, `_`, `.` and `-`, at most 200 bytes"),
        ([{**GENERAL, "name": "a"}], "the name 'a' is taken by the task A. Names must differ."),
        ([GENERAL, {**GENERAL, "name": "General"}], "the name 'General' is taken by retention set 1."),
        ([{**GENERAL, "scorer": "short_anwser"}], "Did you mean `short_answer`?"),
        ([{**GENERAL, "dataset": "generel_test"}], "`dataset`: 'generel_test' is not declared in "),
        ([{**GENERAL, "dataset": "plain"}], "`dataset`: 'plain' must be a local .json or .jsonl file"),
        ([{**GENERAL, "scorer": "box"}], "`dataset`: 1 of 1 records of 'general_test' have no gold answer"),
        (
            [{**GENERAL, "dataset": "a_train"}],
            "`retention_sets`: 'a_train' is the training data of A. Name a test set",
        ),
        ([{**GENERAL, "dataset": "copy"}], "'copy' is the training data of A, there called 'a_train'."),
        ([{**GENERAL, "dataset": "b_test"}], "`retention_sets`: 'b_test' is the test set of B."),
        ([{**GENERAL, "dataset": "mixed"}], "`retention_sets`: 'mixed' is general data of `mix`."),
    ],
)
def test_faults_of_retention_sets(recipe, sets, expected):
    recipe["mix"] = [{"dataset": "mixed", "share": 0.5}]
    assert any(expected in error for error in errors_of(recipe | {"retention_sets": sets})), errors_of(
        recipe | {"retention_sets": sets}
    )


@pytest.mark.parametrize(
    ("benchmark", "dataset", "expected"),
    [
        ("minicoin", "minicoin_general_test", None),
        ("minicoin16", "minicoin_general_test", None),
        (
            "minicoin",
            "general_test",
            "`dataset` must be one of ('minicoin_general_test',), which `benchmark: minicoin`",
        ),
        ("coin", "general_test", "`benchmark: coin` writes no dataset for retention sets. List its tasks as `tasks`"),
    ],
)
def test_a_benchmark_scores_only_what_it_writes(tmp_path, benchmark, dataset, expected):
    keys = {
        "benchmark": benchmark,
        "output_dir": str(tmp_path / "run"),
        "retention_sets": [GENERAL | {"dataset": dataset}],
    }
    keys |= {"model_name_or_path": "owner/name", "template": "llava"} if benchmark == "coin" else {}
    if expected is None:
        load_recipe(keys, "test.yaml", host_keys())
    else:
        assert any(expected in error for error in errors_of(keys))


@pytest.mark.parametrize("key", ["score_unseen", "retention_sets", "single_task_run"])
def test_the_keys_belong_to_the_whole_sequence(recipe, key, tmp_path):
    value = {"score_unseen": True, "retention_sets": [GENERAL], "single_task_run": str(tmp_path)}[key]
    recipe["tasks"][1][key] = value
    assert f"task 2 (B): `{key}` belongs to the whole sequence." in "".join(errors_of(recipe))
    assert f"`{key}` belongs to a sequence. Add `tasks` or `benchmark`, or remove it." in run_errors({key: value})


def test_the_base_is_scored_within_a_sequence_only():
    keys = {"test_sets": [{"name": "A", "dataset": "a_test", "scorer": "box"}], "finetuning_type": "lora"}
    assert any("`test_sets` needs a trained model" in error for error in run_errors(keys))
    assert run_errors(keys, in_sequence=True) == []


def reference(folder, tasks=("B", "A", "C"), rows=3, alone=True):
    matrix = [[50.0 if j <= i else None for j in range(len(tasks))] for i in range(rows)]
    write_report(folder, build_report(list(tasks), matrix, matrix, trained_alone=alone), "alone")


def test_a_reference_may_hold_more_tasks_in_another_order(recipe, tmp_path):
    reference(tmp_path / "alone")
    load_recipe(recipe | {"single_task_run": str(tmp_path / "alone")}, "test.yaml", host_keys())


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (None, "holds no report.json. Name the folder of a finished run with `carry: none`."),
        ({"alone": False}, "is no run with `carry: none`: its tasks were not trained alone."),
        ({"rows": 2}, "is unfinished: 2 of 3 tasks. Finish it first."),
        ({"tasks": ("A", "C", "D")}, "lacks the tasks B; it has A, C, D. Name another run."),
    ],
)
def test_faults_of_a_reference(recipe, tmp_path, made, expected):
    if made is not None:
        reference(tmp_path / "alone", **made)
    (error,) = errors_of(recipe | {"single_task_run": str(tmp_path / "alone")})
    assert error.startswith("`single_task_run`: ")
    assert expected in error


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cl_method": "olora", "carry": "none"}, "`carry` must be one of ('stack',) with `cl_method: olora`"),
        ({"carry": "none", "replay_ratio": 0.1}, "`replay_ratio` cannot be combined with `carry: none`"),
        (
            {"scoring_backend": "vllm", "pad_images": True},
            "`score_unseen` with `scoring_backend: vllm` cannot be combined with `pad_images`",
        ),
    ],
)
def test_what_cannot_be_combined(recipe, monkeypatch, changes, expected):
    monkeypatch.setattr("sefe_plugin.recipe.combinations.find_spec", lambda name: True)
    assert any(expected in error for error in errors_of(recipe | changes))


@pytest.mark.parametrize("method", ["lora", "full", "reglora", "lota"])
def test_tasks_can_be_trained_alone_with(recipe, method):
    assert load_recipe(recipe | {"cl_method": method, "carry": "none"}, "test.yaml", host_keys())


def test_a_quantized_base_is_trained_alone_by_adapters_only(recipe, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    keys = recipe | {"carry": "none", "model_name_or_path": str(tmp_path / "base")}
    load_recipe(keys, "test.yaml", host_keys())
    errors = errors_of(keys | {"cl_method": "full"})
    assert any(
        "`carry: none` with `finetuning_type: full` needs a base in full precision" in error for error in errors
    )
