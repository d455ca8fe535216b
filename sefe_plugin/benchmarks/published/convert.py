"""Turn the published files of a benchmark into datasets for LLaMA-Factory; images stay where they are."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from os.path import relpath
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks.published.find import SPLITS, TaskFiles, find_files, read_source
from sefe_plugin.benchmarks.published.images import ImageCheck
from sefe_plugin.benchmarks.published.layout import (
    DATASET_INFO,
    DONE,
    MANIFEST_FILE,
    MANIFEST_VERSION,
    dataset_entries,
    dataset_file,
    declared_datasets,
    gold_field,
)
from sefe_plugin.benchmarks.published.records import to_test_row, to_train_row
from sefe_plugin.benchmarks.published.tables import Golds, Published, PublishedTask
from sefe_plugin.data.test_sets import listed_faults
from sefe_plugin.evaluation.scorers import scorer_of
from sefe_plugin.files import file_digest, read_json, remove_folder, replacing, write_json, write_text
from sefe_plugin.json_lines import json_line, numbered_records


#: Lists every record and image at fault: task, number of the record or path, and reason, separated by tabs.
FAULTS_FILE = "faults.tsv"

_BATCH = 2048


@dataclass(frozen=True)
class Choice:
    """Which records are written, and which are left out.

    Attributes:
        max_test: Test records of each task at most; None for all.
        train_share: Share of each task's training records, in (0, 1].
        seed: Draws the subsets.
        skip_broken: Leave out the records that are at fault, or whose image is missing or broken, instead of stopping.
        drop_duplicates: Leave out records that equal an earlier one of their file in every field.
        drop_shared: Leave out training records whose image a test record of the task has, too.
    """

    max_test: int | None = None
    train_share: float = 1.0
    seed: int = 42
    skip_broken: bool = False
    drop_duplicates: bool = False
    drop_shared: bool = False

    def __post_init__(self):
        if self.max_test is not None and self.max_test < 1:
            raise ValueError(f"the number of test records must be at least 1; got {self.max_test}.")
        if not 0 < self.train_share <= 1:
            raise ValueError(f"the share of training records must be in (0, 1]; got {self.train_share}.")


@dataclass
class Part:
    """What became of the records of one part of a task.

    Attributes:
        chosen: Records that were drawn.
        written: Records that were written.
        duplicates: Records that equal an earlier one in every field.
        shared: Training records whose image a test record has, too.
        records: Number of a record at fault, from 1 -> what is wrong with it.
        images: Path of an image at fault, as it is published -> what is wrong with it.
    """

    chosen: int
    written: int
    duplicates: int
    shared: int
    records: dict[int, str]
    images: dict[str, str]

    @property
    def left_out(self) -> int:
        """Number of records that were drawn and not written."""
        return self.chosen - self.written


def prepare(
    published: Published,
    source: Path,
    out: Path,
    *,
    images: Path | None = None,
    variant: str | None = None,
    choice: Choice = Choice(),
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Write `<Task>/train.jsonl` and `<Task>/test.jsonl` of all tasks, `dataset_info.json` and the manifest.

    Samples of a subset are drawn without replacement, by task and seed alone, and keep their order. Other datasets
    that the user has declared in `dataset_info.json` stay there. The manifest is written last: a folder without it is
    not complete, and the same call goes on where the last one stopped.

    Args:
        published: The benchmark.
        source: Folder with the published files (`find_files`).
        out: Where to write.
        images: Folder where the records' relative image paths lead; the source by default.
        variant: Name of the version of the annotations; None for the default.
        choice: Which records are written.
        say: Given one line for every finished file, and for what is worth knowing.

    Returns:
        The manifest.

    Raises:
        ValueError: If files are missing, records are not as published, no answer to test records would be right, or
            images are at fault; names all of them.
    """
    variant = variant or published.default_variant
    if out.resolve() == source.resolve():
        raise ValueError(f"{out} holds the published files; write to another folder.")
    found, media = find_files(published, source, images, variant, out, say)
    declared = declared_datasets(out)
    (out / MANIFEST_FILE).unlink(missing_ok=True)
    parts: dict[str, dict[str, Part]] = {}
    tasks: dict[str, dict] = {}
    for task in published.tasks:
        parts[task.name], tasks[task.name] = {}, {}
        golds = _read_golds(task, found[task.name], say)
        with ImageCheck() as check:
            writer = _TaskWriter(published, task, found[task.name], golds, check, media, out, choice)
            for split in SPLITS:
                part, sources = writer.write(split)
                parts[task.name][split] = part
                tasks[task.name][split] = {"sources": sources, "chosen": part.chosen, "written": part.written}
                say(f"{task.name} {split}: {_told(part, split, choice)}")
    _require_sound(published, found, parts, out, media, choice.skip_broken)
    for note in published.notes:
        say(f"note: {note}")
    write_json(out / DATASET_INFO, {**declared, **dataset_entries(published, partial(dataset_file, Path()))})
    manifest = {
        "version": MANIFEST_VERSION,
        "benchmark": published.name,
        "variant": variant,
        "origin": published.variants[variant].origin,
        "images": str(media),
        **asdict(choice),
        "duplicates": {name: {split: part.duplicates for split, part in own.items()} for name, own in parts.items()},
        "shared_images": {name: own["train"].shared for name, own in parts.items()},
        "notes": list(published.notes),
        "tasks": tasks,
    }
    write_json(out / MANIFEST_FILE, manifest)
    remove_folder(out / DONE)
    return manifest


