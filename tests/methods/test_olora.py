"""O-LoRA: its penalty against float64, its fresh A, and what a higher weight does to the overlap."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

from sefe_plugin.files import ADAPTER_WEIGHTS_FILE
from sefe_plugin.methods.callback import MethodCallback
from sefe_plugin.methods.olora import PENALTY_LOG, OLora, penalty


WEIGHTS = {"olora_weight": 0.7, "olora_l2_weight": 0.3}
CONFIG = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}


def samples():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(4, 64, (8,), generator=generator) for _ in range(8)]
    return [{"input_ids": row, "labels": row} for row in rows]


def naive(a, b, past, weight, l2_weight):
    """The official code's loss, entry by entry."""
    total = sum(abs(float(row @ p)) for row in a for p in past) * weight
    return total + l2_weight * sum(sum(float(x) ** 2 for x in factor.flatten()) ** 0.5 for factor in (a, b))


@pytest.mark.parametrize("l2_weight", [0.0, 0.3])
def test_value_and_gradient_are_those_of_float64(l2_weight):
    torch.manual_seed(0)
    A, B, past = torch.randn(3, 7), torch.randn(5, 3), torch.randn(6, 7)
    value, grad_A, grad_B = penalty(A, B, past, 0.7, l2_weight)
    A64, B64 = (factor.double().requires_grad_() for factor in (A, B))
    loss = 0.7 * (past.double() @ A64.T).abs().sum() + l2_weight * (A64.norm() + B64.norm())
    loss.backward()
    assert float(value) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert float(loss.detach()) == pytest.approx(naive(A, B, past, 0.7, l2_weight), rel=1e-6)
    torch.testing.assert_close(grad_A.double(), A64.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad_B.double(), B64.grad if l2_weight else torch.zeros_like(B64), rtol=1e-5, atol=1e-6)


def test_gradient_is_0_where_nothing_is_to_be_penalised():
    A, B = torch.randn(3, 7), torch.zeros(5, 3)
    value, grad_A, grad_B = penalty(A, B, None, 0.5, 0.0)
    assert float(value) == 0 and not grad_A.any() and not grad_B.any()
    _, _, grad_B = penalty(A, B, None, 0.5, 0.3)
    assert not grad_B.any()


@pytest.fixture
def task(tmp_path, tiny_llama):
    """Train one task of a sequence, and return its adapter's file and its log."""

    def run(number, earlier, seed=0, steps=2, **options):
        method = OLora({**WEIGHTS, **options, "olora_adapters": [str(file) for file in earlier] or None})
        base = tiny_llama()
        torch.manual_seed(seed)  # as a host does before it builds the adapter
        model = get_peft_model(base, method.adapt(LoraConfig(**CONFIG)))
        folder = tmp_path / f"{number}_{seed}_{len(list(tmp_path.iterdir()))}"
        args = TrainingArguments(
            str(folder),
            max_steps=steps,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1,
        )
        trainer = Trainer(model, args, train_dataset=samples(), callbacks=[MethodCallback(method, earlier)])
        trainer.train()
        model.save_pretrained(folder)
        return folder / ADAPTER_WEIGHTS_FILE, trainer.state.log_history

    return run


def first_factors(file):
    return {name: value for name, value in load_file(file).items() if "lora_A" in name}


def overlap(first, second):
    return sum(float((first[name] @ second[name].T).abs().sum()) for name in first)


def test_every_task_draws_another_a_from_the_seed(task):
    first, _ = task(1, [], steps=1, olora_weight=0.0, olora_l2_weight=0.0)
    second, _ = task(2, [first], steps=1, olora_weight=0.0, olora_l2_weight=0.0)
    third, _ = task(3, [first, second], steps=1, olora_weight=0.0, olora_l2_weight=0.0)
    again, _ = task(2, [first], steps=1, olora_weight=0.0, olora_l2_weight=0.0)
    other, _ = task(2, [first], seed=1, steps=1, olora_weight=0.0, olora_l2_weight=0.0)
    one, two, three, same, differ = map(first_factors, (first, second, third, again, other))
    for name in one:
        assert torch.equal(two[name], same[name])
        for a, b in ((one, two), (two, three), (one, three), (two, differ)):
            assert abs(torch.cosine_similarity(a[name].flatten(), b[name].flatten(), dim=0)) < 0.5, name


def test_the_first_task_has_no_overlap_and_later_ones_all_of_it(task):
    first, log = task(1, [], olora_l2_weight=0.0)
    assert [entry[PENALTY_LOG] for entry in log if "loss" in entry] == [0.0, 0.0]
    second, _ = task(2, [first], olora_l2_weight=0.0, olora_weight=0.0)
    _, log = task(3, [first, second], olora_l2_weight=0.0, steps=1)
    model_A = first_factors(task(3, [first, second], steps=1, olora_weight=0.0, olora_l2_weight=0.0)[0])
    # before the step: undone by the learning rate it is close to what it is after
    expected = 0.7 * (overlap(model_A, first_factors(first)) + overlap(model_A, first_factors(second)))
    logged = next(entry[PENALTY_LOG] for entry in log if "loss" in entry)
    assert logged == pytest.approx(expected, rel=0.1)


def test_the_overlap_falls_as_the_weight_rises(task):
    first, _ = task(1, [], steps=4, olora_l2_weight=0.0)
    left = [
        overlap(
            first_factors(task(2, [first], steps=12, olora_weight=weight, olora_l2_weight=0.0)[0]),
            first_factors(first),
        )
        for weight in (0.0, 0.1, 10.0)
    ]
    assert left[0] > left[1] > left[2]


def test_adapters_of_other_matrices_are_refused(task, tmp_path):
    first, _ = task(1, [], steps=1)
    weights = {name: value for name, value in load_file(first).items() if "q_proj" not in name}
    other = tmp_path / "other.safetensors"
    save_file(weights, other)
    with pytest.raises(ValueError, match=r"changes other matrices than this task does, .*q_proj first"):
        task(2, [other], steps=1)


def test_what_a_task_has_left_must_be_whole(task):
    first, _ = task(1, [], steps=1)
    assert OLora.check_file(first.parent, {}) == "whole"
    first.write_bytes(first.read_bytes()[:-10])
    with pytest.raises(ValueError, match="missing, cut short or damaged"):
        OLora.check_file(first.parent, {})


def test_absent_files_and_engines_without_whole_matrices_are_refused():
    errors = OLora.errors({"olora_adapters": "none, other", "fsdp": "full_shard", "use_unsloth": True})
    parts = ("file none does not", "file other does not", "`use_unsloth`", "`fsdp`")
    assert all(part in error for error, part in zip(errors, parts, strict=True))
    for key in ("use_dora", "pissa_init"):
        (error,) = OLora.errors({key: True})
        assert error.startswith(f"`{key}` cannot be combined with `cl_method: olora`")
    assert OLora.errors({"deepspeed": {"zero_optimization": {"stage": 3}}, "quantization_bit": 4}) == []
