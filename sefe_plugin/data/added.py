"""Samples that join a task's own: some of the earlier tasks (replay), and general ones that are of no task (mix).

Example: the third task has 1000 samples, and the recipe says ``replay_ratio: 0.1`` and
``mix: [{dataset: general, share: 0.2}]``. It is trained on 1300 samples: its own, 50 of the first task, 50 of the
second and 200 general ones.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sefe_plugin.options import option


#: Folder below a task's own: the samples that later tasks may draw.
KEPT_FOLDER = "kept_samples"

_MIX_KEYS = {"dataset", "share"}


def _is_mix(value: Any) -> bool:
    """Tell whether a list of mappings is one of `mix`."""
    if not value or any(entry.keys() != _MIX_KEYS for entry in value):
        return False
    names = [entry["dataset"] for entry in value]
    shares = [entry["share"] for entry in value]
    return (
        all(isinstance(name, str) and name and "," not in name for name in names)
        and len(set(names)) == len(names)
        and all(isinstance(share, int | float) and not isinstance(share, bool) and share > 0 for share in shares)
    )


@dataclass
class AddedOptions:
    """Keys of the samples that join a task's own."""

    replay_ratio: float | None = option(
        None,
        "Samples of the earlier tasks that are trained with each later task, as a share above 0 of its own: 0.1 adds "
        "100 to 1000. The earlier tasks give equally many. They come as they were trained, after ASD. Off when "
        "absent.",
        rule="a number above 0 (0.1 adds 100 samples to 1000); leave it out for none",
        holds=lambda value: value > 0,
        scope="sequence",
    )
    replay_size: int | None = option(
        None,
        "Samples of each task that `replay_ratio` may ever draw, at least 1, drawn once; all of them when absent. "
        "Where a later task needs more, they are repeated.",
        rule="a whole number of at least 1; leave it out for all samples",
        holds=lambda value: value >= 1,
        scope="sequence",
    )
    replay_from: list[str] | None = option(
        None,
        "The samples that the earlier tasks have kept, oldest first. A sequence fills this in.",
        scope="filled_in",
    )
    replay_to: str | None = option(
        None,
        "Where this task keeps its samples for later ones. A sequence fills this in, for a task's last training.",
        scope="filled_in",
    )
    mix: list[dict] | None = option(
        None,
        "General data that is trained with each task: a list of mappings with dataset, an entry of dataset_info.json, "
        "and share, the number of its samples as a share above 0 of the task's own. 0.2 adds 200 to 1000, 5.0 adds "
        "5000. ASD leaves them as they are. A smaller dataset is repeated.",
        rule="a list of mappings {dataset: name, share: a number above 0}, each dataset once",
        holds=_is_mix,
    )


def mix_names(arguments: Mapping[str, Any]) -> list[str]:
    """Return the general datasets of a run."""
    return [entry["dataset"] for entry in arguments.get("mix") or ()]


def replay_counts(own: int, ratio: float, earlier_tasks: int) -> list[int]:
    """Return how many samples each earlier task gives, the oldest first.

    They differ by 1 at most, and add up to ``round(ratio * own)``.

    Args:
        own: Samples of the task's own.
        ratio: `replay_ratio`.
        earlier_tasks: How many there are.

    Example:
        >>> replay_counts(1000, 0.1, 3), replay_counts(1000, 0.1, 0)
        ([34, 33, 33], [])
    """
    if not earlier_tasks:
        return []
    each, rest = divmod(round(ratio * own), earlier_tasks)
    return [each + (index < rest) for index in range(earlier_tasks)]


def mix_count(own: int, share: float) -> int:
    """Return how many general samples a share of a task's own is."""
    return round(share * own)


def added_samples(own: int, arguments: Mapping[str, Any], earlier_tasks: int) -> int:
    """Return how many samples join the task's own.

    Args:
        own: How many these are, without those of `val_size`.
        arguments: The task's keys.
        earlier_tasks: How many there are.
    """
    replayed = sum(replay_counts(own, arguments.get("replay_ratio") or 0.0, earlier_tasks))
    return replayed + sum(mix_count(own, entry["share"]) for entry in arguments.get("mix") or ())


def check_kept(folder: Path) -> int:
    """Read the samples that a task has kept, and return how many they are.

    Raises:
        ValueError: If they are missing or damaged.
    """
    from datasets import load_from_disk

    remedy = "Train its task again, or start without `replay_ratio` in another `output_dir`."
    try:
        return len(load_from_disk(folder))
    except FileNotFoundError:
        raise ValueError(f"{folder}: the samples that later tasks may draw are missing. {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # many kinds, as damage has
        raise ValueError(f"{folder}: the samples that later tasks may draw are damaged: {error}. {remedy}") from error


def draw(size: int, count: int, stream: str) -> Sequence[int]:
    """Draw samples in a random order; each comes again only after all have come equally often.

    Args:
        size: How many there are, at least 1.
        count: How many to draw.
        stream: Seeds the drawing, and says in an error what for. The result is the same on every machine and Python
            version.

    Returns:
        Their indices. A smaller `count` gives the beginning of what a larger one gives.

    Raises:
        ValueError: If some are to be drawn of none.

    Example:
        >>> drawn = draw(3, 5, "7")
        >>> sorted(drawn[:3]), drawn[3:] == drawn[:2]
        ([0, 1, 2], True)
    """
    if count and not size:
        raise ValueError(
            f"{stream}: {count} samples are to be drawn where there are none. Mend or leave out the dataset."
        )
    rng = random.Random(stream)
    keys = [rng.random() for _ in range(size)]
    order = sorted(range(size), key=keys.__getitem__)
    return [order[number % size] for number in range(count)]
