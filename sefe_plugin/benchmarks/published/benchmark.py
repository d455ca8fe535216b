"""A published benchmark in a recipe: it runs on what `sefe prepare` wrote."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from sefe_plugin.benchmarks.base import Benchmark, PublishedSize
from sefe_plugin.benchmarks.published.layout import (
    DATASET_INFO,
    DONE,
    MANIFEST_FILE,
    MANIFEST_VERSION,
    dataset_entries,
    dataset_file,
    declared_datasets,
)
from sefe_plugin.benchmarks.published.tables import Published
from sefe_plugin.files import is_file, is_folder, read_json, write_json


#: What a recipe reads in a manifest beside its version.
_MANIFEST_TEXTS = ("benchmark", "variant", "images")


class PublishedBenchmark(Benchmark):
    """The tasks of a published benchmark; subclass it and name the table.

    `dataset_dir` (default `data/<name>`) is what `sefe prepare` wrote.

    Attributes:
        published: Its table.
        own_layout: Where the published layout has the file of a {task} and a {split}, if a recipe can use it as it
            is; None if `sefe prepare` must have written the folder.
    """

    published: ClassVar[Published]
    own_layout: ClassVar[str | None] = None

    def __init_subclass__(cls) -> None:
        cls.name = cls.published.name
        cls.tasks = tuple(task.benchmark_task() for task in cls.published.tasks)

    def defaults(self) -> dict[str, Any]:
        """Return the keys it brings: its dataset folder, and images padded to a square, as LLaVA-1.5 sees them."""
        return {"dataset_dir": f"data/{self.name}", "pad_images": True}

    def errors(self, arguments: Mapping[str, Any]) -> list[str]:
        """List which files are missing, what they are, where they come from and what to do."""
        root = Path(arguments["dataset_dir"])
        if is_file(root / MANIFEST_FILE):
            return self._prepared_errors(root, arguments)
        missing = []
        file_of = dataset_file if self.own_layout is None else self._own_file
        for task in self.published.tasks:
            absent = [str(file) for split in ("train", "test") if not is_file(file := file_of(root, task.name, split))]
            if absent:
                missing.append(
                    f"data of {task.name} is missing: {' and '.join(absent)}. Get the annotations ({self.origins()}) "
                    f"and the images ({task.images}), then: sefe prepare {self.name} SOURCE --out {root}"
                )
        if is_folder(root / DONE) or (self.own_layout is None and not missing):
            return [
                f"{root} is not complete: it has no {MANIFEST_FILE}, which `sefe prepare` writes last. Run the same "
                f"`sefe prepare {self.name}` again; it goes on where it stopped."
            ]
        return missing

    def diversified(self, arguments: Mapping[str, Any]) -> str | None:
        """Say which variant it holds where its training samples are in other answer styles already; else None."""
        root = Path(arguments["dataset_dir"])
        manifest = _read_manifest(root)
        if manifest is None or not manifest["variant"].startswith("asd"):
            return None
        return f"the samples in {root} are of the variant {manifest['variant']!r}"

    def prepare(self, folder: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Write the `dataset_info.json` of a run, which points to the datasets where they lie.

        Args:
            folder: Dataset folder of the run.
            arguments: The recipe's keys; `dataset_dir` is the benchmark's folder.

        Returns:
            The keys `dataset_dir` and `media_dir` for the run.
        """
        root = Path(arguments["dataset_dir"]).absolute()
        if is_file(root / MANIFEST_FILE) or self.own_layout is None:
            images, file_of = read_json(root / MANIFEST_FILE)["images"], dataset_file
        else:
            images, file_of = str(root), self._own_file
        entries = {**_added_entries(root), **dataset_entries(self.published, partial(file_of, root))}
        write_json(folder / DATASET_INFO, entries)
        return {"dataset_dir": str(folder), "media_dir": arguments.get("media_dir") or images}

    def published_sizes(self) -> dict[str, PublishedSize]:
        """Return the published sizes of its tasks."""
        return {task.name: task.size for task in self.published.tasks}

    def official_accuracy(self, rule: str) -> Callable[[Sequence[Mapping]], float]:
        """Return one of the official rules that several benchmarks share."""
        from sefe_plugin.benchmarks.official import official_accuracy

        return partial(official_accuracy, rule)

    def origins(self) -> str:
        """Return where its annotations come from, and their licences."""
        return ", or ".join(dict.fromkeys(variant.origin for variant in self.published.variants.values()))

    def _own_file(self, root: Path, task: str, split: str) -> Path:
        return root / self.own_layout.format(task=task, split=split)

    def _prepared_errors(self, root: Path, arguments: Mapping[str, Any]) -> list[str]:
        manifest = _read_manifest(root)
        if manifest is None:
            return [f"{root / MANIFEST_FILE} was not written by this version of `sefe prepare`. Run it again."]
        if manifest["benchmark"] != self.name:
            return [f"{root} holds {manifest['benchmark']}, and the recipe names `benchmark: {self.name}`. Mend one."]
        files = [dataset_file(root, task.name, split) for task in self.tasks for split in ("train", "test")]
        found = [f"{file} is missing. Run `sefe prepare {self.name}` again." for file in files if not is_file(file)]
        images = arguments.get("media_dir") or manifest["images"]
        if not is_folder(images):
            found.append(
                f"the folder of {self.published.title}'s images, {images}, does not exist. Set `media_dir` to where "
                "it is now."
            )
        try:
            declared_datasets(root)
        except ValueError as error:
            found.append(str(error))
        return found


def _read_manifest(root: Path) -> dict[str, Any] | None:
    """Return what `sefe prepare` says of a folder; None where this version of it has not written it."""
    try:
        manifest = read_json(root / MANIFEST_FILE)
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("version") != MANIFEST_VERSION:
        return None
    return manifest if all(isinstance(manifest.get(key), str) for key in _MANIFEST_TEXTS) else None


def _added_entries(root: Path) -> dict[str, Any]:
    """Return the datasets that a user has declared beside a benchmark's own, such as those of `sefe asd build`."""
    return {
        name: {**entry, "file_name": str(root / entry["file_name"])}
        for name, entry in declared_datasets(root).items()
        if isinstance(entry, dict) and "file_name" in entry
    }
