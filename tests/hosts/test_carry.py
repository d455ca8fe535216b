"""How a sequence carries tasks on: merged or stacked, on a 16-bit and a 4-bit base, under ZeRO and over nodes."""

import json
import shutil
import socket
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from same_report import without_times
from transformers import LlavaForConditionalGeneration
from transformers.integrations.deepspeed import is_deepspeed_available

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.run.checkpoints import whole_checkpoints


needs_deepspeed = pytest.mark.skipif(not is_deepspeed_available(), reason="needs deepspeed")
TASKS = ["1_ScienceQA", "2_TextVQA", "3_ImageNet"]
TEXT = torch.arange(10, 60)[None]
#: What a training is about does not matter.
SHORT = {"num_train_epochs": 1, "max_samples": 32}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TEXT).logits


def base(folder: Path | str = BASE):
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def run(train, recipe: Path, folder: Path, *overrides: str, **environment: str) -> dict:
    """Runs the recipe by the command line and returns its report."""
    result = train(recipe, f"output_dir={folder}", *overrides, **environment)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-30000:]
    return json.loads(without_times(folder / "report.json"))


def file_in(folder: Path, task: str, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / task / name)


def updates(folder: Path) -> dict[str, torch.Tensor]:
    """The change that the adapter in `folder` makes to each matrix."""
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    return {
        key: weights[key.replace("lora_A", "lora_B")] @ value * (config["lora_alpha"] / config["r"])
        for key, value in weights.items()
        if "lora_A" in key
    }


def found_by_verify(folder: Path) -> list:
    """What `sefe verify` finds in a run."""
    from sefe_plugin.hosts.llamafactory.verify import check_models
    from sefe_plugin.run.verify import verify_run

    return [(finding.where, finding.state, finding.what) for finding in verify_run(folder, check_models)]


@pytest.fixture(scope="module")
def merged(finished) -> tuple[Path, dict]:
    folder, _ = finished
    return folder, json.loads(without_times(folder / "report.json"))


def test_stacking_is_merging_in_full_precision(train_here, recipe, merged, tmp_path):
    folder, report = merged
    stacked_report = train_here(recipe, f"output_dir={tmp_path / 'run'}", "carry=stack")
    assert not list((tmp_path / "run").rglob("merged"))
    one, two = (json.loads((tmp_path / "run" / f / "stacked/adapter_config.json").read_text())["r"] for f in TASKS[:2])
    assert (one, two) == (4, 8)
    expected = logits(base(folder / TASKS[1] / "merged"))
    ours = logits(PeftModel.from_pretrained(base(), tmp_path / "run" / TASKS[1] / "stacked"))
    untouched = logits(base())
    # rounding differs by the order of sums; Adam's division by small gradients amplifies it over the task's steps
    assert (ours - expected).abs().max() < 2e-2 * (expected - untouched).abs().max()
    for ours, theirs in zip(stacked_report["accuracy_matrix"], report["accuracy_matrix"], strict=True):
        assert all(a == b or abs(a - b) <= 100 / 16 for a, b in zip(ours, theirs, strict=True))  # one answer may flip


def test_lora_goes_on_as_one_adapter_over_three_tasks(train_here, small_recipe, tmp_path):
    recipe = small_recipe(tmp_path, 3, cl_method="lora", carry="continue", **SHORT)
    keys = yaml.safe_load(recipe.read_text())
    keys["tasks"][1]["learning_rate"] = 1e-12  # task 2 starts with the adapter of task 1 and leaves it as it is
    recipe.write_text(yaml.safe_dump(keys))
    folder = tmp_path / "run"
    report = train_here(recipe)
    assert report["num_scored_tasks"] == 3
    first, second, third = (file_in(folder, task, "adapter_model.safetensors") for task in TASKS)
    assert any(value.any() for name, value in first.items() if "lora_B" in name)
    for name, value in first.items():
        assert (second[name] - value).abs().max() < 1e-9, name
    assert any(not torch.equal(third[name], value) for name, value in second.items())
    for task in TASKS:
        task_keys = yaml.safe_load((folder / task / "task.yaml").read_text())
        assert task_keys["model_name_or_path"] == str(BASE)
        assert not (folder / task / "merged").exists()
    assert task_keys["adapter_name_or_path"] == str(folder / TASKS[1])
    # the last adapter alone, on the base, is the model of the run
    assert PeftModel.from_pretrained(base(), folder / TASKS[2]).peft_config["default"].r == 4


