"""Broken files that a run leaves for itself: key elements, adapters, manifest, steps, scores."""

import json

import torch
from fuzzing import broken, fuzzed, only, values
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from sefe_plugin.carry.stacking import attach_frozen, stack_adapters
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.methods.reglora import RegLoraConfig, find_reglora_model
from sefe_plugin.methods.reglora.codec import decode
from sefe_plugin.methods.reglora.files import read_key_elements
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.records import RunFolderError
from sefe_plugin.run.scores import Scores
from sefe_plugin.run.steps import steps_of


def build_llama():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=2, **sizes))


def _key_elements(tmp) -> bytes:
    file = tmp / "key_elements.safetensors"
    config = RegLoraConfig(r=2, target_modules=["q_proj", "v_proj"], reglora_key_ratio=0.1)
    find_reglora_model(get_peft_model(build_llama(), config)).save_key_elements(file)
    return file.read_bytes()


def _adapter(tmp) -> tuple[bytes, bytes]:
    model = get_peft_model(build_llama(), LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp)
    return (tmp / "adapter_config.json").read_bytes(), (tmp / "adapter_model.safetensors").read_bytes()


def _made(make):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return make(Path(folder))


KEY_ELEMENTS = _made(_key_elements)
CONFIG, WEIGHTS = _made(_adapter)
OPTIONS = json.dumps(
    {
        "reglora_weight": 1.0,
        "reglora_key_ratio": 0.1,
        "reglora_reduction": "official_mean",
        "reglora_selection": "top",
    }
).encode()
RECIPE = {"learning_rate": 1e-4, "per_device_train_batch_size": 2, "tasks": [{"name": "A"}, {"name": "B"}]}
MANIFEST = {"version": 2, "recipe": RECIPE, "complete": [{"name": "A", "folder": "1_A", "seconds": 1.5}]}
SCORES = {"A": {"accuracy": 50.0, "format": 100.0, "count": 4}}


@fuzzed(data=broken(KEY_ELEMENTS))
def test_key_elements_are_refused_or_unharmed(folder, data):
    file = folder / "key_elements.safetensors"
    file.write_bytes(data)
    with only(ValueError):
        read_key_elements(file)
        assert data == KEY_ELEMENTS  # whatever differs is noticed


@fuzzed(codes=st.lists(st.integers(0, 255), max_size=40), numel=st.integers(1, 5000))
def test_codes(folder, codes, numel):
    with only(ValueError):
        positions = decode(torch.tensor(codes, dtype=torch.uint8), numel)
        assert positions[-1] < numel


@fuzzed(data=broken(OPTIONS))
def test_options_beside_an_adapter(folder, data):
    (folder / "adapter_config.json").write_bytes(CONFIG)
    (folder / "reglora_config.json").write_bytes(data)
    with only(ValueError):
        RegLoraConfig.from_pretrained(str(folder))


@fuzzed(config=broken(CONFIG), weights=broken(WEIGHTS))
def test_adapters_to_stack(folder, config, weights):
    (folder / "adapter_config.json").write_bytes(config)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    with only(ValueError):
        stack_adapters([folder, folder], folder / "stacked")
    with only(ValueError):
        attach_frozen(LLAMA, folder, torch.float32)


LLAMA = build_llama()


@fuzzed(
    manifest=broken(json.dumps(MANIFEST).encode()),
    steps=broken(b'["trained", "scored"]'),
    scores=broken(json.dumps(SCORES).encode()),
)
def test_a_run_folder(folder, manifest, steps, scores):
    task = folder / "1_A"
    task.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(manifest)
    (task / "steps.json").write_bytes(steps)
    (task / "scores.json").write_bytes(scores)
    run = RunFolder(folder)
    with only(RunFolderError):
        run.read_manifest()
    with only(RunFolderError):
        run.open_run(RECIPE, host_keys())
    with only(RunFolderError):
        Scores(run, ["A", "B"]).matrices()
    with only(RunFolderError):
        assert isinstance(steps_of(task), list)


@fuzzed(manifest=values, recipe=values, complete=values, scores=values)
def test_a_manifest_of_any_structure(folder, manifest, recipe, complete, scores):
    (folder / "1_A").mkdir(exist_ok=True)
    (folder / "1_A" / "scores.json").write_text(json.dumps(scores))
    run = RunFolder(folder)
    for content in (manifest, {**MANIFEST, "recipe": recipe}, {**MANIFEST, "complete": complete}, MANIFEST):
        (folder / "manifest.json").write_text(json.dumps(content))
        with only(RunFolderError):
            run.open_run(RECIPE, host_keys())
        with only(RunFolderError):
            Scores(run, ["A", "B"]).matrices()
