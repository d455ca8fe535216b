"""Samples of earlier tasks, and general ones, joined to what the host is about to tokenize for training."""

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from datasets import Dataset, Value, concatenate_datasets, load_from_disk

from sefe_plugin.data.added import draw, mix_count, replay_counts
from sefe_plugin.files import is_file, replacing_folder


logger = logging.getLogger(__name__)

_MEDIA = ("_images", "_videos", "_audios")


def with_added(own: Dataset, load: Callable[[str], Dataset], data_args, training_args) -> Dataset:
    """Return a task's samples followed by those that join them, and keep some of its own for later tasks.

    The host shuffles what it trains.

    Args:
        own: The task's training part in the host's columns, diversified where `asd_ratio` asks for it.
        load: Given the name of a general dataset, loads it in the host's columns.
        data_args: The host's arguments for the data, with the plugin's keys.
        training_args: The host's training arguments; `seed` draws the samples.

    Returns:
        As many as `added_samples` says more; the same in every process.
    """
    parts, seed = {"its own": own}, training_args.seed
    if data_args.replay_ratio:
        folders = data_args.replay_from
        if data_args.replay_to is not None and training_args.should_save:
            kept = own
            if data_args.replay_size is not None:
                kept = own.select(sorted(draw(len(own), min(data_args.replay_size, len(own)), f"{seed}/kept")))
            keep(kept, Path(data_args.replay_to), data_args.media_dir)
        for index, count in enumerate(replay_counts(len(own), data_args.replay_ratio, len(folders))):
            drawn = partial(draw, count=count, stream=f"{seed}/replay/{len(folders)}/{index}")
            folder = Path(folders[index])
            parts[folder.parent.name] = read_kept(folder, data_args.media_dir, drawn)
    for entry in data_args.mix or ():
        general = load(entry["dataset"])
        count = mix_count(len(own), entry["share"])
        parts[entry["dataset"]] = general.select(draw(len(general), count, f"{seed}/mix/{entry['dataset']}"))
    counts = ", ".join(f"{len(part)} of {name}" for name, part in parts.items())
    logger.info("Samples of this task: %s", counts)
    return concatenate_datasets([part for part in parts.values() if len(part)])


def keep(samples: Dataset, folder: Path, media_dir: str) -> None:
    """Write samples for later tasks.

    Files below `media_dir` are named from there, so that a run whose data has moved can go on.

    Args:
        samples: In the host's columns.
        folder: Where to; whole or absent.
        media_dir: The host's folder of pictures, videos and sounds.
    """
    below = media_dir.rstrip("/") + "/"
    with replacing_folder(folder) as draft:
        _renamed(samples, lambda name: name.removeprefix(below)).save_to_disk(draft)


def read_kept(folder: Path, media_dir: str, choose: Callable[[int], Sequence[int]] = range) -> Dataset:
    """Return samples that `keep` wrote.

    Args:
        folder: Where they are.
        media_dir: The host's folder of pictures, videos and sounds, as it is now.
        choose: Given how many there are, returns which to read; all of them by default.
    """
    kept = load_from_disk(folder)
    kept = kept.select(choose(len(kept)))

    def found(name: str) -> str:
        path = os.path.join(media_dir, name)  # noqa: PTH118 - the host's own words, to the letter
        return path if is_file(path) else name

    return _renamed(kept, found)


def _renamed(samples: Dataset, rename: Callable[[str], str]) -> Dataset:
    """Rename the files that samples name; pictures that they hold themselves are left alone."""
    columns = [name for name in _MEDIA if getattr(samples.features[name], "feature", None) == Value("string")]
    if not columns:
        return samples

    def renamed(*batches: list[list[str] | None]) -> dict:
        return {
            name: [files and [rename(file) for file in files] for files in batch]
            for name, batch in zip(columns, batches, strict=True)
        }

    # in memory: beside the kept samples no cache of theirs is to be written
    return samples.map(
        renamed,
        batched=True,
        input_columns=columns,
        features=samples.features,
        keep_in_memory=True,
        desc="Naming files",
    )