@pytest.mark.parametrize("carry", ["merge", "stack"])
def test_lora_without_a_cure_over_three_tasks(train_here, small_recipe, tmp_path, carry):
    recipe = small_recipe(tmp_path, 3, cl_method="lora", carry=carry, **SHORT)
    report = train_here(recipe)
    assert report["num_scored_tasks"] == 3
    folder = tmp_path / "run"
    assert not list(folder.rglob("key_elements.safetensors"))
    if carry == "merge":
        ours = logits(base(folder / TASKS[2] / "merged"))
        expected = logits(PeftModel.from_pretrained(base(folder / TASKS[1] / "merged"), folder / TASKS[2]))
    else:
        parts = [updates(folder / task) for task in TASKS]
        for key, value in updates(folder / TASKS[2] / "stacked").items():
            assert torch.allclose(value, sum(part[key] for part in parts), atol=1e-6), key
        return
    assert torch.allclose(ours, expected, atol=1e-4)


def test_moelora_goes_on_with_its_router_and_answers_with_it(train_here, small_recipe, tmp_path):
    from sefe_plugin import MoeLoraModel

    recipe = small_recipe(tmp_path, 2, cl_method="moelora", moelora_experts=2, **SHORT)
    folder = tmp_path / "run"
    report = train_here(recipe)
    assert report["num_scored_tasks"] == 2
    first, second = (file_in(folder, task, "adapter_model.safetensors") for task in TASKS[:2])
    routers = [name for name in first if name.endswith("lora_router.weight")]
    assert len(routers) == len(first) // 3 and first.keys() == second.keys()
    for name in routers:
        step = (second[name] - first[name]).norm() / first[name].norm()
        assert 0 < step < 0.5, name  # moved on from where it was; two draws would be 1.4 apart
    task_keys = yaml.safe_load((folder / TASKS[1] / "task.yaml").read_text())
    assert (task_keys["adapter_name_or_path"], task_keys["merge_adapter"]) == (str(folder / TASKS[0]), False)
    # scored again from what is on disk, the answers are the same
    answers = {file.name: file.read_bytes() for file in (folder / TASKS[1] / "predictions").iterdir()}
    shutil.rmtree(folder / TASKS[1] / "predictions")
    (folder / TASKS[1] / "steps.json").write_text('["trained", "carried"]')
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["complete"].pop()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert train_here(recipe) == report
    assert {file.name: file.read_bytes() for file in (folder / TASKS[1] / "predictions").iterdir()} == answers
    model = PeftModel.from_pretrained(base(), folder / TASKS[1])
    assert isinstance(model.base_model, MoeLoraModel)
    states = [state for _, state, _ in found_by_verify(folder)]
    assert states and all(states)


def test_osf_trains_what_the_task_before_left_in_a_plain_model(train_here, small_recipe, tmp_path):
    recipe = small_recipe(tmp_path, 2, cl_method="osf", lora_rank=8, learning_rate=5e-4, **SHORT)
    folder = tmp_path / "run"
    report = train_here(recipe)
    assert report["num_scored_tasks"] == 2
    for task, kept in zip(TASKS, (0.3, 0.5), strict=False):
        keys = yaml.safe_load((folder / task / "task.yaml").read_text())
        assert keys["osf_kept"] == kept
        assert json.loads((folder / task / "adapter_config.json").read_text())["effective_rank"] == kept
    assert keys["model_name_or_path"] == str(folder / TASKS[0] / "merged")
    start, first, second = (base(place) for place in (BASE, *(folder / task / "merged" for task in TASKS[:2])))
    for before, after, kept in ((start, first, 0.3), (first, second, 0.5)):
        changed = 0
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
            if torch.equal(old, new):
                continue
            changed += 1
            U, _, V = torch.linalg.svd(old.double(), full_matrices=False)
            rank, change = int(min(old.shape) * kept), (new - old).double()
            for part in (U[:, :rank].T @ change, change @ V[:rank].T):
                assert part.norm() < 1e-3 * change.norm(), name  # the merged model is kept in single precision
        assert changed
    states = [state for _, state, _ in found_by_verify(folder)]
    assert states and all(states)
    # a task that was ended before it was merged is merged by the host
    shutil.rmtree(folder / TASKS[1] / "merged")
    (folder / TASKS[1] / "steps.json").write_text('["trained", "scored"]')
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["complete"].pop()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    train_here(recipe)
    assert [verb for verb, _ in train_here.commands] == ["export"]
    for (name, ours), theirs in zip(
        base(folder / TASKS[1] / "merged").named_parameters(), second.parameters(), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5), name


