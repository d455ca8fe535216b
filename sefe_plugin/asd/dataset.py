"""A dataset file as samples: records, where they keep their parts, and their images."""

from collections.abc import Iterator
from pathlib import Path

from sefe_plugin.answers.styles import STYLES
from sefe_plugin.data.layout import Layout, Record, find_dataset, layout_like
from sefe_plugin.data.records import RecordFile
from sefe_plugin.data.sample import Sample, UnsuitableSampleError


#: Name of the field of a rewritten record that says what the sample was.
ORIGIN = "asd"


class Dataset:
    """The samples of a file.

    Args:
        records: The file's records.
        layout: Where they keep question, answer and images.
        media_dir: Folder that the images' paths start from.
    """

    def __init__(self, records: RecordFile, layout: Layout, media_dir: Path):
        self.records, self.layout, self.media_dir = records, layout, media_dir
        self._latest: tuple[int, Record] = (-1, {})

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples of one turn, which alone can be rewritten."""
        for index in range(len(self)):
            try:
                sample = self.read(index)
            except UnsuitableSampleError:
                continue
            yield sample

    def record(self, index: int) -> Record:
        """Return a record; the latest one is kept at hand."""
        if self._latest[0] != index:
            self._latest = index, self.records[index]
        return self._latest[1]

    def read(self, index: int) -> Sample:
        """Return a sample.

        Raises:
            UnsuitableSampleError: Where it is not of one turn.
            ValueError: Where it was rewritten before.
        """
        record = self.record(index)
        if ORIGIN in record:
            raise ValueError(
                f"{self.records.path}: sample {index} has a field {ORIGIN!r}, so it is rewritten already; start from "
                f"the original file, or rename the field where it is another"
            )
        try:
            return self.layout.read(record)
        except UnsuitableSampleError:
            raise
        except ValueError as error:
            raise ValueError(f"{self.records.path}: sample {index}: {error}") from error

    def origin(self, index: int) -> dict[str, str] | None:
        """Return what a rewritten sample was, None of a sample that `sefe asd build` did not rewrite."""
        record = self.record(index)
        origin = record.get(ORIGIN)
        if not isinstance(origin, dict) or origin.get("style") not in STYLES:
            return None
        parts = (origin.get(part) for part in ("native_style", "style", "question", "answer", "generator"))
        if not all(isinstance(part, str) for part in parts):
            return None
        try:
            self.layout.read(record)
        except ValueError:
            return None  # somebody changed it since
        return origin

    def images(self, index: int) -> tuple[str, ...]:
        """List the paths of a sample's images as the record names them, bare or in mappings with a `path`.

        Raises:
            ValueError: Where an image has no path.
        """
        images = self.layout.images(self.record(index))
        paths = tuple(image.get("path") if isinstance(image, dict) else image for image in images)
        for image, path in zip(images, paths, strict=True):
            if not isinstance(path, str):
                raise ValueError(
                    f"{self.records.path}: an image of sample {index} must be a path, or a mapping with `path`, got "
                    f"{image!r:.200}; save the image as a file and name it there"
                )
        return paths


def open_dataset(name: str, folder: Path, media_dir: Path | None = None) -> Dataset:
    """Open a dataset by its name in `dataset_info.json`, or a file by its path.

    Args:
        name: A name, or the path of a .json or .jsonl file.
        folder: LLaMA-Factory's `dataset_dir`.
        media_dir: Folder that the images' paths start from; None takes `folder`, or the named file's own.

    Raises:
        ValueError: Where it does not exist or has no samples of a known layout.
        OSError: Where the file cannot be read.
    """
    file, layout = find_dataset(name, folder)
    records = RecordFile(file)
    if layout is None:
        folder = file.parent
        if not len(records):
            raise ValueError(f"{file} has no records")
        layout = _first_layout(records)
    return Dataset(records, layout, media_dir or folder)


def _first_layout(records: RecordFile) -> Layout:
    """Recognise the layout by the first record that shows it."""
    first = None
    for index in range(len(records)):
        try:
            return layout_like(records[index])
        except ValueError as error:
            first = first or error
    raise ValueError(f"{records.path}: {first}") from first
