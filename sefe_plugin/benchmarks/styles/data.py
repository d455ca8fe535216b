"""Write the data of `styles`: questions and answers in LLaMA-Factory's own shape, and its dataset_info.json."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks.base import VALIDATION_SEEDS
from sefe_plugin.benchmarks.styles.tasks import TASKS, Item, Task
from sefe_plugin.files import read_json, replacing_folder, write_json


#: Test samples of each task.
TEST_SIZE = 40
#: Training samples of each task that a trial is content with; enough for ASD to find wrong answers among.
TRIAL_SIZE = 32

_PARTS = (*5 * ("train",), "validation", *2 * ("test",))
_MANIFEST = "manifest.json"
_FORMAT_VERSION = 1


def write_data(folder: Path, seed: int, train_size: int | None = None, test_size: int = TEST_SIZE) -> None:
    """Write the seven tasks into `folder`; a folder that is whole for the same seed and sizes is kept as it is.

    Each task gets `<Task>/train.json` and `<Task>/test.json`, with records of "instruction" and "output" that
    LLaMA-Factory calls alpaca. What an item is about, such as a country or a list of things, belongs to the training,
    validation or test part by its hash, so the parts are disjoint for all seeds. Equal arguments give equal files.

    Args:
        folder: Where to write; made if missing.
        seed: Seed of all random streams; from `VALIDATION_SEEDS` on, test.json comes from the validation part.
        train_size: Training samples of each task; None: each task's own number.
        test_size: Test samples of each task.
    """
    sizes = {task.name: train_size or task.train_size for task in TASKS}
    manifest = {"version": _FORMAT_VERSION, "seed": seed, "train_sizes": sizes, "test_size": test_size}
    if (folder / _MANIFEST).is_file() and read_json(folder / _MANIFEST) == manifest:
        return
    with replacing_folder(folder) as draft:
        for task in TASKS:
            held_out = items(task, "validation" if seed >= VALIDATION_SEEDS else "test", seed)
            train = items(task, "train", seed)
            (draft / task.name).mkdir(parents=True)
            write_json(draft / task.name / "train.json", [_record(next(train)) for _ in range(sizes[task.name])])
            write_json(draft / task.name / "test.json", [_record(next(held_out)) for _ in range(test_size)])
        write_json(draft / "dataset_info.json", dict(_entries()))
        write_json(draft / _MANIFEST, manifest)


def part_of(text: str) -> str:
    """Return the part that owns what an item is about: 5 of 8 are "train", 1 "validation", 2 "test"."""
    return _PARTS[hashlib.sha256(text.encode()).digest()[0] % len(_PARTS)]


def items(task: Task, part: str, seed: int) -> Iterator[Item]:
    """Yield different questions of a part ("train", "validation" or "test"), without end.

    Args:
        task: Their task.
        part: The part.
        seed: Seed of the random stream.
    """
    rng, seen = random.Random(f"styles {task.name} {part} {seed}"), set()
    while True:
        item = task.make(rng)
        if part_of(item.owner) == part and item.question not in seen:
            seen.add(item.question)
            yield item


def _record(item: Item) -> dict[str, str]:
    return {"instruction": item.question, "output": item.answer} | ({"key": item.key} if item.key else {})


def _entries() -> Iterator[tuple[str, dict[str, Any]]]:
    for task in TASKS:
        for split in ("train", "test"):
            columns = {"prompt": "instruction", "response": "output"}
            yield f"styles_{task.name.lower()}_{split}", {"file_name": f"{task.name}/{split}.json", "columns": columns}