def test_full_fine_tuning_replaces_the_model_over_three_tasks(train_here, small_recipe, tmp_path):
    recipe = small_recipe(tmp_path, 3, cl_method="full", learning_rate=5e-4, **SHORT)
    keys = yaml.safe_load(recipe.read_text())
    keys["tasks"][1]["learning_rate"] = 1e-12  # task 2 starts from the model of task 1 and leaves it as it is
    recipe.write_text(yaml.safe_dump(keys))
    folder = tmp_path / "run"
    report = train_here(recipe)
    assert report["num_scored_tasks"] == 3
    start, models = (
        base().state_dict(),
        [file_in(folder, task, "model.safetensors") for task in TASKS],
    )
    for name, value in models[0].items():
        frozen = "vision_tower" in name or "multi_modal_projector" in name
        assert torch.equal(value, start[name].to(value.dtype)) == frozen, name
        assert (models[1][name] - value).abs().max() < 1e-9, name
    assert any(not torch.equal(models[2][name], value) for name, value in models[1].items())
    assert not list(folder.rglob("adapter_config.json"))
    task_keys = yaml.safe_load((folder / TASKS[2] / "task.yaml").read_text())
    assert (task_keys["finetuning_type"], task_keys["model_name_or_path"]) == ("full", str(folder / TASKS[1]))
    # plain Transformers loads it, whole
    assert torch.isfinite(logits(base(folder / TASKS[2]))).all()


@pytest.mark.parametrize(
    ("method", "carry"), [("lora", "continue"), ("lora", "stack"), ("full", "replace"), ("reglora", "stack")]
)
def test_a_trained_task_is_scored_again_to_the_same_answers(train_here, small_recipe, tmp_path, method, carry):
    recipe = small_recipe(tmp_path, 2, cl_method=method, carry=carry, **SHORT)
    report = train_here(recipe)
    folder = tmp_path / "run" / TASKS[1]
    answers = {file.name: file.read_bytes() for file in (folder / "predictions").iterdir()}
    assert len(answers) == 2
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["complete"].pop()
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    (folder / "steps.json").write_text('["trained", "carried"]')
    shutil.rmtree(folder / "predictions")
    assert train_here(recipe) == report
    assert train_here.commands == [("train", folder / "score.yaml")]
    assert {file.name: file.read_bytes() for file in (folder / "predictions").iterdir()} == answers


def test_answers_of_other_records_or_of_an_earlier_training_are_not_kept(tmp_path):
    from sefe_plugin.evaluation.results import write_predictions
    from sefe_plugin.hosts.llamafactory.scoring import _unanswered
    from sefe_plugin.hosts.llamafactory.task import _remove_results
    from sefe_plugin.run.steps import TRAINED, record_step, steps_of

    records = [{"text": "1 + 1?", "answer": "2"}]
    (tmp_path / "tests.json").write_text(json.dumps(records))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"sums": {"file_name": "tests.json"}}))
    test_sets = [{"name": "Sums", "dataset": "sums", "scorer": "short_answer"}]
    assert _unanswered(test_sets, tmp_path, str(tmp_path), 0, 1) == test_sets
    write_predictions(tmp_path, "Sums", records, ["2"])
    assert _unanswered(test_sets, tmp_path, str(tmp_path), 0, 1) == []
    (tmp_path / "tests.json").write_text(json.dumps([{"text": "1 + 1?", "answer": "two"}]))
    assert _unanswered(test_sets, tmp_path, str(tmp_path), 0, 1) == test_sets
    (tmp_path / "tests.json").write_text(json.dumps(records))
    record_step(tmp_path, TRAINED)
    _remove_results(tmp_path)
    assert _unanswered(test_sets, tmp_path, str(tmp_path), 0, 1) == test_sets
    assert steps_of(tmp_path) == []


def test_a_run_without_training_and_test_sets_is_the_hosts():
    from types import SimpleNamespace

    from sefe_plugin.hosts.llamafactory.task import run_task

    training = SimpleNamespace(do_train=False, output_dir="nowhere", process_index=0)
    finetuning = SimpleNamespace(cl_method="reglora", test_sets=None, merge_adapter=False)
    called = []
    run_task(lambda *given: called.append(given), (None, None, training, finetuning, None), ["callback"])
    assert called == [(None, None, training, finetuning, None, ["callback"])]


