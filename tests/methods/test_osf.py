"""OSF: what stays orthogonal through training, what PEFT alone does not hold, and how it is carried on."""

import pytest
import torch
from osf_watch import Watch, parts
from peft import LoraConfig, OSFConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from sefe_plugin.hosts.llamafactory.adapter import merge_adapter
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.methods.callback import MethodCallback
from sefe_plugin.methods.osf import Osf
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe


TARGETS = ["q_proj", "v_proj", "down_proj"]
TEXT = torch.arange(5, 25)[None]


def build(base, **options):
    """A base with OSF's decomposition, as a host builds it."""
    method = Osf(options)
    with method.building(base):
        return get_peft_model(base, method.adapt(LoraConfig(target_modules=TARGETS))), method


def train_task(model, method, folder, optim="adamw_torch", driven=True, bf16=False):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(4, 64, (8,), generator=generator) for _ in range(8)]
    args = TrainingArguments(
        str(folder),
        max_steps=20,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        optim=optim,
        learning_rate=1e-3 if "adam" in optim else 0.1,
        weight_decay=0.1,
        bf16=bf16,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    watch = Watch()
    callbacks = [MethodCallback(method), watch] if driven else [watch]
    data = [{"input_ids": row, "labels": row} for row in rows]
    Trainer(model, args, train_dataset=data, callbacks=callbacks).train()
    assert watch.steps == 20
    return watch


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_and_weights_stay_orthogonal_to_what_is_kept(tiny_llama, tmp_path, optim, dtype):
    model, method = build(tiny_llama().to(dtype))
    start = [U.detach().clone() for _, _, U, _ in parts(model)]
    watch = train_task(model, method, tmp_path, optim, bf16=dtype == torch.bfloat16)
    assert 0 < watch.gradients < 1e-5
    assert 0 < watch.weights < 1e-5
    assert all((U - old).norm() > 1e-3 * old.norm() for (_, _, U, _), old in zip(parts(model), start, strict=True))


def test_peft_alone_holds_this_of_the_gradients_and_not_of_the_weights_under_adam(tiny_llama, tmp_path):
    model, method = build(tiny_llama())
    watch = train_task(model, method, tmp_path, driven=False)
    assert watch.gradients < 1e-5
    assert watch.weights > 1e-3


def test_peft_alone_does_not_hold_it_in_16_bit(tiny_llama, tmp_path):
    base = tiny_llama().to(torch.bfloat16)
    weight = base.model.layers[0].mlp.down_proj.weight.detach().float().clone()
    model = get_peft_model(base, OSFConfig(target_modules=TARGETS, effective_rank=0.3))
    layer = model.base_model.model.model.layers[0].mlp.down_proj
    put_together = layer._reconstruct_weight("default").float()
    assert (put_together - weight).norm() / weight.norm() > 1e-3
    assert train_task(model, None, tmp_path, "sgd", driven=False, bf16=True).gradients > 1e-4


def test_the_decomposition_adds_up_and_the_base_keeps_its_precision(tiny_llama):
    for dtype in (torch.float32, torch.bfloat16):
        base = tiny_llama().to(dtype)
        before = {name: p.detach().clone() for name, p in base.named_parameters()}
        model, _ = build(base, osf_kept=0.5)
        after = {name.replace(".base_layer", ""): p for name, p in model.base_model.model.named_parameters()}
        assert all(torch.equal(after[name], value) for name, value in before.items())
        for layer in model.modules():
            if hasattr(layer, "osf_svd_params"):
                assert layer._osf_U_high["default"].shape[1] == 8
                weight = layer.base_layer.weight.double()
                error = (layer._reconstruct_weight("default").double() - weight).norm() / weight.norm()
                assert error < 1e-5
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_not_changed_by_a_task_and_the_result_is_a_plain_model(tiny_llama, tmp_path, dtype):
    base = tiny_llama().to(dtype)
    before = {name: m.weight.detach().double() for name, m in base.named_modules() if isinstance(m, nn.Linear)}
    model, method = build(base)
    bf16 = dtype == torch.bfloat16
    train_task(model, method, tmp_path / "task", bf16=bf16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        trained = model.eval()(TEXT).logits
    whole = {name: layer._reconstruct_weight("default").double() for name, layer in model.named_modules()
             if hasattr(layer, "osf_svd_params")}  # fmt: skip
    model.save_pretrained(tmp_path / "adapter")
    merged = merge_adapter(model)
    assert {p.dtype for p in merged.parameters()} == {dtype}
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert loaded.dtype == dtype
    with torch.no_grad():
        error = (loaded(TEXT).logits.float() - trained.float()).norm() / trained.float().norm()
    assert error < (0.03 if bf16 else 1e-5)
    assert len(whole) == 6
    for name, weight in before.items():
        after = whole.get(f"base_model.model.{name}")
        if after is None:
            assert torch.equal(loaded.get_parameter(f"{name}.weight").double(), weight)
            continue
        U, S, V = torch.linalg.svd(weight, full_matrices=False)
        rank, change = int(min(weight.shape) * 0.3), (after - weight)
        assert change.norm() > 1e-3 * weight.norm()
        assert (U[:, :rank].T @ change).norm() < 1e-4 * change.norm()
        assert (change @ V[:rank].T).norm() < 1e-4 * change.norm()
        # an input along a kept direction is answered as before
        for v, u, s in zip(V[:rank], U[:, :rank].T, S[:rank], strict=True):
            torch.testing.assert_close(after @ v, s * u, rtol=1e-4, atol=1e-5)
    # the adapter on disk is the same model
    again = tiny_llama().to(dtype)
    with method.building(again):
        again = PeftModel.from_pretrained(again, tmp_path / "adapter")
    for name, layer in again.named_modules():
        if name in whole:
            torch.testing.assert_close(
                layer._reconstruct_weight("default").double(), whole[name], rtol=1e-4, atol=1e-5
            )


def test_the_kept_share_rises_with_the_tasks():
    def shares(tasks, **keys):
        return [Osf.start(keys, earlier)["osf_kept"] for earlier in range(tasks)]

    assert shares(3) == [0.3, 0.5, 0.7]
    assert shares(6) == [0.3, 0.5, 0.7, 0.9, 0.9, 0.9]
    assert shares(3, osf_kept=0.5, osf_rise=0.0) == [0.5, 0.5, 0.5]
    assert shares(3, osf_kept=0.1, osf_rise=0.1, osf_most=0.2) == [0.1, 0.2, 0.2]


def test_the_adapter_is_pefts_own_on_the_modules_of_the_recipe():
    config = Osf({"osf_kept": 0.7}).adapt(LoraConfig(target_modules="language.*q_proj", task_type="CAUSAL_LM"))
    assert type(config) is OSFConfig
    assert (config.effective_rank, config.target_modules, config.task_type) == (0.7, "language.*q_proj", "CAUSAL_LM")
    assert Osf({"osf_kept": 0.2}).adapt(config) is config  # one from disk
    # a recipe of LoRA may be included
    assert Osf.errors({"lora_rank": 64, "lora_alpha": 128}) == []
    assert "r" not in config.to_dict() and "lora_alpha" not in config.to_dict()


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"osf_kept": 1.0}, "`osf_kept` must be a share in (0, 1)"),
        ({"osf_rise": -0.1}, "`osf_rise` must be a share in [0, 1)"),
        ({"osf_kept": 0.5, "osf_most": 0.4}, "`osf_most` must be at least `osf_kept`, 0.5; got 0.4"),
        ({"loraplus_lr_ratio": 16.0}, "`loraplus_lr_ratio` cannot be combined with `cl_method: osf`"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "`deepspeed` cannot be combined with `cl_method: osf`"),
        ({"quantization_bit": 4}, "`quantization_bit` cannot be combined with `cl_method: osf`"),
        ({"pure_bf16": True}, "`pure_bf16` cannot be combined with `cl_method: osf`"),
        ({"use_dora": True}, "`use_dora` cannot be combined with `cl_method: osf`"),
        ({"additional_target": "lm_head"}, "`additional_target` cannot be combined with `cl_method: osf`"),
        ({"stacked_adapter": "x"}, "`stacked_adapter` cannot be combined with `cl_method: osf`"),
        ({"carry": "stack"}, "`carry` must be one of ('merge',) with `cl_method: osf`; got 'stack'."),
    ],
)
def test_recipes_that_cannot_work_are_refused_before_the_start(keys, error, tmp_path):
    tasks = [{"name": name, "dataset": "d", "test_dataset": "d", "scorer": "short_answer"} for name in "AB"]
    recipe = {"model_name_or_path": "x", "template": "llava", "cl_method": "osf", "output_dir": str(tmp_path)}
    with pytest.raises(RecipeError) as caught:
        load_recipe({**recipe, "tasks": tasks, **keys}, "recipe.yaml", host_keys(), check_data=False)
    assert any(error in found for found in caught.value.errors), caught.value.errors


def test_the_plan_knows_what_is_held(tiny_llama):
    from types import SimpleNamespace

    model, _ = build(tiny_llama(), osf_kept=0.5)
    layers = [layer for layer in model.modules() if hasattr(layer, "osf_svd_params")]
    held = sum(
        part["default"].nbytes
        for layer in layers
        for part in (layer._osf_U_high, layer._osf_S_high, layer._osf_V_high)
    )
    sizes = SimpleNamespace(matrices=[(layer.out_features, layer.in_features) for layer in layers], layers=2)
    memory = Osf.memory(sizes, {"osf_kept": 0.5}, 0)
    assert memory["kept directions"] == held
    kept_by_autograd = {}

    def keep(tensor):
        kept_by_autograd[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for layer in layers:
            layer(torch.zeros(1, layer.in_features, requires_grad=True))
    whole = sum(t.nbytes for place, t in kept_by_autograd.items() if place not in parameters and t.shape[0] > 1)
    once = Osf.memory(sizes, {"osf_kept": 0.5, "disable_gradient_checkpointing": True}, 0)["matrices put together"]
    assert once == whole
    assert memory["matrices put together"] == whole / 2
