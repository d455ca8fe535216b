"""Every recipe is planned with the published sizes of its model; the text-only one is really trained."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from published_models import PUBLISHED
from safetensors.torch import load_file

from sefe_plugin.hosts.llamafactory.host import read_recipe
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.plan import make_plan
from sefe_plugin.recipe.load import load_recipe


ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
#: Mini-CoIN is drawn for the plan of each of its recipes, thousands of pictures; one is planned in the default run.
VARIANTS = [file for file in RECIPES if file.stem.startswith("minicoin") and file.stem != "minicoin_sefe"]


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory) -> dict[str, Path]:
    """Folders that hold nothing but a model's configuration."""
    root = tmp_path_factory.mktemp("models")
    folders = {name: root / name.replace("/", "_") for name in PUBLISHED}
    for name, folder in folders.items():
        PUBLISHED[name][0]().save_pretrained(folder)
    return folders


def head_of(file: Path) -> str:
    return "".join(line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line[0] == "#")


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_is_sound(file, model_folders, monkeypatch):
    monkeypatch.chdir(ROOT)
    keys = read_recipe(file.relative_to(ROOT), [])
    if model := keys.get("model_name_or_path"):
        keys["model_name_or_path"] = str(model_folders[model])
    assert load_recipe(keys, file.name, host_keys(), check_data=False).tasks
    assert f"llamafactory-cli train {file.relative_to(ROOT)}" in head_of(file)


