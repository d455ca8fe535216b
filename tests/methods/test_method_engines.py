"""Every method on every engine: it trains as in one process, or the engine is refused by name.

The table of docs/methods.md is what this file finds. One process in full precision is what the engines are compared
with: DDP and DeepSpeed's ZeRO-1, 2 and 3 in two processes, and a base in 4 bit in one.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from osf_watch import Watch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_available, unset_hf_deepspeed_config

from sefe_plugin.files import ADAPTER_WEIGHTS_FILE
from sefe_plugin.methods import methods
from sefe_plugin.methods.callback import MethodCallback
from sefe_plugin.methods.gradients import gathered
from sefe_plugin.methods.keeplora.method import KeepLora
from sefe_plugin.methods.lota.masks import load_masks, unpack


ZERO = {f"zero{stage}": Path(__file__).parents[1] / "deepspeed" / f"zero{stage}.json" for stage in (1, 2, 3)}
OPTIONS = {
    "lora": {},
    "full": {},
    "reglora": {"reglora_weight": 100.0, "reglora_key_ratio": 0.1},
    "olora": {"olora_weight": 0.5, "olora_l2_weight": 0.1},
    "ewc": {"ewc_weight": 50.0, "ewc_samples": 8},
    "fwd_prompt": {"fwd_prompt_pool": 4, "fwd_prompt_length": 2, "fwd_prompt_top": 2, "fwd_prompt_energy": 0.6},
    "keeplora": {"keeplora_data": 1.0, "keeplora_weight_energy": 0.4, "keeplora_feature_energy": 0.7},
    "lota": {"lota_ratio": 0.2},
    "moelora": {"moelora_experts": 2},
    "osf": {"osf_kept": 0.3},
}
#: What a method adds to the gradients has this weight.
WEIGHTS = {
    "reglora": ["reglora_weight"],
    "olora": ["olora_weight", "olora_l2_weight"],
    "ewc": ["ewc_weight"],
}
#: Method and engine -> the keys that are refused, and a part of the reason.
REFUSED = {
    ("ewc", "zero3"): ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "ZeRO-3"),
    **{
        ("fwd_prompt", f"zero{stage}"): ({"deepspeed": {"zero_optimization": {"stage": stage}}}, "Train with DDP")
        for stage in (1, 2, 3)
    },
    ("full", "4bit"): ({"quantization_bit": 4}, "quantized weights cannot be trained"),
    ("keeplora", "zero3"): ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "ZeRO-3"),
    ("keeplora", "4bit"): ({"quantization_bit": 4}, "quantized again"),
    ("lota", "4bit"): ({"quantization_bit": 4}, "quantized weights cannot be trained"),
    **{
        ("osf", f"zero{stage}"): ({"deepspeed": {"zero_optimization": {"stage": stage}}}, "kept directions in 16 bit")
        for stage in (1, 2, 3)
    },
}
#: Short, and in no other test.
SHORT = [
    *((name, "ddp") for name in ("olora", "ewc", "fwd_prompt", "keeplora", "lota", "moelora", "osf")),
    ("olora", "4bit"),
]
SAMPLES_PER_STEP = 4  # over all processes
RATE = 0.1

needs_deepspeed = pytest.mark.skipif(not is_deepspeed_available(), reason="needs deepspeed")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


def cases(names, engines):
    """All pairs that are not refused; those of `SHORT` are in the default run."""
    pairs = [(name, engine) for name in names for engine in engines if (name, engine) not in REFUSED]
    return [pytest.param(*pair, marks=marks(*pair)) for pair in pairs]


def marks(name, engine):
    needs = [needs_deepspeed] if engine in ZERO else [needs_bitsandbytes] if engine == "4bit" else []
    return needs if (name, engine) in SHORT else [*needs, pytest.mark.slow]


def samples(seed):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(4, 64, (8,), generator=generator) for _ in range(8)]
    return [{"input_ids": row, "labels": row} for row in rows]


def build(method, engine, base, number):
    """Build what is trained: a base with an adapter whose B is not 0 (but KeepLoRA's), or the model itself."""
    quantized = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)}
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, **(quantized if engine == "4bit" else {}))
    if method.parametrisation == "full":
        return model
    torch.manual_seed(number)
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
    with method.building(model):
        model = get_peft_model(model, method.adapt(lora))
    generator = torch.Generator().manual_seed(number)
    for name, parameter in model.named_parameters():
        if "lora_" in name and not ("lora_B" in name and isinstance(method, KeepLora)):
            with gathered(parameter), torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.1 if "lora_B" in name else 0.3))
    return model


