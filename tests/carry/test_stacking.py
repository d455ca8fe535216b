"""Stacked adapters: their sum, what plain PEFT makes of it, and the same kept frozen in a base."""

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from sefe_plugin.carry.stacking import attach_frozen, stack_adapters


TARGETS = ["q_proj", "down_proj"]


@pytest.fixture
def adapters(tmp_path, tiny_llama):
    """Three trained-looking adapters of one base, of different ranks and scales; the last trains the head too."""
    folders = []
    for i, options in enumerate(({"r": 2, "lora_alpha": 4}, {"r": 3, "lora_alpha": 5}, {"r": 4, "use_rslora": True})):
        config = LoraConfig(target_modules=TARGETS, lora_dropout=0.1, **options)
        if i == 2:
            config.modules_to_save = ["lm_head"]
        model = get_peft_model(tiny_llama(), config)
        torch.manual_seed(i)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.2)
        folders.append(tmp_path / f"task{i}")
        model.save_pretrained(folders[-1])
    return folders


def merged_one_by_one(base, adapters):
    """The base in float64 with every adapter merged into it by PEFT."""
    model = base.double()
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).double().merge_and_unload()
    return model.eval()


INPUT = torch.arange(4, 20)[None]


def test_stacked_adapter_in_plain_peft_is_all_adapters_merged(adapters, tiny_llama, tmp_path):
    stack_adapters(adapters[:2], tmp_path / "two")
    stack_adapters([tmp_path / "two", adapters[2]], tmp_path / "three")
    model = PeftModel.from_pretrained(tiny_llama().double(), tmp_path / "three", autocast_adapter_dtype=False).double()
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_rslora) == (9, 9, False)
    expected = merged_one_by_one(tiny_llama(), adapters)(INPUT).logits
    # the factors of the saved adapters are fp32, and so is their product with the scale
    assert (model.eval()(INPUT).logits - expected).abs().max() < 1e-5 * expected.abs().max()


def test_frozen_adapter_gives_the_same_and_leaves_the_base_as_it_is(adapters, tiny_llama, tmp_path):
    stack_adapters(adapters, tmp_path / "stacked")
    base = tiny_llama().double()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    attach_frozen(base, tmp_path / "stacked", torch.float64)
    assert base.state_dict().keys() == before.keys()
    changed = {name for name, value in base.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"lm_head.weight"}  # trained as a whole by the last adapter
    expected = merged_one_by_one(tiny_llama(), adapters)(INPUT).logits
    assert (base.eval()(INPUT).logits - expected).abs().max() < 1e-5 * expected.abs().max()


def test_new_adapter_trains_on_top_and_the_frozen_one_gets_no_gradient(adapters, tiny_llama, tmp_path):
    stack_adapters(adapters[:2], tmp_path / "stacked")
    base = tiny_llama()
    attach_frozen(base, tmp_path / "stacked", torch.float32)
    expected = base(INPUT).logits
    model = get_peft_model(base, LoraConfig(r=2, target_modules=TARGETS))
    assert torch.equal(model(INPUT).logits, expected)  # the new B is 0
    model(INPUT, labels=INPUT).loss.backward()
    assert all(p.grad is not None and ".lora_" in n for n, p in model.named_parameters() if p.requires_grad)
    assert not any(buffer.requires_grad for buffer in model.buffers())


def test_gradient_through_the_frozen_adapter_is_that_of_the_merged_base(adapters, tiny_llama, tmp_path):
    stack_adapters(adapters[:2], tmp_path / "stacked")
    stacked = tiny_llama().double()
    attach_frozen(stacked, tmp_path / "stacked", torch.float64)
    merged = merged_one_by_one(tiny_llama(), adapters[:2])
    for model in (stacked, merged):
        model.requires_grad_(True).eval()(INPUT, labels=INPUT).loss.backward()
    ours, theirs = (model.model.embed_tokens.weight.grad for model in (stacked, merged))
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_adapters_of_different_matrices_are_refused(adapters, tiny_llama, tmp_path):
    other = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["k_proj"]))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="change different matrices"):
        stack_adapters([adapters[0], tmp_path / "other"], tmp_path / "stacked")
    assert not (tmp_path / "stacked").exists()