class _TaskWriter:
    """Writes the two datasets of a task."""

    def __init__(
        self,
        published: Published,
        task: PublishedTask,
        files: TaskFiles,
        golds: Golds,
        check: ImageCheck,
        media: Path,
        out: Path,
        choice: Choice,
    ):
        self._published, self._task, self._files, self._golds = published, task, files, golds
        self._check, self._media, self._out, self._choice = check, media, out, choice
        self._tested: set[bytes] = set()

    def write(self, split: str) -> tuple[Part, list[dict[str, str]]]:
        """Write a dataset, unless an earlier call that was stopped has done so from the same files.

        Returns:
            What became of its records, and the files they are from.
        """
        sources = getattr(self._files, split)
        file = dataset_file(self._out, self._task.name, split)
        record = self._out / DONE / f"{self._task.name}_{split}.json"
        origin = {
            "sources": [{"source": str(source.absolute()), "sha256": file_digest(source)} for source in sources],
            "golds": self._files.golds and file_digest(self._files.golds),
            "media": str(self._media),
            "choice": asdict(self._choice),
        }
        if split == "train":  # whose records may share images with the test set
            origin["tested"] = file_digest(dataset_file(self._out, self._task.name, "test"))
        part = _done(record, file, origin)
        if part is None:
            record.unlink(missing_ok=True)
            chosen = self._chosen(sources, split)
            part = Part(0, 0, 0, 0, {}, {})
            _write_rows(file, self._rows(sources, split, chosen, part), part)
            if not part.written and (self._choice.skip_broken or not (part.records or part.images)):
                raise ValueError(f"{', '.join(map(str, sources))}: there is no record to write.")
            if self._choice.skip_broken or not (part.records or part.images):
                write_json(record, {"origin": origin, "size": file.stat().st_size, "part": asdict(part)})
        if split == "test":
            self._tested = {_digest(row["image"]) for _, row in numbered_records(file) if row["image"] is not None}
        return part, origin["sources"]

    def _chosen(self, sources: Sequence[Path], split: str) -> set[int] | None:
        """Draw the positions of the records to keep; None for all, which saves counting them."""
        share = self._choice.train_share if split == "train" else 1.0
        limit = self._choice.max_test if split == "test" else None
        if share == 1 and limit is None:
            return None
        rng = random.Random(f"{self._published.title} {self._task.name} {split} {self._choice.seed}")
        total = sum(1 for _ in read_source(sources))
        count = max(1, round(share * total)) if limit is None else min(limit, total)
        return set(rng.sample(range(total), min(count, total)))

    def _rows(self, sources: Sequence[Path], split: str, chosen: set[int] | None, part: Part) -> Iterator[dict]:
        """Yield the rows to write, and count in `part` what becomes of all records."""
        records = self._checked(sources, split, chosen, part)
        seen: set[bytes] = set()
        while batch := list(islice(records, _BATCH)):
            images = [row["image"] and self._files.find_image(row["image"]) for row in batch]
            faults = self._check(image for image in images if image is not None)
            for row, image in zip(batch, images, strict=True):
                if image in faults:
                    part.images[row["image"]] = faults[image]
                    continue
                if image is not None:
                    row["image"] = relpath(image, self._media)
                if not self._is_dropped(row, split, seen, part):
                    yield row

    def _is_dropped(self, row: dict, split: str, seen: set[bytes], part: Part) -> bool:
        """Count a row that stands there twice, or whose image is tested; tell whether it is to be left out."""
        digest = _digest(json_line(row))
        twice = digest in seen
        seen.add(digest)
        tested = split == "train" and row["image"] is not None and _digest(row["image"]) in self._tested
        part.duplicates += twice
        part.shared += tested
        return (twice and self._choice.drop_duplicates) or (tested and self._choice.drop_shared)

    def _checked(self, sources: Sequence[Path], split: str, chosen: set[int] | None, part: Part) -> Iterator[dict]:
        """Yield the chosen records that are as published and can be scored; note the others, by their numbers."""
        task = self._task
        for number, record in enumerate(read_source(sources), start=1):
            if chosen is not None and number - 1 not in chosen:
                continue
            part.chosen += 1
            try:
                if split == "train":
                    row = to_train_row(task, record)
                else:
                    row = to_test_row(task, record, self._golds(number, record), gold_field(task))
                    scorer_of(task.scorer).check(row)
            except ValueError as error:
                part.records[number] = str(error)
            else:
                yield row


