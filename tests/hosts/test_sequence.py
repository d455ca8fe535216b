"""Whole sequences through plain `llamafactory-cli train`: two tasks of mini-CoIN, few samples."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from same_report import without_times

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.data import TASKS


NAMES = [task.name for task in TASKS[:2]]


def read(file: Path):
    return json.loads(file.read_text())


def test_sequence_ends_in_matrix_and_report(finished):
    run, said = finished
    report = read(run / "report.json")
    assert report["tasks"] == NAMES
    assert report["accuracy_matrix"][0][1] is None
    assert all(0 <= report["accuracy_matrix"][i][j] <= 100 for i, j in ((0, 0), (1, 0), (1, 1)))
    for file in ("report.md", "report.html", "matrix.png", "curves.png", "manifest.json"):
        assert (run / file).stat().st_size > 0
    assert "| MFT" in said
    assert "Answers in the right format" in said
    # a line for each phase, and nothing of what the tasks say
    lines = said.partition("\n# ")[0].splitlines()
    assert [re.sub(r"\d+ s\b", "N s", line).partition(" |")[0] for line in lines if line.startswith("[")] == [
        "[1/2] ScienceQA: 64 samples, 8 steps",
        "[1/2] ScienceQA: trained in N s",
        "[1/2] ScienceQA: scored 16 answers in N s",
        "[1/2] ScienceQA: carried on in N s",
        "[1/2] ScienceQA done in N s",
        "[2/2] TextVQA: 64 samples, 8 steps, about N s by the steps of ScienceQA",
        "[2/2] TextVQA: trained in N s",
        "[2/2] TextVQA: scored 32 answers in N s",
        "[2/2] TextVQA: carried on in N s",
        "[2/2] TextVQA done in N s",
    ]
    assert len(lines) <= 11  # and the trial
    assert "Running training" in (run / "1_ScienceQA" / "log.txt").read_text()
    assert not list(run.rglob("progress.json"))


def test_every_task_leaves_its_files(finished):
    run, _ = finished
    for index, name in enumerate(NAMES):
        folder = run / f"{index + 1}_{name}"
        for file in ("adapter_model.safetensors", "key_elements.safetensors", "merged/config.json", "scores.json"):
            assert (folder / file).is_file()
        rows = [json.loads(line) for line in (folder / "predictions" / f"{name}.jsonl").read_text().splitlines()]
        assert len(rows) == 16
        assert {"prediction", "answer", "question_id"} <= set(rows[0])


def test_every_task_says_what_it_took(finished):
    run, _ = finished
    for index, name in enumerate(NAMES):
        folder = run / f"{index + 1}_{name}"
        cost, state = read(folder / "cost.json"), read(folder / "trainer_state.json")
        assert (cost["steps"], cost["steps_before"]) == (state["global_step"], 0)
        assert 0 < cost["steps"] * cost["step_seconds"] <= cost["seconds"]
        assert cost["memory_of"] == "process"
        assert cost["peak_memory"] > 2 * (folder / "merged" / "model.safetensors").stat().st_size


def test_every_task_says_where_its_time_went(finished):
    run, said = finished
    found = read(run / "report.json")["ledger"]
    complete = read(run / "manifest.json")["complete"]
    assert [task["task"] for task in found["tasks"]] == NAMES
    for index, (task, entry) in enumerate(zip(found["tasks"], complete, strict=True)):
        folder = run / f"{index + 1}_{task['task']}"
        phases = {phase["phase"]: phase for phase in task["phases"]}
        assert list(phases) == [
            *["checks"] * (index == 0),
            *("start-up", "data", "model", "method", "training", "saving", "scoring", "carry", "rest"),
        ]
        before = phases["checks"]["seconds"] if index == 0 else 0.0
        assert (before > 1) == (index == 0)  # keys and data are tried
        assert task["seconds"] - before == pytest.approx(entry["seconds"], abs=0.1)
        cost = read(folder / "cost.json")
        # cost.json counts from before the method's work until all is saved
        inner = sum(phases[name]["seconds"] for name in ("method", "training", "saving"))
        assert phases["training"]["seconds"] < cost["seconds"] < inner
        assert (phases["data"]["count"], phases["data"]["unit"]) == (64, "samples")
        assert phases["training"]["count"] == 2 * 64  # epochs
        assert phases["scoring"]["count"] == 16 * (index + 1)
        memory = [phases[name].get("peak_memory") for name in ("start-up", "training", "scoring", "carry")]
        assert memory == sorted(memory)
        assert memory[1] <= cost["peak_memory"] <= memory[-1]
        if sys.platform == "linux":
            merged = (folder / "merged" / "model.safetensors").stat().st_size
            assert phases["carry"]["written"] >= merged > phases["model"]["written"]
            assert phases["method"]["written"] >= (folder / "key_elements.safetensors").stat().st_size
            assert phases["saving"]["written"] >= (folder / "adapter_model.safetensors").stat().st_size
    assert "## Where the time went" in said


def test_asd_is_recorded_with_exact_counts(finished):
    run, _ = finished
    rows = [json.loads(line) for line in (run / "1_ScienceQA" / "asd.jsonl").read_text().splitlines()]
    assert len(rows) == round(0.2 * 64)
    data = read(run.parent / "data" / "ScienceQA" / "train.json")
    for row in rows:
        assert data[row["index"]]["conversations"][0]["value"] == row["before"]["question"]
        assert data[row["index"]]["conversations"][1]["value"] == row["before"]["answer"]
        assert row["after"] != row["before"]


def test_penalty_starts_with_the_second_task_and_is_logged(finished):
    run, _ = finished
    first, second = (read(run / f"{i + 1}_{name}" / "trainer_state.json") for i, name in enumerate(NAMES))
    assert all(entry.get("reglora_penalty", 0) == 0 for entry in first["log_history"])
    penalties = [entry["reglora_penalty"] for entry in second["log_history"] if "loss" in entry]
    assert penalties[0] == 0  # B = 0 at the first step
    assert min(penalties[1:]) > 0


def test_merged_model_is_base_plus_scaled_adapter(finished):
    run, _ = finished
    base, merged = (
        load_file(BASE / "model.safetensors"),
        load_file(run / "1_ScienceQA" / "merged" / "model.safetensors"),
    )
    adapter = load_file(run / "1_ScienceQA" / "adapter_model.safetensors")
    name = next(key for key in adapter if key.endswith("lora_A.weight"))
    weight = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
    (key,) = [key for key in base if key.endswith(weight.split("model.", 1)[-1].removeprefix("language_model."))]
    delta = 2 * adapter[name.replace("lora_A", "lora_B")] @ adapter[name]  # alpha / r = 2
    assert (merged[weight].float() - base[key].float() - delta).abs().max() < 1e-5


def test_adapters_load_in_plain_peft_without_the_plugin(plain_python, finished):
    run, _ = finished
    code = f"""
