"""The files of a published benchmark below a download, whatever they are called there."""

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sefe_plugin.benchmarks.published.images import ImageFinder
from sefe_plugin.benchmarks.published.tables import Published, PublishedTask
from sefe_plugin.benchmarks.published.unpack import PARQUET, UNPACKED, is_packed, shard_records, stem_of, unpack
from sefe_plugin.data.reader import read_array, read_records
from sefe_plugin.words import size_in_words


#: The parts of a task, tests first: what they hold may say which training records are left out.
SPLITS = ("test", "train")
#: The name of a shard, which says how many there are: "train-00000-of-00007".
_SHARD = re.compile(r"(?P<name>.*)-(?P<number>\d+)-of-(?P<count>\d+)")


class TaskFiles(NamedTuple):
    """A task's files.

    Attributes:
        train: Its training records: one JSON file, or the files of several parquet shards.
        test: Its test records, likewise.
        golds: Its file of further gold answers, or None.
        find_image: From the path in a record to the image.
    """

    train: tuple[Path, ...]
    test: tuple[Path, ...]
    golds: Path | None
    find_image: ImageFinder


class _Places(NamedTuple):
    """Where a benchmark's files may lie: folders for annotations, for images, and of what is unpacked."""

    annotations: tuple[Path, ...]
    images: tuple[Path, ...]
    unpacked: Path

    def task_folders(self, task: PublishedTask, roots: Iterable[Path]) -> list[Path]:
        """Return the folders of a task below some roots that are there."""
        found = [
            folder for root in roots for folder in _entries(root) if folder.is_dir() and is_own(task, folder.name)
        ]
        return list(dict.fromkeys(found))


def find_files(
    published: Published, source: Path, images: Path | None, variant: str | None, out: Path, say: Callable[[str], None]
) -> tuple[dict[str, TaskFiles], Path]:
    """Find the annotations and the images of all tasks; unpack archives and parquet shards into `out`/unpacked.

    Args:
        published: The benchmark's table.
        source: The download.
        images: Folder where the records' image paths lead, if it is another one.
        variant: Name of the version of the annotations; None for the default.
        out: Folder of the datasets.
        say: Given one line for each archive that is unpacked.

    Returns:
        The files by task, and the folder below which all images lie.

    Raises:
        ValueError: If the source, annotations or folders of images are missing; names all of them, where they come
            from, their sizes and licences.
    """
    version = published.variant(variant)
    if not source.is_dir():
        raise ValueError(f"{source} is no folder. It must hold the files of {published.title}: {version.origin}.")
    if images and not images.is_dir():
        raise ValueError(f"--images must name a folder; {images} is none.")
    unpacked = out.absolute() / UNPACKED
    roots = [images.absolute()] if images else [source.absolute() / folder for folder in published.image_folders]
    places = _Places(
        tuple(source.absolute() / folder for folder in version.folders),
        tuple(root for root in roots if root.is_dir()) or (source.absolute(),),
        unpacked,
    )
    shards = _unpack_all(published, places, say)
    found = {
        task.name: _task_files(published, task, version.train or task.train, places, shards[task.name])
        for task in published.tasks
    }
    lines = [
        f"  - {task.name}: {' or '.join(names)}"
        for task in published.tasks
        for split, names in (("train", version.train or task.train), ("test", task.test))
        if not getattr(found[task.name], split)
    ]
    lines += [
        f"  - {task.name}: {', '.join(absent)}"
        for task in published.tasks
        for split in SPLITS
        if (absent := _absent_shards(getattr(found[task.name], split)))
    ]
    lines += [
        f"  - {task.name}: {' or '.join(task.golds.names)}"
        for task in published.tasks
        if task.golds and task.golds.missing is None and found[task.name].golds is None
    ]
    if lines:
        folders = ", ".join(str(source / folder) for folder in version.folders)
        head = f"files of {published.title} are missing in the task folders below any of {folders}:"
        lines = [head, *lines, f"They come from: {version.origin}."]
    if absent := list(_absent_images(published, found)):
        below = ", ".join(map(str, places.images))
        lines += [f"images of {published.title} are missing below {below}; name their folder with --images:", *absent]
    if lines:
        raise ValueError("\n".join(lines))
    return found, _common_folder([*places.images, unpacked] if unpacked.is_dir() else places.images)


def read_source(files: Iterable[Path]) -> Iterator[dict]:
    """Yield the records of a part of a task, one after the other."""
    for file in files:
        if file.suffix == ".jsonl":
            yield from (placed.record for placed in read_records(file))
        else:
            yield from read_array(file)