def train(name, engine, folder, number, earlier=(), steps=3, data=None, optim="sgd", bf16=False, rate=1e-3, **options):
    """Train one task of a sequence; leave the weights before and after it, and its method's file.

    Returns:
        The method's file; None if it leaves none.
    """
    base, folder = Path(folder, "base"), Path(folder, name, engine, str(number))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    args = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=SAMPLES_PER_STEP // processes,
        max_grad_norm=0.0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        deepspeed=str(ZERO[engine]) if engine in ZERO else None,
        optim=optim,
        learning_rate=RATE if optim == "sgd" else rate,
        bf16=bf16,
        lr_scheduler_type="constant",
        ddp_find_unused_parameters=False,
    )
    method = methods()[name]({**OPTIONS[name], **options})
    model = build(method, engine, base, data or number)
    before = weights_of(model)
    watch = Watch()
    callbacks = [MethodCallback(method, earlier), watch]
    trainer = Trainer(model, args, train_dataset=samples(data or number), callbacks=callbacks)
    trainer.train()
    assert (watch.gradients > 0) == (name == "osf")
    assert max(watch.gradients, watch.weights) < 1e-5
    after = kept_weights_of(model) if bf16 else weights_of(model)
    if trainer.is_world_process_zero():
        torch.save((before, after), folder / "weights.pt")
        if method.parametrisation == "lora":  # as a host saves it
            save_file({key.replace(".default.", "."): v for key, v in after.items()}, folder / ADAPTER_WEIGHTS_FILE)
    trainer.accelerator.wait_for_everyone()
    AcceleratorState._reset_state(reset_partial_state=True)
    unset_hf_deepspeed_config()
    return folder / method.file if method.file else None


def weights_of(model):
    """What is trained, whole."""
    weights = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with gathered(parameter):
                weights[name] = parameter.detach().float().clone()
    return weights


def kept_weights_of(model):
    """What DeepSpeed's optimizer holds of what is trained, in fp32."""
    from deepspeed.utils import safe_get_full_fp32_param

    return {name: safe_get_full_fp32_param(p).clone() for name, p in model.named_parameters() if p.requires_grad}


def train_all(name, engine, folder):
    """Train two tasks, and what tells more of the method.

    Of a method that adds to gradients: one step with it and one without, after the first task as one process left it.
    Of LoTA, whose first training here is a calibration: a masked one with Adam, too, and under DeepSpeed a calibration
    in bf16 whose steps are smaller than what bf16 tells apart.
    """
    first = train(name, engine, folder, 1) if engine != "4bit" else None
    if name == "lota":
        train(name, engine, folder, 2, lota_mask=str(first))
        train(name, engine, folder, 3, lota_mask=str(first), optim="adamw_torch")
        if engine in ZERO:
            train(name, engine, folder, 4, optim="adamw_torch", bf16=True, rate=1e-6)
        return
    if engine != "4bit":
        train(name, engine, folder, 2, [first] if first else [])
    if name in WEIGHTS:
        left = [Path(folder, name, "one", "1", methods()[name].file)]
        train(name, engine, folder, 3, left, steps=1)
        train(name, engine, folder, 4, left, steps=1, data=3, **dict.fromkeys(WEIGHTS[name], 0.0))


def main(folder, *asked):
    """Train methods on engines, in one group of processes; started by `torchrun`."""
    for name, engine in (pair.split("/") for pair in asked):
        train_all(name, engine, folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_llama, run_in_two, request):
    """The folder in which the same trainings have run in one process and on the engines asked for."""
    folder = tmp_path_factory.mktemp("engines")
    tiny_llama().save_pretrained(folder / "base")
    items = [item.callspec.params for item in request.session.items if item.path == request.path]
    asked = sorted({(item["name"], item["engine"]) for item in items} - REFUSED.keys())
    for name in sorted({name for name, _ in asked}):
        train_all(name, "one", folder)
    alone = [(name, engine) for name, engine in asked if engine == "4bit"]
    for name, engine in alone:
        train_all(name, engine, folder)
    together = sorted(set(asked) - set(alone), key=lambda pair: pair[1])
    run_in_two(__file__, str(folder), *map("/".join, together))
    return folder


def weights(runs, name, engine, number):
    """What was trained, before and after."""
    return torch.load(runs / name / engine / str(number) / "weights.pt", weights_only=True)