import sys, warnings
sys.modules["sefe_plugin"] = None
import torch
from peft import PeftModel
from transformers import LlavaForConditionalGeneration
bases = [{str(BASE)!r}, {str(run / "1_ScienceQA" / "merged")!r}]
adapters = [{str(run / "1_ScienceQA")!r}, {str(run / "2_TextVQA")!r}]
for base, adapter in zip(bases, adapters):
    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = PeftModel.from_pretrained(model, adapter)
    trained = any(p.any() for n, p in loaded.named_parameters() if "lora_B" in n)
    print(type(loaded.base_model).__name__, trained)
"""
    environment = os.environ | {"SEFE_PLUGIN_DISABLE": "1"}
    result = subprocess.run([plain_python, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.split() == ["LoraModel", "True"] * 2, result.stderr


def test_two_processes_give_the_same_run(train, finished, recipe, tmp_path):
    """One process with two micro-batches and two processes with one each see the same global batches."""
    run, _ = finished
    result = train(
        recipe,
        f"output_dir={tmp_path / 'run'}",
        "gradient_accumulation_steps=1",
        FORCE_TORCHRUN="1",
        NPROC_PER_NODE="2",
        OMP_NUM_THREADS="1",
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    one, two = read(run / "report.json"), read(tmp_path / "run" / "report.json")
    for index, name in enumerate(NAMES):
        folder = f"{index + 1}_{name}"
        ours, theirs = (load_file(r / folder / "adapter_model.safetensors") for r in (run, tmp_path / "run"))
        # rounding differs by the order of sums; Adam's division by small gradients amplifies it
        for key, value in ours.items():
            assert (value - theirs[key]).abs().max() <= 2e-3 * value.abs().max(), (folder, key)
        assert shared_key_elements(run / folder, tmp_path / "run" / folder) >= 0.999
        # one of 16 answers may flip on a tie of two tokens
        for j in range(index + 1):
            assert abs(one["accuracy_matrix"][index][j] - two["accuracy_matrix"][index][j]) <= 100 / 16


def shared_key_elements(first: Path, second: Path) -> float:
    """Share of key elements that two runs have in common, mean over the matrices."""
    from sefe_plugin.methods.reglora.codec import decode
    from sefe_plugin.methods.reglora.files import read_key_elements

    one, two = (read_key_elements(folder / "key_elements.safetensors") for folder in (first, second))
    assert one.shapes == two.shapes
    shares = []
    for name, (rows, cols) in one.shapes.items():
        a, b = (set(decode(elements.codes[name], rows * cols).tolist()) for elements in (one, two))
        shares.append(len(a & b) / len(a))
    return sum(shares) / len(shares)


def copy_of_first_task(run: Path, folder: Path) -> Path:
    """A run folder as `run` was after its first task."""
    folder.mkdir()
    shutil.copytree(run / "1_ScienceQA", folder / "1_ScienceQA")
    manifest = read(run / "manifest.json")
    manifest["recipe"]["output_dir"] = str(folder)
    manifest["complete"] = manifest["complete"][:1]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    "checkpoints",
    [
        pytest.param(False, id="from the task's start", marks=pytest.mark.slow),
        pytest.param(True, id="from a checkpoint"),
    ],
)
def test_killed_run_continues_and_ends_the_same(environment, train, finished, recipe, tmp_path, checkpoints):
    run, _ = finished
    begun = copy_of_first_task(run, tmp_path / "run")
    overrides = [f"output_dir={begun}", *(["save_strategy=steps", "save_steps=2"] if checkpoints else [])]
    sign = "checkpoint-2/trainer_state.json" if checkpoints else "trainer_log.jsonl"
    command = ["llamafactory-cli", "train", str(recipe), *overrides]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        second = tmp_path / "run" / "2_TextVQA"
        deadline = time.monotonic() + 300
        while not (second / sign).is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [task["name"] for task in read(tmp_path / "run" / "manifest.json")["complete"]] == NAMES[:1]
    result = train(recipe, *overrides)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "Continuing after 1 of 2 tasks: ScienceQA." in result.stdout
    assert ("Resuming training from" in (second / "log.txt").read_text()) == checkpoints
    assert ("TextVQA: 64 samples, 8 steps, from step " in result.stdout) == checkpoints
    assert without_times(tmp_path / "run" / "report.json") == without_times(run / "report.json")
    adapters = [load_file(folder / "2_TextVQA" / "adapter_model.safetensors") for folder in (run, tmp_path / "run")]
    assert all(torch.equal(value, adapters[1][name]) for name, value in adapters[0].items())


def test_failed_scoring_costs_no_training(train, finished, recipe, tmp_path):
    """A task whose process ended after its training is only scored and merged, to the same answers and model."""
    run, _ = finished
    begun = copy_of_first_task(run, tmp_path / "run")
    shutil.copytree(run / "2_TextVQA", begun / "2_TextVQA")
    second = begun / "2_TextVQA"
    shutil.rmtree(second / "merged")
    (second / "scores.json").unlink()
    (second / "predictions" / "ScienceQA.jsonl").unlink()
    (second / "steps.json").write_text('["trained"]')
    trained = (second / "adapter_model.safetensors").stat().st_mtime_ns
    answered = (second / "predictions" / "TextVQA.jsonl").stat().st_mtime_ns
    result = train(recipe, f"output_dir={begun}")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert without_times(begun / "report.json") == without_times(run / "report.json")
    name = "predictions/ScienceQA.jsonl"
    assert (second / name).read_bytes() == (run / "2_TextVQA" / name).read_bytes()
    ours, theirs = (load_file(folder / "merged" / "model.safetensors") for folder in (second, run / "2_TextVQA"))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert (second / "adapter_model.safetensors").stat().st_mtime_ns == trained
    assert (second / "predictions" / "TextVQA.jsonl").stat().st_mtime_ns == answered


def test_blanks_in_the_path_of_the_working_folder(train, small_recipe, tmp_path, monkeypatch):
    """The host's launcher of several processes cuts its command at blanks."""
    folder = tmp_path / "my work"
    folder.mkdir()
    recipe = small_recipe(folder, 1, num_train_epochs=1, output_dir="run")
    monkeypatch.chdir(folder)
    several = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "1"}
    result = train(recipe, "output_dir=my run", **several)
    assert result.returncode == 1
    assert "`output_dir` must hold no blanks" in result.stderr
    result = train(recipe, **several)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert (folder / "run" / "report.json").is_file()


