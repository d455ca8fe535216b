"""Steps and checkpoints, beside the Trainer that counts them."""

import doctest

import pytest

from sefe_plugin.plan import steps
from sefe_plugin.plan.steps import checkpoints, optimizer_steps


def test_examples():
    assert doctest.testmod(steps).failed == 0


@pytest.mark.parametrize("samples", [1, 31, 32, 33, 100])
@pytest.mark.parametrize(("batch", "accumulation", "epochs"), [(4, 1, 1.0), (4, 8, 1.0), (3, 5, 2.5), (64, 1, 3.0)])
def test_steps_are_the_trainers(tiny_llama, tmp_path, samples, batch, accumulation, epochs):
    from transformers import Trainer, TrainingArguments

    keys = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": epochs,
    }
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], **keys)
    trainer = Trainer(tiny_llama(), args, train_dataset=[{"input_ids": [1, 2]}] * samples)
    values = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    assert optimizer_steps(samples, keys, processes=1) in values
    assert optimizer_steps(samples, keys, processes=1) == values[-1]


def test_processes_share_the_data():
    keys = {"per_device_train_batch_size": 16, "num_train_epochs": 1}
    # every process has its last, smaller batch at the same time
    assert optimizer_steps(12726, keys, processes=8) == 100  # 12726 / 128 = 99.4
    assert optimizer_steps(1, keys, processes=8) == 1


@pytest.mark.parametrize(("held_back", "left"), [(0.1, 89), (7, 92), (0, 99)])
def test_samples_held_back_are_not_trained(held_back, left):
    from datasets import Dataset

    keys = {"per_device_train_batch_size": 1, "num_train_epochs": 1.0, "val_size": held_back}
    assert optimizer_steps(99, keys, 1) == left
    if held_back:  # as the host divides
        assert Dataset.from_dict({"a": range(99)}).train_test_split(test_size=held_back)["train"].num_rows == left


def test_max_steps_comes_first():
    assert optimizer_steps(1000, {"max_steps": 7, "num_train_epochs": 3}, processes=1) == 7


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"save_steps": 500}, 3),  # 500, 1000 and the end
        ({"save_steps": 500, "save_total_limit": 1}, 1),
        ({"save_steps": 0.5}, 2),
        ({"save_strategy": "epoch", "num_train_epochs": 2.0}, 2),
        ({"save_strategy": "no"}, 0),
    ],
)
def test_checkpoints(keys, expected):
    assert checkpoints(1015, keys) == expected