@pytest.mark.parametrize(("name", "engine"), cases(OPTIONS, ["ddp", *ZERO]))
def test_every_engine_leaves_the_weights_of_one_process(runs, name, engine):
    for number in (1, 2):
        (start, expected), (ours_start, ours) = (weights(runs, name, place, number) for place in ("one", engine))
        torch.testing.assert_close(ours_start, start, rtol=0, atol=0)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def added(runs, name, engine):
    """What a method added to the gradients of a step, told by the weights of SGD with it and without it."""
    (start, with_it), (same, without) = (weights(runs, name, engine, number) for number in (3, 4))
    assert all(torch.equal(value, same[key]) for key, value in start.items())
    return start, {key: (without[key] - value) / RATE for key, value in with_it.items()}


@pytest.mark.parametrize(("name", "engine"), cases(WEIGHTS, ["ddp", *ZERO, "4bit"]))
def test_what_a_method_adds_is_the_same_on_every_engine(runs, name, engine):
    _, expected = added(runs, name, "one")
    _, ours = added(runs, name, engine)
    for key, value in expected.items():
        # weights of about 0.3 hold a step of 1 % of them to 1e-5
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5 * max(1.0, float(value.abs().max())))
    assert all(value.any() for value in expected.values())


@pytest.mark.parametrize(("name", "engine"), cases(["olora"], ["ddp", *ZERO, "4bit"]))
def test_what_olora_adds_is_the_gradient_of_its_penalty_in_float64(runs, name, engine):
    start, ours = added(runs, name, engine)
    past = load_file(runs / name / "one" / "1" / ADAPTER_WEIGHTS_FILE)
    factors = {key: value.double().requires_grad_() for key, value in start.items()}
    total = 0.0
    for key, factor in factors.items():
        total = total + OPTIONS[name]["olora_l2_weight"] * factor.square().sum().sqrt()
        if "lora_A" in key:
            earlier = past[key.replace(".default.", ".")].double()
            for row in earlier:
                total = total + OPTIONS[name]["olora_weight"] * (factor * row).sum(1).abs().sum()
    total.backward()
    for key, factor in factors.items():
        torch.testing.assert_close(ours[key].double(), factor.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "engine"), cases(["lota"], ["ddp", *ZERO]))
def test_with_adam_lota_moves_what_its_mask_marks_and_nothing_else_by_a_bit(runs, name, engine):
    before, after = weights(runs, name, engine, 3)
    masks, _ = load_masks(runs / name / engine / "1" / "mask.safetensors")
    moved = 0
    for key, value in before.items():
        may_move = unpack(masks[key], value.shape) if key in masks else torch.zeros_like(value, dtype=torch.bool)
        assert torch.equal(value[~may_move], after[key][~may_move]), key
        moved += int((value != after[key]).sum())
    marked = sum(int(unpack(bits, before[key].shape).sum()) for key, bits in masks.items())
    assert marked > 0 and moved > 0.9 * marked


@pytest.mark.parametrize(("name", "engine"), cases(["lota"], ZERO))
def test_in_bf16_lota_marks_the_largest_changes_of_what_the_optimizer_holds(runs, name, engine):
    before, after = weights(runs, name, engine, 4)
    masks, _ = load_masks(runs / name / engine / "4" / "mask.safetensors")
    changes = {key: (after[key].double() - before[key].bfloat16().double()).abs() for key in masks}
    ours = {key: unpack(bits, changes[key].shape) for key, bits in masks.items()}
    everywhere = torch.cat([change.flatten() for change in changes.values()])
    count = int(OPTIONS[name]["lota_ratio"] * len(everywhere))
    assert sum(int(mask.sum()) for mask in ours.values()) == count
    least = everywhere.sort(descending=True).values[count - 1]
    assert least > 0 and all((changes[key][mask] >= least).all() for key, mask in ours.items())
    rounded = [after[key].bfloat16() != before[key].bfloat16() for key in masks]
    assert sum(int(change.sum()) for change in rounded) < count / 2  # so those in bf16 could not tell


@pytest.mark.parametrize(("name", "engine"), REFUSED)
def test_an_engine_that_a_method_cannot_work_with_is_refused(name, engine):
    keys, reason = REFUSED[name, engine]
    errors = methods()[name].errors(keys)
    assert any(reason in error for error in errors), errors


if __name__ == "__main__":
    main(*sys.argv[1:])
