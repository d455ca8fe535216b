"""A checkpoint as the host's Trainer leaves it, with nothing in its files."""

import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_checkpoint(folder: Path) -> Path:
    """Write a whole checkpoint."""
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        write_states(folder / name)
    save_file({"lora_A": np.ones((2, 2), np.float32)}, folder / "adapter_model.safetensors")
    return folder


def write_states(file: Path) -> None:
    """Write a file as PyTorch saves states."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"0" * 1000)
