"""One training on several engines: losses, penalties, weights and key elements must not depend on the engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import VOCABULARY, build_reglora
from transformers import Trainer, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from sefe_plugin.callback import PENALTY_LOG, SefeCallback
from sefe_plugin.reglora import find_reglora_model
from sefe_plugin.reglora.codec import decode
from sefe_plugin.reglora.engines import gathered
from sefe_plugin.reglora.files import read_key_elements


ZERO = {f"zero{stage}": Path(__file__).parent / "deepspeed" / f"zero{stage}.json" for stage in (1, 2, 3)}
#: Per optimizer step, over all processes.
SAMPLES_PER_STEP = 4


def samples():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (8,), generator=generator).tolist()
    rows = [torch.randint(4, len(VOCABULARY), (length,), generator=generator) for length in lengths]
    return [{"input_ids": row, "labels": row} for row in rows]


def train(engine, folder, files, **options):
    """Train a tiny RegLoRA three epochs on `engine`; write losses, penalties, weights and key elements."""
    folder = Path(folder, engine)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    options = {"learning_rate": 0.3, "max_grad_norm": 1.0, "lr_scheduler_type": "constant", "optim": "sgd", **options}
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
        **options,
    )
    model = build_reglora(key_ratio=0.1, reg_weight=20.0)
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
    files = sorted(Path(folder).glob("task*.safetensors"))
    for engine in engines:
        train(engine, folder, files)
        AcceleratorState._reset_state(reset_partial_state=True)
        unset_hf_deepspeed_config()


if __name__ == "__main__":
    main(*sys.argv[1:])