def test_other_trainings_of_the_host_are_refused(train, recipe, tmp_path):
    result = train(recipe, f"output_dir={tmp_path / 'run'}", USE_V1="y")
    assert result.returncode == 1
    assert "USE_V1 is set" in result.stderr
    assert "Traceback" not in result.stderr


def test_folder_of_an_earlier_layout_is_refused(train, small_recipe, tmp_path):
    recipe = small_recipe(tmp_path, 1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text('{"version": 1, "recipe": {}, "complete": []}')
    result = train(recipe)
    assert result.returncode == 1
    assert result.stderr.strip() == (
        f"{tmp_path / 'run' / 'manifest.json'} has format version 1, this plugin reads 2. Choose another "
        "`output_dir`, or install the version that wrote it."
    )


def test_changed_recipe_is_refused_with_the_difference(train, finished, recipe):
    before = (finished[0] / "manifest.json").read_bytes()
    result = train(recipe, "learning_rate=0.001")
    assert result.returncode == 1
    assert "-learning_rate: 0.002" in result.stderr
    assert "+learning_rate: 0.001" in result.stderr
    assert "Traceback" not in result.stderr
    assert (finished[0] / "manifest.json").read_bytes() == before


def test_errors_are_listed_fast_and_without_a_traceback(train_cold, recipe, tmp_path):
    started = time.monotonic()
    result = train_cold(recipe, "asd_ratio=3", "reglora_key_raito=0.1", f"output_dir={tmp_path / 'run'}")
    assert result.returncode == 1
    assert "`asd_ratio` must be a share in [0, 1]" in result.stderr
    assert "Did you mean `reglora_key_ratio`?" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()
    assert time.monotonic() - started < 10  # the host's own imports alone take longer


def test_recipes_are_checked_without_heavy_imports():
    code = "import sys, sefe_plugin.hosts.llamafactory.sequence; print({'torch', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr


def test_host_run_without_our_keys_is_the_same_with_and_without_the_plugin(train, train_cold, recipe, tmp_path):
    keys = yaml.safe_load(recipe.read_text())
    for key in ("tasks", "cl_method", "reglora_weight", "asd_ratio"):
        del keys[key]
    adapters = []
    # a fork has all that the plugin changes; a command as it is installed has nothing of it
    for name, command, variables in (("with", train, {}), ("without", train_cold, {"SEFE_PLUGIN_DISABLE": "1"})):
        output = tmp_path / name
        file = tmp_path / "plain.yaml"
        plain = {"stage": "sft", "do_train": True, "dataset": "minicoin_scienceqa_train", "output_dir": str(output)}
        plain |= {"max_samples": 32, "max_steps": 2}
        file.write_text(yaml.safe_dump(keys | plain))
        result = command(file, **variables)
        assert result.returncode == 0, result.stderr[-3000:]
        adapters.append((output / "adapter_model.safetensors").read_bytes())
        config = read(output / "adapter_config.json")
        assert config["peft_type"] == "LORA"
    assert adapters[0] == adapters[1]


def test_a_sequence_ends_well_where_nobody_reads_what_it_says(recipe):
    code = """
import sys
from sefe_plugin.hosts.llamafactory import sequence
sequence.require_whole = sequence.require_trial = lambda *given: None
sequence.run_sequence = lambda recipe, host, keys, say, accept, **shown: [say("done") for _ in range(3)]
sequence.format_report = lambda report, title: f"{title}: {report}"
sys.exit(not sequence.intercept(sys.argv[1:]))
"""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        run = subprocess.run([sys.executable, "-c", code, recipe], stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (run.returncode, run.stderr) == (0, "")