def test_four_bit_sequence_of_three_tasks_leaves_its_base_alone(train_here, small_recipe, tmp_path):
    recipe = small_recipe(tmp_path, 3, **SHORT)
    folder = tmp_path / "run"
    report = train_here(recipe, "carry=stack", "quantization_bit=4")
    assert report["tasks"] == ["ScienceQA", "TextVQA", "ImageNet"]
    for number, name in enumerate(TASKS, start=1):
        keys = yaml.safe_load((folder / name / "task.yaml").read_text())
        assert (keys["model_name_or_path"], keys["quantization_bit"]) == (str(BASE), 4)
        assert json.loads((folder / name / "stacked/adapter_config.json").read_text())["r"] == 4 * number
    first, last = (load_file(folder / name / "stacked/adapter_model.safetensors") for name in (TASKS[0], TASKS[2]))
    key = next(key for key in first if key.endswith("lora_A.weight"))
    assert torch.equal(last[key][:4], first[key])
    assert not list(folder.rglob("merged"))


def test_four_bit_merge_is_into_the_base_of_full_precision(train_here, recipe, tmp_path):
    folder = tmp_path / "run"
    train_here(recipe, f"output_dir={folder}", "quantization_bit=4")
    start = BASE
    for name in TASKS[:2]:
        assert yaml.safe_load((folder / name / "task.yaml").read_text())["model_name_or_path"] == str(start)
        start_model = base(start)
        expected = PeftModel.from_pretrained(start_model, folder / name).merge_and_unload()
        ours = base(folder / name / "merged")
        for (key, value), (_, theirs) in zip(ours.state_dict().items(), expected.state_dict().items(), strict=True):
            assert torch.allclose(value, theirs, atol=1e-6), key
        assert not (folder / name / ".merged.tmp").exists()
        start = folder / name / "merged"


@pytest.mark.parametrize("carry", ["merge", "stack"])
def test_sequence_of_a_16_bit_base_whose_projector_is_trained(train_here, recipe, tmp_path, carry):
    """The projector is trained in fp32 beside 16-bit weights, and the model must still answer."""
    folder = tmp_path / "base"
    model = LlavaForConditionalGeneration.from_pretrained(BASE, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for file in BASE.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    keys = [
        f"model_name_or_path={folder}",
        "bf16=true",
        "use_cpu=true",
        "additional_target=multi_modal_projector",
        f"carry={carry}",
    ]
    short = ["max_samples=32", "max_steps=2", "max_new_tokens=2", "per_device_train_batch_size=2"]
    train_here(recipe, f"output_dir={tmp_path / 'run'}", *keys, "projector_learning_rate=1e-3", *short)
    weights = load_file(tmp_path / "run" / TASKS[0] / "adapter_model.safetensors")
    before = model.state_dict()
    moved = [
        (value.float() - before[name].float()).abs().max()
        for key, value in weights.items()
        if "lora" not in key and (name := key.removeprefix("base_model.model."))
    ]
    assert len(moved) == 4
    assert min(moved) > 1e-4


def test_keeplora_changes_the_merged_base_in_free_directions_only(train_here, small_recipe, tmp_path):
    recipe = small_recipe(tmp_path, 2, cl_method="keeplora", keeplora_data=0.25, num_train_epochs=1)
    assert train_here(recipe)["num_scored_tasks"] == 2
    folder = tmp_path / "run"
    files = [folder / task / "directions.safetensors" for task in TASKS[:2]]
    keys = yaml.safe_load((folder / TASKS[1] / "task.yaml").read_text())
    assert keys["keeplora_directions"] == [str(files[0])]
    kept = load_file(files[0])
    for key, change in updates(folder / TASKS[1]).items():
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        rows = torch.cat([kept[f"weights.{name}"], kept[f"features.{name}"]])
        assert change.norm() > 1e-3, name
        assert (change @ rows.T).norm() < 1e-5 * change.norm(), name
        assert f"weights.{name}" not in load_file(files[1])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "carry"), [("lora", "continue"), ("olora", "stack"), ("ewc", "continue")])
def test_four_bit_sequences_of_other_methods(train_here, small_recipe, tmp_path, method, carry):
    recipe = small_recipe(tmp_path, 2, cl_method=method, carry=carry, num_train_epochs=1, quantization_bit=4)
    report = train_here(recipe)
    assert report["num_scored_tasks"] == 2
    model = PeftModel.from_pretrained(base(), tmp_path / "run" / TASKS[1] / ("stacked" if carry == "stack" else ""))
    assert not torch.allclose(logits(model), logits(base()))


