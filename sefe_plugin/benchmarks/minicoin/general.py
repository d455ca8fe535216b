"""A test set of what mini-CoIN's base knows before any task: held-out questions of its pre-training corpus.

All questions have CoIN's short-answer line. The corpus also has the other answer styles, but one scorer must read all
records, and none tells format from content in every style: `short_answer` would take a word for a letter of options as
the right format.
"""

import random
from collections.abc import Iterator
from pathlib import Path

from sefe_plugin.benchmarks.minicoin.corpus import question_about, random_picture
from sefe_plugin.benchmarks.minicoin.data import IMAGE_TAG, VALIDATION_SEEDS
from sefe_plugin.benchmarks.minicoin.tasks import Item
from sefe_plugin.files import read_json, replacing_folder, write_json


#: Its name in dataset_info.json, and its folder in a dataset folder of mini-CoIN.
GENERAL, _FOLDER = "minicoin_general_test", "general"
#: Samples of a run.
SIZE = 200

_MANIFEST = "manifest.json"


def add_general(folder: Path, seed: int, size: int = SIZE) -> None:
    """Write the test set into a dataset folder of mini-CoIN, and declare it there.

    Its pictures belong to the test part, or from `VALIDATION_SEEDS` on to the validation part: neither the base nor a
    task is trained on them, whatever the seed. Its random stream is its own, so no other file depends on it. A folder
    that is whole for the same seed and size is kept as it is.

    Args:
        folder: Where mini-CoIN is written already.
        seed: Seed of the random stream.
        size: Number of samples.
    """
    place, manifest = folder / _FOLDER, {"seed": seed, "size": size}
    if not (place / _MANIFEST).is_file() or read_json(place / _MANIFEST) != manifest:
        with replacing_folder(place) as draft:
            write_json(draft / "test.json", list(_records(draft, seed, size)))
            write_json(draft / _MANIFEST, manifest)
    info = read_json(folder / "dataset_info.json")
    entry = {
        "file_name": f"{_FOLDER}/test.json",
        "formatting": "alpaca",
        "columns": {"prompt": "text", "response": "answer", "images": "image"},
    }
    if info.get(GENERAL) != entry:
        write_json(folder / "dataset_info.json", {**info, GENERAL: entry})


def _records(folder: Path, seed: int, size: int) -> Iterator[dict[str, str]]:
    """Yield the records, in the shape of the tasks' test records, and save their pictures."""
    (folder / "images").mkdir(parents=True)
    items = _items("validation" if seed >= VALIDATION_SEEDS else "test", seed)
    for index in range(size):
        item, name = next(items), f"images/test_{index:05d}.png"
        item.picture.draw().save(folder / name, "png")
        yield {
            "question_id": str(index),
            "image": f"{_FOLDER}/{name}",
            "text": IMAGE_TAG + item.text,
            "answer": item.answer,
        }


def _items(part: str, seed: int) -> Iterator[Item]:
    """Yield distinct questions about pictures of a part."""
    rng, seen = random.Random(f"mini-coin general {part} {seed}"), set()
    while True:
        item = question_about(random_picture(rng, part=part), rng)
        if (item.picture, item.text) not in seen:
            seen.add((item.picture, item.text))
            yield item