def dry_run(file: Path, folders: dict[str, Path]):
    """The plan of a recipe as its head asks for it, with a sample of its data tried, and the head."""
    head, model = head_of(file), read_recipe(file, []).get("model_name_or_path")
    gpus = re.search(r"--gpus (\d+)", head)
    overrides = ["trial_samples=20", *([f"model_name_or_path={folders[model]}"] if model else [])]
    return make_plan(file.relative_to(ROOT), overrides, int(gpus[1]) if gpus else 1), head, model


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, id=file.stem, marks=pytest.mark.slow if file in VARIANTS else ()) for file in RECIPES],
)
def test_dry_run(file, model_folders, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan, head, model = dry_run(file, model_folders)
    assert None not in plan.steps
    # nothing but a benchmark's data, which is not shipped, keeps a recipe from starting
    benchmark = file.stem.split("_")[0]
    assert all(error.startswith("data of ") for error in plan.errors)
    assert len(plan.errors) == {"coin": 8, "ucit": 6, "dcl": 5}.get(benchmark, 0)
    if model:
        assert plan.architecture.parameters == PUBLISHED[model][1]
        assert f"({plan.memory['total'] / 1e9:.1f} GB planned)" in head
        disk = float(re.search(r"([\d.]+) GB of\s+(?:#\s+)?disk", head)[1])
        assert disk == pytest.approx(plan.disk["total"] / 1e9, abs=0.51)
    # 8 GPUs x 16 in SEFE's scripts, 8 x 4 x 2 in MCITlib's
    batches = {"coin": 128, "ucit": 64, "dcl": 64}
    assert plan.global_batch == batches.get(benchmark, plan.global_batch)


def test_shipped_text_data_is_sound():
    folder = ROOT / "recipes" / "text_data"
    for name in ("calendar", "alphabet"):
        train = json.loads((folder / f"{name}_train.json").read_text())
        test = json.loads((folder / f"{name}_test.json").read_text())
        trained = {row["conversations"][0]["value"] for row in train}
        assert len(trained) == len(train) == 300
        assert len(test) == 60
        assert not trained & {row["text"] for row in test}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """A text model of two layers with random weights, and a byte-level tokenizer that knows the chat marks."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_text")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token="<|im_start|>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_run(tiny_model, tmp_path_factory, warm):
    """The text recipe, trained to its end with the tiny model, and its plan."""
    run = tmp_path_factory.mktemp("text_run") / "run"
    overrides = [
        f"model_name_or_path={tiny_model}",
        f"output_dir={run}",
        "max_samples=50",
        "save_strategy=steps",
        "save_steps=10",
        "save_total_limit=1",
        "keep_checkpoints=true",
        "per_device_train_batch_size=4",
        "gradient_accumulation_steps=2",
    ]
    recipe = "recipes/text_sefe.yaml"
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        plan = make_plan(Path(recipe), overrides, gpus=1)
        command = [shutil.which("llamafactory-cli", path=warm["PATH"]), "train", recipe, *overrides]
        result = subprocess.run(command, capture_output=True, text=True, env=warm, timeout=900)
    finally:
        os.chdir(before)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return run, plan


TASKS = ("1_Calendar", "2_Alphabet")


def test_text_recipe_trains_scores_and_reports(text_run):
    run, _ = text_run
    report = json.loads((run / "report.json").read_text())
    assert report["tasks"] == ["Calendar", "Alphabet"]
    assert all(0 <= report["accuracy_matrix"][i][j] <= 100 for i, j in ((0, 0), (1, 0), (1, 1)))
    assert len((run / "2_Alphabet" / "predictions" / "Calendar.jsonl").read_text().splitlines()) == 60
    penalised = json.loads((run / "2_Alphabet" / "trainer_state.json").read_text())["log_history"]
    assert max(entry.get("reglora_penalty", 0) for entry in penalised) > 0
    assert len((run / "1_Calendar" / "asd.jsonl").read_text().splitlines()) == 10  # 0.2 * 50


def test_planned_steps_are_the_trainers(text_run):
    run, plan = text_run
    states = [json.loads((run / task / "trainer_state.json").read_text()) for task in TASKS]
    assert plan.steps == [state["max_steps"] for state in states]
    assert [task.samples for task in plan.tasks] == [50, 50]


def test_planned_tokens_are_measured(text_run):
    _, plan = text_run
    assert all(task.source == "measured" for task in plan.tasks)
    # one token to a byte: a question, its answer, the system's line and the marks of a chat
    assert all(100 < task.mean_tokens <= task.longest_tokens <= 256 for task in plan.tasks)


def tensor_bytes(*files: Path) -> int:
    return sum(tensor.nbytes for file in files for tensor in load_file(file).values())


def test_planned_disk_is_what_the_run_took(text_run):
    run, plan = text_run
    assert plan.disk["adapters"] == tensor_bytes(*(run / task / "adapter_model.safetensors" for task in TASKS))
    assert plan.disk["merged models"] == tensor_bytes(*(run / task / "merged/model.safetensors" for task in TASKS))
    # the code of key elements is planned for an even spread
    elements = tensor_bytes(*(run / task / "key_elements.safetensors" for task in TASKS))
    assert plan.disk["key elements"] == pytest.approx(elements, rel=0.05)
    folders = [folder for task in TASKS for folder in (run / task).glob("checkpoint-*")]
    assert len(folders) == 2
    written = sum((folder / name).stat().st_size for folder in folders for name in ("optimizer.pt",))
    written += tensor_bytes(*(folder / "adapter_model.safetensors" for folder in folders))
    # pickled states have a head of about a kilobyte for every tensor
    assert plan.disk["checkpoints"] == pytest.approx(written, rel=0.3)
    predicted = sum(file.stat().st_size for task in TASKS for file in (run / task / "predictions").glob("*.jsonl"))
    # the tiny model rambles up to 16 tokens, and the tests' files hold their records without the answers
    assert plan.disk["predictions"] == pytest.approx(predicted, rel=0.3)


def test_command_prints_the_plan(text_run, tiny_model, warm):
    command = [shutil.which("python", path=warm["PATH"]), "-m", "sefe_plugin.cli", "plan", "recipes/text_sefe.yaml"]
    overrides = [f"model_name_or_path={tiny_model}", "asd_ratio=3"]

    def run(*arguments):
        return subprocess.run(
            [*command, *arguments, "--json", "--gpus", "2"], capture_output=True, text=True, cwd=ROOT, env=warm
        )

    result = run(overrides[0])
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["gpus"] == 2
    assert printed["global_batch"] == 16
    assert [task["steps"] for task in printed["tasks"]] == [38, 38]  # 2 epochs of ceil(300 / 16)
    refused = run(*overrides)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "`asd_ratio` must be a share in [0, 1]" in refused.stderr
    assert "Traceback" not in refused.stderr
