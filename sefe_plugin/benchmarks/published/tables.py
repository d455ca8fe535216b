"""What the table of a published benchmark holds: its tasks, their files, and where each of them comes from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sefe_plugin.benchmarks.base import BenchmarkTask, PublishedSize
from sefe_plugin.evaluation.scorers import Spec


#: From a test record's number, from 1, and the record to the fields that a file of gold answers adds to it.
Golds = Callable[[int, Mapping], dict]


class GoldFile(NamedTuple):
    """A file beside a test set that holds further gold answers, such as five captions for each image.

    Attributes:
        names: Its possible paths, from the task's folder or from the root of the images.
        read: Reads it; given its path, the own `answer` of each test record (None where it has none), and what is
            told of a doubt, a line. Raises ValueError where it is something else.
        missing: What does not work without it, and where it comes from; None where the test set cannot be scored.
    """

    names: tuple[str, ...]
    read: Callable[[Path, Sequence[Any], Callable[[str], None]], Golds]
    missing: str | None = None


@dataclass(frozen=True)
class PublishedTask:
    """A task of a published benchmark.

    Attributes:
        name: Its name in recipes and reports.
        scorer: The scorer of its answers, as a recipe writes it.
        official: Name of its official rule, or None.
        folders: Names of its folder; case and signs other than letters and digits do not matter.
        train: Names of its training file, the first that is there wins.
        test: Names of its test file, likewise.
        images: Where its images come from, how large they are as far as it is known, and their terms.
        size: How many records are published, for `sefe plan`.
        asd_by_rule: Whether rules can write its answers in other styles; they cannot shorten captions and reports.
        golds: A file of further gold answers, or None.
        complete: Checks a test record and adds what scores need; raises ValueError for one at fault.
        some_without_image: Whether records may have no image.
    """

    name: str
    scorer: Spec
    official: str | None
    folders: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    images: str
    size: PublishedSize
    asd_by_rule: bool = True
    golds: GoldFile | None = None
    complete: Callable[[dict], dict] = dict
    some_without_image: bool = False

    def benchmark_task(self) -> BenchmarkTask:
        """Return it as a benchmark has it."""
        return BenchmarkTask(self.name, self.scorer, self.official, self.asd_by_rule)


class Variant(NamedTuple):
    """One published version of the annotations.

    Attributes:
        folders: Folders below the source that may hold the task folders, "" for the source itself.
        origin: Where to get it, its size as far as it is known, and its licence.
        train: Names of the training files in the place of each task's own; None for those.
    """

    folders: tuple[str, ...]
    origin: str
    train: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Published:
    """A published benchmark.

    Attributes:
        name: What recipes and `sefe prepare` call it.
        title: What it is called elsewhere.
        tasks: Its tasks in their own order.
        variants: Name -> version of its annotations; the first is the default.
        image_folders: Folders below the source where the paths of images may lead from, "" for the source itself.
        images_by_task: Whether the paths of images start from the task's folder.
        notes: What a user should know of the prepared data, one sentence each.
    """

    name: str
    title: str
    tasks: tuple[PublishedTask, ...]
    variants: Mapping[str, Variant]
    image_folders: tuple[str, ...] = ("",)
    images_by_task: bool = False
    notes: tuple[str, ...] = ()

    @property
    def default_variant(self) -> str:
        """Name of the variant that is taken where none is named."""
        return next(iter(self.variants))

    def variant(self, name: str | None) -> Variant:
        """Return a variant by its name, or the default.

        Raises:
            ValueError: For an unknown name.
        """
        name = name or self.default_variant
        if name not in self.variants:
            raise ValueError(f"the variant of {self.title} must be one of {', '.join(self.variants)}; got {name!r}.")
        return self.variants[name]