def test_modules_trained_whole_are_those_of_the_last_task_that_trained_them(adapters, tiny_llama, tmp_path):
    stack_adapters([adapters[2], adapters[0]], tmp_path / "stacked")  # the head was trained by the first
    model = PeftModel.from_pretrained(tiny_llama().double(), tmp_path / "stacked", autocast_adapter_dtype=False)
    assert list(model.peft_config["default"].modules_to_save) == ["lm_head"]
    expected = merged_one_by_one(tiny_llama(), [adapters[2], adapters[0]])(INPUT).logits
    assert (model.double().eval()(INPUT).logits - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("name", "other"), [("embed_tokens", "lm_head"), ("lm_head", "embed_tokens")])
def test_whole_modules_that_are_tied_in_the_base_are_refused(tiny_llama, tmp_path, name, other):
    config = LoraConfig(r=2, target_modules=TARGETS, modules_to_save=[name])
    get_peft_model(tiny_llama(), config).save_pretrained(tmp_path / "task")
    stack_adapters([tmp_path / "task"], tmp_path / "stacked")
    base = tiny_llama(seed=1)
    base.lm_head.weight = base.model.embed_tokens.weight
    before = base.lm_head.weight.clone()
    with pytest.raises(
        ValueError, match=rf"stacked: \S*{name}.weight .* tied to \S*{other}.weight.*additional_target"
    ):
        attach_frozen(base, tmp_path / "stacked", torch.float32)
    assert torch.equal(base.lm_head.weight, before)


@pytest.mark.parametrize(("target", "tensor"), [("embed_tokens", "lora_embedding_A"), ("conv", "lora_A.weight")])
def test_matrices_of_other_than_linear_layers_are_refused(tiny_llama, tmp_path, target, tensor):
    base = tiny_llama()
    base.model.conv = torch.nn.Conv2d(3, 4, 2)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", target])).save_pretrained(tmp_path / "task")
    with pytest.raises(ValueError, match=rf"task: only .* linear layers .* model.{target}.{tensor},.*`lora_target`"):
        stack_adapters([tmp_path / "task"], tmp_path / "stacked")
    assert not (tmp_path / "stacked").exists()


@pytest.mark.parametrize("change", [{"use_dora": True}, {"init_lora_weights": "pissa_niter_16"}])
def test_adapters_that_are_no_plain_product_are_refused(adapters, tmp_path, change):
    file = adapters[1] / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match="task1: DoRA and PiSSA do not add B A to the base"):
        stack_adapters(adapters[:2], tmp_path / "stacked")
    assert not (tmp_path / "stacked").exists()


def test_scales_of_single_matrices_are_refused(adapters, tmp_path):
    file = adapters[1] / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"alpha_pattern": {"q_proj": 3}}))
    with pytest.raises(ValueError, match="alpha_pattern"):
        stack_adapters(adapters, tmp_path / "stacked")


def test_only_stacked_adapters_of_this_base_are_attached(adapters, tiny_llama, tmp_path):
    with pytest.raises(ValueError, match="its scale is not 1"):
        attach_frozen(tiny_llama(), adapters[0], torch.float32)
    stack_adapters(adapters[:1], tmp_path / "stacked")
    smaller = tiny_llama()
    del smaller.model.layers[1]
    with pytest.raises(ValueError, match=r"model\.layers\.1\..*which the model has not"):
        attach_frozen(smaller, tmp_path / "stacked", torch.float32)


def test_scale_of_rslora_is_alpha_over_root_r(adapters, tmp_path):
    from safetensors.torch import load_file

    stack_adapters(adapters[2:], tmp_path / "stacked")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    ours, theirs = (load_file(f / "adapter_model.safetensors")[key] for f in (tmp_path / "stacked", adapters[2]))
    assert torch.allclose(ours, theirs * 8 / math.sqrt(4))  # alpha is 8 by default
