"""A merge part by part from disk: the very files of the host's export, or the host's export itself."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_families import write_family
from transformers import AutoModelForImageTextToText

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.carry import shards
from sefe_plugin.methods.reglora import RegLoraConfig


TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def write_base(folder, dtype, family=None, shard="5GB"):
    """A tiny model in some precision: mini-CoIN's, or one whose files have a hub's names."""
    folder.mkdir()
    if family:
        write_family(family, folder)
        weights = load_file(folder / "model.safetensors")
        save_file({k: v.to(dtype) for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        config = {k: v | {"dtype": str(dtype)[6:]} if isinstance(v, dict) else v for k, v in config.items()}
        (folder / "config.json").write_text(json.dumps(config | {"dtype": str(dtype)[6:]}))
        return folder
    for file in BASE.iterdir():
        if file.name != "model.safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


def write_adapter(base, folder, kind=LoraConfig, dtype=torch.float32, **options):
    """An adapter with random factors, as a training would leave it."""
    options = {"r": 3, "lora_alpha": 5, "target_modules": r".*language_model.*(q|v|down)_proj", **options}
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(base), kind(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(std=0.1).copy_(parameter.to(dtype))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def export(loaded_host, monkeypatch):
    """Runs the host's export; tells which models were loaded whole."""
    from llamafactory.train import tuner

    from sefe_plugin.hosts.llamafactory import merging

    real, with_patch = tuner.load_model.__wrapped__, tuner.load_model

    def run(base, adapter, folder, on_disk=True):
        run.loaded = 0

        def load(*args, **kwargs):
            model = real(*args, **kwargs)
            run.loaded += next(model.parameters()).device.type != "meta"
            return model

        def patched(tokenizer, model_args, finetuning_args):
            return merging.load_to_export(load, tokenizer, model_args, finetuning_args)

        monkeypatch.setattr(tuner, "load_model", patched if on_disk else load)
        keys = {"model_name_or_path": str(base), "adapter_name_or_path": str(adapter), "export_dir": str(folder)}
        keys |= {"template": "llava", "finetuning_type": "lora", "cl_method": "lora", "export_device": "cpu"}
        tuner.export_model(keys)
        return {file.name: file.read_bytes() for file in folder.iterdir()}

    assert with_patch.__code__.co_filename.endswith("patches.py")
    return run


@pytest.mark.parametrize(
    ("dtype", "family", "kind"),
    [
        *((dtype, family, LoraConfig) for dtype in TYPES for family in (None, "LLaVA-1.5")),
        ("float32", None, RegLoraConfig),
    ],
)
def test_the_files_are_those_of_the_hosts_export(export, tmp_path, dtype, family, kind):
    base = write_base(tmp_path / "base", TYPES[dtype], family)
    adapter = write_adapter(base, tmp_path / "adapter", kind)
    expected = export(base, adapter, tmp_path / "expected", on_disk=False)
    assert export.loaded == 1
    ours = export(base, adapter, tmp_path / "ours")
    assert export.loaded == 0
    assert ours.keys() == expected.keys()
    for name, content in expected.items():
        assert ours[name] == content, name
    models = [AutoModelForImageTextToText.from_pretrained(place) for place in (base, tmp_path / "ours")]
    before, after = (model.state_dict() for model in models)
    assert {value.dtype for value in after.values()} == {TYPES[dtype]}
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all("language_model" in name and "_proj" in name for name in changed)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_scales_and_stored_factors_are_those_of_peft(export, tmp_path, rslora, stored):
    base = write_base(tmp_path / "base", torch.bfloat16)
    adapter = write_adapter(base, tmp_path / "adapter", dtype=stored, use_rslora=rslora)
    if stored != torch.float32:
        file = adapter / "adapter_model.safetensors"
        save_file({k: v.to(stored) for k, v in load_file(file).items()}, file, {"format": "pt"})
    expected = export(base, adapter, tmp_path / "expected", on_disk=False)
    assert export(base, adapter, tmp_path / "ours") == expected
    assert export.loaded == 0


@pytest.mark.parametrize("family", ["Qwen2-VL", "Qwen2.5-VL", "Gemma 3"])
def test_other_families_are_the_same_too(export, tmp_path, family):
    """Among them models whose head is tied to their embeddings."""
    base = write_base(tmp_path / "base", torch.float32, family)
    adapter = write_adapter(base, tmp_path / "adapter")
    expected = export(base, adapter, tmp_path / "expected", on_disk=False)
    assert export(base, adapter, tmp_path / "ours") == expected


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"modules_to_save": ["multi_modal_projector"]},
        {"rank_pattern": {"q_proj": 2}},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_more_than_b_a_goes_the_hosts_way(export, tmp_path, options):
    base = write_base(tmp_path / "base", torch.float32)
    adapter = write_adapter(base, tmp_path / "adapter", **options)
    expected = export(base, adapter, tmp_path / "expected", on_disk=False)
    assert export(base, adapter, tmp_path / "ours") == expected
    assert export.loaded == 1


def test_a_base_in_another_precision_than_it_says_goes_the_hosts_way(export, tmp_path):
    base = write_base(tmp_path / "base", torch.float32)
    adapter = write_adapter(base, tmp_path / "adapter")
    file = base / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(file).items()}, file, {"format": "pt"})
    expected = export(base, adapter, tmp_path / "expected", on_disk=False)
    assert export(base, adapter, tmp_path / "ours") == expected
    assert export.loaded == 1


def test_files_that_no_matrix_touches_are_links_within_a_run(export, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "FILE_BYTES", 500_000)
    base = write_base(tmp_path / "base", torch.float32, shard="1MB")
    run = tmp_path / "run"
    last, states = base, []
    for task in ("1_a", "2_b", "3_c"):
        adapter = write_adapter(last, run / task)
        export(last, adapter, run / task / "merged")
        assert export.loaded == 0
        whole = export(last, adapter, tmp_path / f"whole_{task}", on_disk=False)
        last = run / task / "merged"
        state, expected = (
            AutoModelForImageTextToText.from_pretrained(place).state_dict()
            for place in (last, tmp_path / f"whole_{task}")
        )
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)
        assert json.loads(whole["config.json"]) == json.loads((last / "config.json").read_text())
        states.append({file.name: file.stat() for file in last.glob("*.safetensors")})
    first, second, third = states
    assert all(file.stat().st_nlink == 1 for file in base.glob("*.safetensors"))  # nothing of a user's base
    linked = {name for name in second if second[name].st_ino == first[name].st_ino}
    assert linked and linked < second.keys()
    assert {name for name in third if third[name].st_ino == second[name].st_ino} == linked
    index = json.loads((last / "model.safetensors.index.json").read_text())
    for name, file in index["weight_map"].items():
        is_adapted = "language_model" in name and any(f"{part}_proj" in name for part in ("q", "v", "down"))
        assert (file in linked) != is_adapted, name
    before = {name: (run / "1_a" / "merged" / name).read_bytes() for name in linked}
    export(run / "2_b" / "merged", run / "3_c", run / "3_c" / "again")  # a file is made anew, never written in place
    assert {name: (run / "1_a" / "merged" / name).read_bytes() for name in linked} == before


def test_a_file_that_cannot_be_linked_is_copied(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(shards.os, "link", refuse)
    (tmp_path / "a").write_bytes(b"weights")
    shards._link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"weights"
    assert (tmp_path / "b").stat().st_ino != (tmp_path / "a").stat().st_ino
