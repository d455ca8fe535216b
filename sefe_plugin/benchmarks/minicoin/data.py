"""Write mini-CoIN to disk: pictures, records in CoIN's shapes, and LLaMA-Factory's dataset_info.json."""

import hashlib
import io
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

from sefe_plugin.benchmarks.base import VALIDATION_SEEDS
from sefe_plugin.benchmarks.minicoin.draw import SIDE, Picture
from sefe_plugin.benchmarks.minicoin.tasks import TASKS, Item, Task
from sefe_plugin.files import write_text


__all__ = ["TASKS", "TRIAL_SIZES", "VALIDATION_SEEDS", "write_data"]

IMAGE_TAG = "<image>\n"
#: The smallest part of the smallest task holds over twice as many different items.
MAX_SIZE = 10_000
#: What a trial is content with; enough training samples for ASD to find wrong answers among.
TRIAL_SIZES = {"train_size": 32, "test_size": 20}

_PARTS = (*2 * ("pretraining",), *4 * ("train",), "validation", "test")
_MANIFEST = "manifest.json"
_FORMAT_VERSION = 2


def write_data(folder: Path, seed: int, train_size: int | None = None, test_size: int = 80) -> None:
    """Write the eight tasks under `folder`; a folder complete for the same seed and sizes is kept as it is.

    Each task gets `<Task>/train.json` (CoIN's conversations), `<Task>/test.json` (CoIN's questions; text starts with
    `<image>` where there is a picture, as CoIN's ScienceQA and LLaMA-Factory have it) and `<Task>/images/`, with image
    paths relative to `folder`. A picture belongs to the base's pre-training or to the training, validation or test
    part by its hash, so that the parts are disjoint for all seeds. Equal arguments give equal files on every machine.

    Args:
        folder: Where to write; made if missing.
        seed: Seed of all random streams; from `VALIDATION_SEEDS` on, test.json comes from the validation part.
        train_size: Training samples of each task, 1 to `MAX_SIZE`; None: each task's own number.
        test_size: Test samples of each task, 1 to `MAX_SIZE`.

    Raises:
        ValueError: If a size is out of range.
    """
    for name, size in (("train_size", train_size), ("test_size", test_size)):
        if size is not None and not 1 <= size <= MAX_SIZE:
            raise ValueError(f"`{name}` of mini-CoIN must be 1 to {MAX_SIZE}; got {size}")
    sizes = {task.name: train_size or task.train_size for task in TASKS}
    manifest = {"version": _FORMAT_VERSION, "seed": seed, "train_sizes": sizes, "test_size": test_size}
    manifest_file = folder / _MANIFEST
    if manifest_file.is_file() and json.loads(manifest_file.read_text(encoding="utf-8")) == manifest:
        return
    manifest_file.unlink(missing_ok=True)
    for task in TASKS:
        (folder / task.name / "images").mkdir(parents=True, exist_ok=True)
        for split, part, size in (
            ("train", "train", sizes[task.name]),
            ("test", "validation" if seed >= VALIDATION_SEEDS else "test", test_size),
        ):
            items = _items(task, part, seed)
            records = [_record(folder, task, split, index, *next(items)) for index in range(size)]
            _write_json(folder / task.name / f"{split}.json", records)
    _write_json(folder / "dataset_info.json", _dataset_info())
    os.sync()  # the pictures outlive a loss of power if the manifest does
    _write_json(manifest_file, manifest)


def part_of(content: Picture | str) -> str:
    """Return the part that owns a picture, or a question on text alone.

    A quarter belongs to "pretraining", of the base; half to "train", an eighth each to "validation" and "test".
    """
    return _PARTS[hashlib.sha256(repr(content).encode()).digest()[0] % len(_PARTS)]


def _items(task: Task, part: str, seed: int) -> Iterator[tuple[Item, bytes]]:
    """Yield distinct items of a part ("train", "validation" or "test") with the PNG bytes of their pictures."""
    rng = random.Random(f"mini-coin {task.name} {part} {seed}")
    seen = set()
    while True:
        item = task.make(rng)
        owner = part_of(item.picture or item.text)
        if owner != part or not task.keep(item) or (item.picture, item.text) in seen:
            continue
        seen.add((item.picture, item.text))
        file = io.BytesIO()
        if item.picture:
            item.picture.draw().save(file, "png")
        yield item, file.getvalue()


def _record(folder: Path, task: Task, split: str, index: int, item: Item, png: bytes) -> dict:
    """Save the picture and return the item in CoIN's record shape."""
    text, picture = item.text, {}
    if png:
        path = f"{task.name}/images/{split}_{index:05d}.png"
        (folder / path).write_bytes(png)
        text, picture = IMAGE_TAG + text, {"image": path}
    if split == "train":
        turns = [{"from": "human", "value": text}, {"from": "gpt", "value": item.answer}]
        return {"id": str(index), **picture, "conversations": turns}
    if task.scorer == "box":
        return {"question_id": str(index), **picture, "text": text, "answer_bbox": item.answer, "size": [SIDE, SIDE]}
    return {"question_id": str(index), **picture, "text": text, "answer": item.answer}


def _dataset_info() -> dict:
    """Return LLaMA-Factory's description of the sixteen files."""
    info = {}
    for task in TASKS:
        info[f"minicoin_{task.name.lower()}_train"] = {
            "file_name": f"{task.name}/train.json",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "images": "image"},
        }
        answer = "answer_bbox" if task.scorer == "box" else "answer"
        info[f"minicoin_{task.name.lower()}_test"] = {
            "file_name": f"{task.name}/test.json",
            "formatting": "alpaca",
            "columns": {"prompt": "text", "response": answer, "images": "image"},
        }
    return info


def _write_json(file: Path, content: object) -> None:
    write_text(file, json.dumps(content, indent=1) + "\n")
