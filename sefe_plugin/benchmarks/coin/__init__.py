"""CoIN, the eight-task benchmark of SEFE, in the order and layout of the official repositories.

`dataset_dir` (default `data/coin`) is what `sefe coin prepare` wrote, or the official layout itself:
`annotations/<Task>/train.json` and `annotations/<Task>/test.json`, and the images where the annotations' relative
paths lead, as in `playground/data/CoIN` of the SEFE repository.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks.base import Benchmark, PublishedSize
from sefe_plugin.benchmarks.coin.sources import IMAGES, ORIGINS, PUBLISHED_TEST_SIZE, PUBLISHED_TRAIN_SIZES
from sefe_plugin.benchmarks.coin.tasks import MANIFEST_FILE, MANIFEST_VERSION, TASKS, dataset_entries
from sefe_plugin.files import is_file, read_json, write_json


class CoIN(Benchmark):
    """CoIN's tasks, and its official rules."""

    name = "coin"
    tasks = TASKS

    def defaults(self) -> dict[str, Any]:
        """Return the keys CoIN brings: its dataset folder, and images padded to the square that its boxes refer to."""
        return {"dataset_dir": "data/coin", "pad_images": True}

    def errors(self, arguments: Mapping[str, Any]) -> list[str]:
        """List which files are missing, what they are, where they come from and what to do."""
        root = Path(arguments["dataset_dir"])
        if is_file(root / MANIFEST_FILE):
            return _prepared_errors(root, arguments)
        missing = []
        for task in TASKS:
            absent = [
                str(file) for split in ("train", "test") if not is_file(file := _annotations(root, task.name, split))
            ]
            if absent:
                missing.append(
                    f"data of {task.name} is missing: {' and '.join(absent)}. Get the annotations ({ORIGINS}) and the "
                    f"images ({IMAGES[task.name]}), then: sefe coin prepare SOURCE --images IMAGES --out {root}"
                )
        return missing

    def prepare(self, folder: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Write the `dataset_info.json` of a run, which points to the datasets where they lie.

        Args:
            folder: Dataset folder of the run.
            arguments: The recipe's keys; `dataset_dir` is CoIN's folder.

        Returns:
            The keys `dataset_dir` and `media_dir` for the run.
        """
        root = Path(arguments["dataset_dir"]).absolute()
        if is_file(root / MANIFEST_FILE):
            images, file_name = read_json(root / MANIFEST_FILE)["images"], _prepared
        else:
            images, file_name = str(root), _annotations
        write_json(
            folder / "dataset_info.json", dataset_entries(lambda task, split: str(file_name(root, task, split)))
        )
        return {"dataset_dir": str(folder), "media_dir": arguments.get("media_dir") or images}

    def published_sizes(self) -> dict[str, PublishedSize]:
        """Return the published sizes of the training data, and of the test sets of SEFE's tables."""
        return {task: PublishedSize(size, PUBLISHED_TEST_SIZE) for task, size in PUBLISHED_TRAIN_SIZES.items()}

    def official_accuracy(self, rule: str) -> Callable[[Sequence[Mapping]], float]:
        """Return the rule of one of the official scripts, by the name of its task."""
        from sefe_plugin.benchmarks.coin.official import official_accuracy

        return partial(official_accuracy, rule)


def _annotations(root: Path, task: str, split: str) -> Path:
    return root / "annotations" / task / f"{split}.json"


def _prepared(root: Path, task: str, split: str) -> Path:
    return root / task / f"{split}.jsonl"


def _prepared_errors(root: Path, arguments: Mapping[str, Any]) -> list[str]:
    manifest = read_json(root / MANIFEST_FILE)
    if manifest.get("version") != MANIFEST_VERSION or "images" not in manifest:
        return [f"{root / MANIFEST_FILE} was not written by this version of `sefe coin prepare`. Run it again."]
    files = [_prepared(root, task.name, split) for task in TASKS for split in ("train", "test")]
    found = [f"{file} is missing. Run `sefe coin prepare` again." for file in files if not is_file(file)]
    images = Path(arguments.get("media_dir") or manifest["images"])
    if not images.is_dir():
        found.append(f"the folder of CoIN's images, {images}, does not exist. Set `media_dir` to where it is now.")
    if manifest["variant"].startswith("asd") and arguments.get("asd_ratio"):
        found.append(
            f"`asd_ratio`: the samples in {root} are of the variant {manifest['variant']!r}, diversified already. Set "
            "`asd_ratio: 0`."
        )
    return found