def _digest(content: str | bytes) -> bytes:
    return blake2b(content.encode() if isinstance(content, str) else content, digest_size=16).digest()


def _done(record: Path, file: Path, origin: Mapping[str, Any]) -> Part | None:
    """Return what became of the records of a part that is whole, and from the same files; else None."""
    if not (record.is_file() and file.is_file()):
        return None
    done = read_json(record)
    if done["origin"] != origin or done["size"] != file.stat().st_size:
        return None
    part = Part(**done["part"])
    part.records = {int(number): fault for number, fault in part.records.items()}
    return part


def _read_golds(task: PublishedTask, files: TaskFiles, say: Callable[[str], None]) -> Golds:
    """Read a task's file of further gold answers."""
    if task.golds is None:
        return lambda number, record: {}
    if files.golds is None:
        say(f"note: {task.golds.names[0]} was not found: {task.golds.missing}.")
        return lambda number, record: {}
    own = [record.get("answer") for record in read_source(files.test)]
    try:
        return task.golds.read(files.golds, own, say)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{files.golds} is not {task.name}'s file of gold answers: {error!r}.") from error


def _told(part: Part, split: str, choice: Choice) -> str:
    """Say what became of a part's records."""
    said = [f"{part.written} records"]
    if part.left_out:
        said.append(f"{part.left_out} left out")
    if part.duplicates:
        said.append(f"{part.duplicates} exact duplicates {'' if choice.drop_duplicates else 'kept'}".rstrip())
    if part.shared:
        said.append(f"{part.shared} with an image of the test set {'' if choice.drop_shared else 'kept'}".rstrip())
    return ", ".join(said)


def _require_sound(
    published: Published,
    found: Mapping[str, TaskFiles],
    parts: Mapping[str, Mapping[str, Part]],
    out: Path,
    media: Path,
    skip_broken: bool,
) -> None:
    """List every record and image at fault in `FAULTS_FILE`.

    Raises:
        ValueError: If there are some, and they are not to be left out.
    """
    (out / FAULTS_FILE).unlink(missing_ok=True)
    every = [(name, split, part) for name, own in parts.items() for split, part in own.items()]
    lines = [
        f"{name}\t{split} record {number}\t{fault}\n"
        for name, split, part in every
        for number, fault in part.records.items()
    ]
    images = {name: {**own["test"].images, **own["train"].images} for name, own in parts.items()}
    lines += [f"{name}\t{path}\t{fault}\n" for name, own in images.items() for path, fault in own.items()]
    if lines:
        write_text(out / FAULTS_FILE, "".join(lines))
    if not lines or skip_broken:
        return
    message = [
        f"{', '.join(map(str, getattr(found[name], split)))}: {listed_faults(part.records)}."
        for name, split, part in every
        if part.records
    ]
    if any(images.values()):
        message.append(
            f"images below {media} are missing or broken; name their folder with --images, or put them in place:"
        )
        message += [_image_line(task, images[task.name]) for task in published.tasks if images[task.name]]
    message.append(f"All are listed in {out / FAULTS_FILE}. Mend them, or leave their records out with --skip-broken.")
    raise ValueError("\n".join(message))


def _image_line(task: PublishedTask, faults: Mapping[str, str]) -> str:
    counts = Counter(fault == "missing" for fault in faults.values())
    example, fault = next(iter(faults.items()))
    return (
        f"  - {task.name}: {counts[True]} missing, {counts[False]} broken, such as {example} ({fault}). "
        f"They come from: {task.images}."
    )


def _write_rows(file: Path, rows: Iterable[dict], part: Part) -> None:
    """Write rows as JSONL, the first with an image ahead of all without one.

    `datasets` infers the columns from the first records: without a path among them it takes `image` for empty.
    """
    waiting: list[dict] | None = []
    with replacing(file) as temporary, temporary.open("wb") as lines:
        for row in rows:
            part.written += 1
            ready = [row]
            if waiting is not None:
                if row["image"] is None:
                    waiting.append(row)
                    continue
                ready, waiting = [row, *waiting], None
            lines.writelines(map(json_line, ready))
        lines.writelines(map(json_line, waiting or ()))
