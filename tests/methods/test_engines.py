"""One training on several engines: losses, penalties, weights and key elements must not depend on the engine."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import Trainer, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_available, unset_hf_deepspeed_config

from sefe_plugin import SefeCallback
from sefe_plugin.methods.gradients import gathered
from sefe_plugin.methods.reglora import find_reglora_model
from sefe_plugin.methods.reglora.codec import decode
from sefe_plugin.methods.reglora.files import read_key_elements
from sefe_plugin.methods.reglora.method import PENALTY_LOG


ZERO = {f"zero{stage}": Path(__file__).parents[1] / "deepspeed" / f"zero{stage}.json" for stage in (1, 2, 3)}
needs_deepspeed = pytest.mark.skipif(not is_deepspeed_available(), reason="needs deepspeed")
ENGINES = [
    "ddp",
    pytest.param("zero1", marks=[needs_deepspeed, pytest.mark.slow]),
    pytest.param("zero2", marks=needs_deepspeed),
    pytest.param("zero3", marks=[needs_deepspeed, pytest.mark.slow]),
]
#: Per optimizer step, over all processes.
SAMPLES_PER_STEP = 4


def samples():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (8,), generator=generator).tolist()
    rows = [torch.randint(4, 64, (length,), generator=generator) for length in lengths]
    return [{"input_ids": row, "labels": row} for row in rows]


def train(engine, folder, files, build_reglora):
    """Train a tiny RegLoRA three epochs on `engine`; write losses, penalties, weights and key elements."""
    folder = Path(folder, engine)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    args = TrainingArguments(
        str(folder),
        num_train_epochs=3,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=SAMPLES_PER_STEP // processes,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        deepspeed=str(ZERO[engine]) if engine in ZERO else None,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
    )
    model = build_reglora(reglora_key_ratio=0.1, reglora_weight=100.0)
    trainer = Trainer(model, args, train_dataset=samples(), callbacks=[SefeCallback(files)])
    trainer.train()
    weights = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            with gathered(parameter):
                weights[name] = parameter.detach().float().clone()
    if trainer.is_world_process_zero():
        logs = [(entry["loss"], entry[PENALTY_LOG]) for entry in trainer.state.log_history if "loss" in entry]
        (folder / "logs.json").write_text(json.dumps(logs))
        torch.save(weights, folder / "weights.pt")


def main(folder, *engines):
    """Train on every engine, in one group of processes; started by `torchrun`."""
    from conftest import build_reglora

    files = sorted(Path(folder).glob("task*.safetensors"))
    for engine in engines:
        train(engine, folder, files, build_reglora)
        AcceleratorState._reset_state(reset_partial_state=True)
        unset_hf_deepspeed_config()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_reglora, run_in_two, request):
    """The folder in which the same training has run in one process and on the engines asked for with two."""
    folder = tmp_path_factory.mktemp("engines")
    files = [folder / f"task{i}.safetensors" for i in range(2)]
    for i, file in enumerate(files):
        find_reglora_model(tiny_reglora(seed=100 + i, reglora_key_ratio=0.1)).save_key_elements(file)
    train("one", folder, files, tiny_reglora)
    asked = {item.callspec.params["engine"] for item in request.session.items if item.path == request.path}
    run_in_two(__file__, str(folder), *sorted(asked if is_deepspeed_available() else {"ddp"}))
    return folder


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_trajectory_of_one_process(runs, engine):
    """With SGD a penalty of 1.01 lambda would be seen."""
    expected, logs = (torch.tensor(json.loads((runs / name / "logs.json").read_text())) for name in ("one", engine))
    assert len(expected) == 6
    torch.testing.assert_close(logs, expected, rtol=1e-5, atol=0)  # fp32, other orders of summation
    expected, weights = (torch.load(runs / name / "weights.pt", weights_only=True) for name in ("one", engine))
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_finds_the_key_elements_of_one_process(runs, engine):
    expected, found = (read_key_elements(runs / name / "key_elements.safetensors") for name in ("one", engine))
    assert found.shapes == expected.shapes
    for name, (rows, cols) in expected.shapes.items():
        ours, theirs = (set(decode(elements.codes[name], rows * cols).tolist()) for elements in (found, expected))
        assert len(ours ^ theirs) <= 2, name  # of 25 or more; the last two may swap by rounding


if __name__ == "__main__":
    main(*sys.argv[1:])