def is_own(task: PublishedTask, name: str) -> bool:
    """Tell whether a name is one of a task's folder; case and signs do not matter."""
    return _key(name) in {_key(own) for own in task.folders}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _unpack_all(published: Published, places: _Places, say: Callable[[str], None]) -> dict[str, list[Path]]:
    """Unpack what is packed, of all tasks; return the files of records that parquet shards became, by task."""
    roots = dict.fromkeys((*places.annotations, *places.images))
    packed: dict[tuple[str, Path], Path] = {}
    for task in published.tasks:
        target = places.unpacked / task.name
        archives = [file for root in roots for file in _entries(root) if is_own(task, stem_of(file))]
        packed |= {(task.name, file): target for file in archives if is_packed(file)}
        for file in (file for folder in places.task_folders(task, roots) for file in _entries(folder)):
            if is_packed(file):
                packed[task.name, file] = target if file.suffix == PARQUET else target / stem_of(file)
    # what the user has unpacked beside it
    packed = {key: target for key, target in packed.items() if not key[1].with_name(stem_of(key[1])).is_dir()}
    shards: dict[str, list[Path]] = {task.name: [] for task in published.tasks}
    if packed:
        places.unpacked.mkdir(parents=True, exist_ok=True)
        _require_room(packed, places.unpacked)
    for (task, file), target in packed.items():
        unpack(file, target, places.unpacked, say)
        if file.suffix == PARQUET:
            shards[task].append(shard_records(file, target))
    return shards


def _require_room(packed: Iterable[tuple[str, Path]], unpacked: Path) -> None:
    """Refuse to unpack what the disk has no room for; what is unpacked already counts, too."""
    wanted = sum(file.stat().st_size for _, file in packed)
    there = sum(file.stat().st_size for file in unpacked.rglob("*") if file.is_file())
    free = shutil.disk_usage(unpacked).free
    if wanted > there + free:
        raise ValueError(
            f"{unpacked} needs {size_in_words(wanted)} for what is to be unpacked, and has {size_in_words(free)} "
            "free. Make room, or choose another --out."
        )


def _task_files(
    published: Published, task: PublishedTask, train: tuple[str, ...], places: _Places, shards: list[Path]
) -> TaskFiles:
    folders = places.task_folders(task, (*places.annotations, places.unpacked))
    parts = {}
    for split, names in (("train", train), ("test", task.test)):
        file = _first_file(folder / name for folder in folders for name in names)
        parts[split] = (file,) if file else tuple(shard for shard in shards if split in shard.stem)
    golds = None
    if task.golds:
        golds = _first_file(root / name for root in (*folders, *places.images) for name in task.golds.names)
    own = places.task_folders(task, (*places.images, *places.annotations, places.unpacked))
    finder = ImageFinder(
        () if published.images_by_task else places.images,
        own,
        lambda name: is_own(task, name),
        own[0] if published.images_by_task and own else places.images[0],
    )
    return TaskFiles(parts["train"], parts["test"], golds, finder)


def _absent_shards(files: Iterable[Path]) -> list[str]:
    """Return the names of the shards that are not there, of those that the names of the others count.

    Example:
        >>> _absent_shards([Path("test-00001-of-00003.jsonl")])
        ['test-00000-of-00003.parquet', 'test-00002-of-00003.parquet']
    """
    there: dict[tuple[str, str], set[int]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file.stem):
            there.setdefault((match["name"], match["count"]), set()).add(int(match["number"]))
    return [
        f"{name}-{number:0{len(count)}}-of-{count}{PARQUET}"
        for (name, count), numbers in there.items()
        for number in range(int(count))
        if number not in numbers
    ]


def _first_file(candidates: Iterable[Path]) -> Path | None:
    return next((file for file in candidates if file.is_file()), None)


def _absent_images(published: Published, found: dict[str, TaskFiles]) -> Iterator[str]:
    """Say of which tasks not even the folder of the first image is there, so that no record is read in vain."""
    for task in published.tasks:
        files = found[task.name]
        firsts = [_first_image(getattr(files, split)) for split in SPLITS]
        if absent := [path for path in firsts if path is not None and not files.find_image.has_folder(path)]:
            yield f"  - {task.name}, such as {absent[0]}: {task.images}"


def _first_image(files: tuple[Path, ...]) -> str | None:
    paths = (record.get("image") for record in read_source(files))
    return next((path for path in paths if isinstance(path, str)), None)


def _common_folder(folders: Iterable[Path]) -> Path:
    """Return the narrowest folder that holds all of some folders."""
    first, *others = folders
    for other in others:
        first = next(folder for folder in (first, *first.parents) if other.is_relative_to(folder))
    return first
