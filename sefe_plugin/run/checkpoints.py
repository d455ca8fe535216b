"""Which checkpoints of an interrupted training are whole, so that the training goes on as if it had not stopped.

The host goes on from the last checkpoint that it finds, whatever is in it. Without the state of the optimizer it would
silently begin a new one, and without the schedule a new warm-up. So only whole checkpoints are left for it to find.
"""

import zipfile
from pathlib import Path

from sefe_plugin.files import ADAPTER_WEIGHTS_FILE, MODEL_WEIGHTS_FILES, is_whole_safetensors, read_json


def checkpoints_of_task(folder: Path) -> list[Path]:
    """Return all checkpoints of a task, those of the phases of its method among them."""
    return [*folder.glob("checkpoint-*"), *folder.glob("*/checkpoint-*")]


def whole_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in the folder of a training."""
    return [path for path in folder.glob("checkpoint-*") if is_whole_checkpoint(path)]


def is_whole_checkpoint(folder: Path) -> bool:
    """Tell whether a checkpoint holds all that a training needs to go on, and no file that was cut short.

    That is the Trainer's state, the weights, the optimizer, the schedule and the states of the random numbers, or the
    same as DeepSpeed keeps it. No file is read to its end: a file of PyTorch is a zip file, whose table stands last,
    and a file of safetensors says in its head how long it is.
    """
    if not _is_json(folder / "trainer_state.json"):
        return False
    engine = _deepspeed_folder(folder)
    states = [*folder.glob("*.pt"), *folder.glob("*.pth"), *(engine.rglob("*.pt") if engine else ())]
    if not all(zipfile.is_zipfile(file) for file in states):
        return False
    if not all(is_whole_safetensors(file) for file in folder.glob("*.safetensors")):
        return False
    if engine:
        return _has_random_states(folder) and any(engine.glob("*_states.pt"))
    return _has_weights(folder) and _has_optimizer(folder) and _has_random_states(folder)


def _is_json(file: Path) -> bool:
    try:
        return isinstance(read_json(file), dict)
    except (OSError, ValueError):
        return False


def _deepspeed_folder(folder: Path) -> Path | None:
    """Return where DeepSpeed keeps its part, which is whole once the file "latest" names it; None without one."""
    latest = folder / "latest"
    engine = folder / latest.read_text(encoding="utf-8").strip() if latest.is_file() else folder
    return engine if engine != folder and engine.is_dir() else None


def _has_weights(folder: Path) -> bool:
    single, index = (folder / name for name in MODEL_WEIGHTS_FILES)
    if not index.is_file():
        return single.is_file() or (folder / ADAPTER_WEIGHTS_FILE).is_file()
    if not _is_json(index):
        return False
    shards = set(read_json(index).get("weight_map", {}).values())
    return bool(shards) and all((folder / name).is_file() for name in shards)


def _has_optimizer(folder: Path) -> bool:
    """Tell whether optimizer and schedule are there; FSDP keeps the optimizer as one file .bin, or as a folder."""
    optimizer = any((folder / name).is_file() for name in ("optimizer.pt", "optimizer.bin"))
    return (optimizer or any(folder.glob("optimizer_*/.metadata"))) and (folder / "scheduler.pt").is_file()


def _has_random_states(folder: Path) -> bool:
    """Tell whether the states of one process, or of processes numbered from 0 without a gap, are there."""
    several = {file.stem for file in folder.glob("rng_state_*.pth")}
    return (folder / "rng_state.pth").is_file() or (
        bool(several) and several == {f"rng_state_{rank}" for rank in range(len(several))}
    )
