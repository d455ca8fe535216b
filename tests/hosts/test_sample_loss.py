"""A loss that weighs samples, not tokens: its value, its gradient, and one trajectory on every engine."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import Trainer, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_available, unset_hf_deepspeed_config

from sefe_plugin.hosts.llamafactory.sample_loss import sample_loss, sample_weighted
from sefe_plugin.methods.gradients import gathered
from sefe_plugin.recipe.combinations import key_value_errors


ZERO2 = Path(__file__).parents[1] / "deepspeed" / "zero2.json"
VOCABULARY = 11


def naive_loss(logits, labels, count):
    """The definition, one token at a time, in float64."""
    total = 0.0
    for row, targets in zip(logits.double(), labels, strict=True):
        losses = [-torch.log_softmax(row[i - 1], 0)[targets[i]] for i in range(1, len(targets)) if targets[i] != -100]
        total = total + (sum(losses) / len(losses) if losses else 0.0)
    return total / count


def batch():
    """Answers of 1, 6, 0 and 3 tokens; the first token of a row has no one to foretell it and never counts."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 8, VOCABULARY, generator=generator)
    labels = torch.full((4, 8), -100)
    labels[0, 0] = 3
    for row, length in enumerate((1, 6, 0, 3)):
        labels[row, 8 - length :] = torch.randint(0, VOCABULARY, (length,), generator=generator)
    return logits, labels


@pytest.mark.parametrize("count", [None, 7])
def test_value_and_gradient_are_those_of_the_definition(count):
    logits, labels = batch()
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = sample_loss({"logits": ours}, labels, count)
    expected = naive_loss(theirs, labels, count or 3)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-8)


def test_the_example_of_the_docstring():
    """Losses 1 and 3; 0, 0, 0 and 1: made by logits whose normaliser is known."""
    losses = torch.tensor([[0.0, 0.0, 1.0, 3.0], [1e-9, 1e-9, 1e-9, 1.0]])
    # two words: the right one has probability exp(-loss)
    right = torch.exp(-losses)
    logits = torch.stack([right.log(), (1 - right).clamp(min=1e-30).log()], dim=-1)
    logits = torch.cat([logits, torch.zeros(2, 1, 2)], dim=1)  # what comes after the last token
    labels = torch.tensor([[-100, -100, -100, 0, 0], [-100, 0, 0, 0, 0]])
    assert sample_loss({"logits": logits}, labels).item() == pytest.approx((2 + 0.25) / 2, abs=1e-5)


def samples():
    generator = torch.Generator().manual_seed(0)
    rows = []
    for length in (2, 9, 4, 7, 3, 8, 2, 6):
        ids = torch.randint(4, 64, (10,), generator=generator)
        labels = ids.clone()
        labels[: 10 - length] = -100
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def train(folder, build, batch_size, engine="ddp"):
    """Train a tiny Llama three epochs, four samples a step; return its losses and weights."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    args = TrainingArguments(
        str(folder),
        num_train_epochs=3,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=4 // batch_size // processes,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        deepspeed=str(ZERO2) if engine == "zero2" else None,
        optim="sgd",
        learning_rate=0.5,
        lr_scheduler_type="constant",
    )
    model = build()
    trainer = sample_weighted(Trainer)(model, args, train_dataset=samples())
    trainer.train()
    weights = {}
    for name, parameter in model.named_parameters():
        with gathered(parameter):
            weights[name] = parameter.detach().float().clone()
    logs = torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    return {"logs": logs, "weights": weights, "first": trainer.is_world_process_zero()}


def main(folder, *engines):
    """Train on every engine with two processes."""
    from conftest import build_llama

    for engine in engines:
        result = train(folder, build_llama, 1, engine)
        if result.pop("first"):
            torch.save(result, Path(folder, f"{engine}.pt"))
        AcceleratorState._reset_state(reset_partial_state=True)
        unset_hf_deepspeed_config()


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory, tiny_llama):
    return train(tmp_path_factory.mktemp("whole"), tiny_llama, 4)


def assert_same(result, expected):
    assert len(expected["logs"]) == 6
    torch.testing.assert_close(result["logs"], expected["logs"], rtol=2e-4, atol=0)  # logs have four digits
    torch.testing.assert_close(result["weights"], expected["weights"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [2, 1])
def test_accumulation_changes_nothing(one_batch, batch_size, tmp_path, tiny_llama):
    assert_same(train(tmp_path, tiny_llama, batch_size), one_batch)


def test_two_processes_change_nothing(one_batch, run_in_two, tmp_path):
    engines = ["ddp", *(["zero2"] if is_deepspeed_available() else [])]
    run_in_two(__file__, str(tmp_path), *engines)
    for engine in engines:
        assert_same(torch.load(tmp_path / f"{engine}.pt", weights_only=True), one_batch)


def test_the_host_trains_with_it_only_where_it_is_asked_for():
    from llamafactory.train.sft import trainer, workflow

    from sefe_plugin.hosts.llamafactory import patches

    class HostTrainer:
        def __init__(self, finetuning_args):
            self.finetuning_args, self.compute_loss_func = finetuning_args, None

        def _get_num_items_in_batch(self, batches, device):
            return sum((one["labels"] != -100).sum().item() for one in batches)

    (ours,) = patches.sample_loss(HostTrainer)
    assert issubclass(ours, HostTrainer)
    assert ours.__name__ == "HostTrainer"
    by_tokens, by_samples = (ours(SimpleNamespace(asd_loss=value)) for value in ("token", "sample"))
    assert (by_tokens.compute_loss_func, by_samples.compute_loss_func) == (None, sample_loss)
    batches = [{"labels": batch()[1]}]
    assert by_tokens._get_num_items_in_batch(batches, "cpu") == 1 + 1 + 6 + 3
    assert by_samples._get_num_items_in_batch(batches, "cpu") == 3
    assert workflow.CustomSeq2SeqTrainer is trainer.CustomSeq2SeqTrainer


@pytest.mark.parametrize(
    "key",
    ["packing", "use_dft_loss", "enable_liger_kernel", "use_unsloth", "label_smoothing_factor", "moe_aux_loss_coef"],
)
def test_keys_under_which_a_row_has_no_such_loss_are_refused(key):
    (error,) = key_value_errors({"asd_loss": "sample", key: 0.1 if "smoothing" in key else True})
    assert error.startswith(f"`{key}` cannot be combined with `asd_loss: sample`")
    assert key_value_errors({"asd_loss": "token", key: True}) == []


if __name__ == "__main__":
    main(*sys.argv[1:])
