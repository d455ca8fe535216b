"""What each process answers of a test set, and in which order."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader

from sefe_plugin.hosts.llamafactory.questions import QuestionReader


class Share:
    """One process's share of a test set.

    Args:
        test_set: Its mapping.
        records: All its records.
        rank: Which process, from 0.
        world: Number of processes.

    Attributes:
        name: Of the test set.
        replies: What the model wrote, by the number of the record.
    """

    def __init__(self, test_set: Mapping[str, Any], records: list[dict], rank: int, world: int):
        self.name, self.records, self._dataset = test_set["name"], records, test_set["dataset"]
        self._rank, self._world = rank, world
        self._size = len(range(rank, len(records), world))
        self._repeated: int | None = None
        self.replies: dict[int, str] = {}

    def batches(
        self, reader: QuestionReader, size: int, workers: int, rolling: bool, part: int = 0, parts: int = 1
    ) -> Iterator[tuple[list[int], Mapping]]:
        """Read its questions, and yield them in batches, each with the numbers of its records.

        Args:
            reader: Of the questions.
            size: Questions of a batch.
            workers: Processes that read images ahead.
            rolling: Whether answers that have ended leave their batch, and what questions share is read once.
            part: Which part of the share, from 0, where several processes divide the only share; see `deal`.
            parts: How many parts there are.
        """
        numbers = self._dealt(reader, part, parts)
        features = reader.questions(self._dataset, self.records, numbers)
        order = order_by_images(features) if rolling else order_by_length(features)
        batches = share_batches(order, self._rank, self._world, size)
        self._repeated = numbers[order[0]] if self._rank and order else None
        loader = DataLoader(features, batch_sampler=batches, collate_fn=reader.collate(), num_workers=workers)
        for batch, questions in zip(batches, loader, strict=True):
            yield [numbers[place] for place in batch], questions

    def _dealt(self, reader: QuestionReader, part: int, parts: int) -> Sequence[int]:
        if parts == 1:
            return range(len(self.records))
        return deal([reader.row(self._dataset, record)["_images"] for record in self.records], parts)[part]

    def take(self, index: int, reply: str) -> bool:
        """Keep a reply; tell whether it is one that was missing."""
        if index == self._repeated or index in self.replies:
            return False
        self.replies[index] = reply
        return True

    def is_answered(self) -> bool:
        """Tell whether no reply is missing."""
        return len(self.replies) == self._size


def order_by_length(features: Sequence[Mapping]) -> list[int]:
    """Put samples of like length side by side, so that batches end early and hold little padding.

    A batch runs until its longest answer ends, so the length of the gold answer ("labels") comes first, and that of
    the question ("input_ids") second. No answer depends on its neighbours.

    Example:
        >>> features = [{"labels": [5, 2], "input_ids": [7]}, {"labels": [2], "input_ids": [7, 8]}]
        >>> order_by_length([*features, {"labels": [2], "input_ids": [9]}])
        [2, 1, 0]
    """
    return sorted(range(len(features)), key=lambda i: (len(features[i]["labels"]), len(features[i]["input_ids"])))


def order_by_images(features: Sequence[Mapping]) -> list[int]:
    """Put samples as `order_by_length` does, and behind each of them those with the same images.

    Example:
        >>> long, short = {"labels": [5, 2], "input_ids": [7]}, {"labels": [2], "input_ids": [7]}
        >>> order_by_images([long | {"images": ["a.png"]}, short, short | {"images": ["a.png"]}])
        [1, 2, 0]
    """
    order = order_by_length(features)
    groups = _by_images([features[number].get("images") for number in order])
    return [order[place] for places in groups for place in places]


def deal(images: Sequence[Sequence | None], parts: int) -> list[list[int]]:
    """Deal samples out, those with the same images together; every part gets about as many.

    Args:
        images: Those of each sample.
        parts: How many parts.

    Example:
        >>> deal([["a.png"], None, ["b.png"], ["a.png"], None], 2)
        [[0, 3], [1, 2, 4]]
    """
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for numbers in _by_images(images):
        min(dealt, key=len).extend(numbers)
    return dealt


def _by_images(images: Sequence[Sequence | None]) -> list[list[int]]:
    """Return the numbers of samples with the same images; one without images is for itself."""
    groups: dict[tuple, list[int]] = {}
    for number, own in enumerate(images):
        groups.setdefault(tuple(map(str, own)) if own else (number,), []).append(number)
    return list(groups.values())


def share_batches(order: Sequence[int], rank: int, world: int, size: int) -> list[list[int]]:
    """Deal samples out to processes in batches; every process gets equally many.

    A batch holds samples that follow each other. Only the last ones hold fewer than `size`, or one less in some
    processes than in others; a process that has none left repeats the first sample, whose answer nobody reads.

    Args:
        order: the samples.
        rank: which process, from 0.
        world: number of processes.
        size: samples of a batch at most.

    Example:
        >>> [share_batches([4, 0, 1, 2, 3], rank, 2, 2) for rank in (0, 1)]
        [[[4, 0], [3]], [[1, 2], [4]]]
    """
    batches = []
    for start in range(0, len(order), world * size):
        dealt = order[start : start + world * size]
        counts = [len(range(process, len(dealt), world)) for process in range(rank + 1)]
        batches.append(list(dealt[sum(counts[:-1]) : sum(counts)]) or list(order[:1]))
    return batches