def test_incomplete_base_is_refused(train, recipe, tmp_path):
    from safetensors.torch import save_file

    weights = load_file(BASE / "model.safetensors")
    removed = next(key for key in weights if "vision_tower" in key and key.endswith("q_proj.weight"))
    del weights[removed]
    folder = tmp_path / "base"
    folder.mkdir()
    for file in BASE.iterdir():
        if file.is_file() and file.name != "model.safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = train(recipe, f"output_dir={tmp_path / 'run'}", f"model_name_or_path={folder}")
    assert result.returncode == 1
    assert "lacks 1 weights of the model, such as model.vision_tower" in result.stderr
    assert not list((tmp_path / "run").rglob("adapter_model.safetensors"))


@pytest.mark.slow
@needs_deepspeed
def test_full_fine_tuning_under_zero_3_hands_on_whole_models(train, small_recipe, tmp_path):
    config = json.loads((Path(__file__).parents[1] / "deepspeed" / "zero3.json").read_text())
    config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps(config))
    recipe = small_recipe(tmp_path, 2, cl_method="full", learning_rate=5e-4, num_train_epochs=1)
    several = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    report = run(train, recipe, tmp_path / "run", f"deepspeed={file}", "gradient_accumulation_steps=1", **several)
    assert report["num_scored_tasks"] == 2
    start, models = base().state_dict(), []
    for task in TASKS[:2]:
        model = base(tmp_path / "run" / task)
        assert sum(parameter.numel() for parameter in model.parameters()) == 1_996_864
        models.append(file_in(tmp_path / "run", task, "model.safetensors"))
    key = next(key for key in start if key.endswith("layers.0.self_attn.q_proj.weight") and "vision" not in key)
    assert not torch.equal(models[0][key].float(), start[key].float())
    assert not torch.equal(models[1][key], models[0][key])


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("carry", ["merge", "stack"])
def test_zero_sequence_is_that_of_one_process(train, recipe, merged, tmp_path, stage, carry):
    config = Path(__file__).parents[1] / "deepspeed" / f"zero{stage}.json"
    report = run(
        train,
        recipe,
        tmp_path / "run",
        f"deepspeed={config}",
        f"carry={carry}",
        "gradient_accumulation_steps=1",
        "save_strategy=steps",
        "save_steps=4",
        "keep_checkpoints=true",
        FORCE_TORCHRUN="1",
        NPROC_PER_NODE="2",
        OMP_NUM_THREADS="1",
    )
    assert len(whole_checkpoints(tmp_path / "run" / TASKS[0])) == 2
    ours, theirs = (load_file(f / TASKS[0] / "adapter_model.safetensors") for f in (tmp_path / "run", merged[0]))
    assert ours.keys() == theirs.keys()
    if stage == 2:  # ZeRO-3 draws other initial values, so only what it carries can be checked
        for key, value in theirs.items():
            assert (value - ours[key]).abs().max() <= 2e-3 * value.abs().max(), key
        for i, row in enumerate(merged[1]["accuracy_matrix"]):
            for j in range(i + 1):
                assert abs(report["accuracy_matrix"][i][j] - row[j]) <= 200 / 16  # two answers may flip
    if carry == "merge":
        expected = PeftModel.from_pretrained(base(), tmp_path / "run" / TASKS[0]).merge_and_unload()
        assert torch.allclose(logits(expected), logits(base(tmp_path / "run" / TASKS[0] / "merged")), atol=1e-4)
    else:
        first, second, stacked = (updates(tmp_path / "run" / f) for f in (*TASKS[:2], f"{TASKS[1]}/stacked"))
        for key, value in stacked.items():
            assert torch.allclose(value, first[key] + second[key], atol=1e-6), key


@pytest.mark.slow
def test_two_nodes_train_one_sequence(environment, recipe, merged, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        f"{sysconfig.get_paths()['scripts']}/llamafactory-cli",
        "train",
        str(recipe),
        f"output_dir={tmp_path / 'run'}",
        "gradient_accumulation_steps=1",
    ]
    shared = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NPROC_PER_NODE": "1"}
    nodes = []
    for rank in (1, 0):
        variables = environment | shared | {"NODE_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        with (tmp_path / f"log{rank}").open("w") as log:
            nodes.append(subprocess.Popen(command, env=variables, stdout=log, stderr=log))
    assert [node.wait(900) for node in nodes] == [0, 0], (tmp_path / "log0").read_text()[-3000:]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for i, row in enumerate(merged[1]["accuracy_matrix"]):
        for j in range(i + 1):
            assert abs(report["accuracy_matrix"][i][j] - row[j]) <= 100 / 16  # one answer may flip
