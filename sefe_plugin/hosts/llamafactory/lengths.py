"""How many samples a task has, and how long they are in the host's own encoding."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from llamafactory.data import get_template_and_fix_tokenizer
from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.parser import DatasetAttr, get_dataset_list
from llamafactory.data.processor import SupervisedDatasetProcessor
from llamafactory.hparams import DataArguments, ModelArguments
from llamafactory.model import load_tokenizer
from transformers import HfArgumentParser

from sefe_plugin.data.added import mix_names
from sefe_plugin.data.records import RecordFile
from sefe_plugin.plan.sizes import TaskSize, TestSize
from sefe_plugin.recipe.tasks import Task


#: Samples of a task that are encoded, evenly spread over its data.
_DRAWN = 32

#: Estimated tokens of a sample's text, without a tokenizer: the mean, and the longest.
TEXT_TOKENS, LONGEST_TEXT = 100, 300


class Lengths:
    """Measures tasks with the tokenizer of a recipe if it is on this machine; otherwise estimates.

    Args:
        arguments: the recipe's keys.
        image_tokens: of one image.
    """

    def __init__(self, arguments: Mapping[str, Any], image_tokens: int):
        self._arguments = arguments
        self._image_tokens = image_tokens
        try:
            parser = HfArgumentParser([ModelArguments])
            (model_args,) = parser.parse_dict(dict(arguments), allow_extra_keys=True)
            self._loaded = load_tokenizer(model_args)
        except (OSError, ValueError):
            self._loaded = None
        # from a folder without tokenizer files, Transformers makes one that knows nothing but special tokens
        if self._loaded and len(self._loaded["tokenizer"]) <= len(self._loaded["tokenizer"].all_special_tokens) + 1:
            self._loaded = None

    def estimate(self) -> tuple[int, int]:
        """Return the mean and the longest number of tokens of a sample with one image, as an estimate."""
        cutoff = int(self._arguments.get("cutoff_len", 2048))
        return min(self._image_tokens + TEXT_TOKENS, cutoff), min(self._image_tokens + LONGEST_TEXT, cutoff)

    def of_task(self, task: Task) -> TaskSize:
        """Count and measures the datasets of one task.

        Args:
            task: whose datasets `dataset_info.json` in the recipe's `dataset_dir` describes.
        """
        keys = {**self._arguments, **task.overrides, "dataset": task.dataset}
        (data_args,) = HfArgumentParser([DataArguments]).parse_dict(keys, allow_extra_keys=True)
        samples, measured = 0, []
        for attributes in get_dataset_list(data_args.dataset, data_args.dataset_dir):
            count, lengths = self._measure(attributes, data_args)
            if count is None:
                samples = None
                break
            limits = [n for n in (attributes.num_samples, data_args.max_samples) if n]
            own = min([count, *limits])
            samples += own
            measured += [(own, fmean(lengths), max(lengths))] if lengths else []
        tests = TestSize(task.name, 0, 0)
        if task.test_dataset is not None:
            tests = self.of_test_set(task.name, task.test_dataset, keys.get("max_test_samples"))
        average, longest = self.estimate()
        if measured:
            counts, means, most = zip(*measured, strict=True)
            average, longest = round(fmean(means, counts)), max(most)
        return TaskSize(
            task.name,
            samples,
            average,
            longest,
            tests.records,
            tests.bytes,
            "measured" if measured else "counted",
        )

    def of_test_set(self, name: str, dataset: str, limit: int | None = None) -> TestSize:
        """Count the records of a test set that are answered.

        Args:
            name: Its name.
            dataset: The host's name of it.
            limit: Most records that are answered; None for all.
        """
        folder = Path(self._arguments.get("dataset_dir") or "data")
        (attributes,) = get_dataset_list([dataset], str(folder))
        records, _ = _read(attributes, folder)
        size = (folder / attributes.dataset_name).stat().st_size
        if limit is None or limit >= records:
            return TestSize(name, records, size)
        return TestSize(name, limit, size * limit // records)

    def of_mix(self, task: Task) -> dict[str, tuple[float, int]]:
        """Return the mean and the longest length of each general dataset of a task, in tokens, if known.

        Args:
            task: As in `of_task`.
        """
        keys = {**self._arguments, **task.overrides, "dataset": task.dataset}
        (data_args,) = HfArgumentParser([DataArguments]).parse_dict(keys, allow_extra_keys=True)
        names, found = mix_names(keys), {}
        for name, attributes in zip(names, get_dataset_list(names, data_args.dataset_dir), strict=True):
            if lengths := self._measure(attributes, data_args)[1]:
                found[name] = fmean(lengths), max(lengths)
        return found

    def _measure(self, attributes: DatasetAttr, data_args: DataArguments) -> tuple[int | None, list[int]]:
        """Count a dataset, and measure some of its samples if there is a tokenizer."""
        count, drawn = _read(attributes, Path(data_args.dataset_dir))
        return count, [*self._encoded(attributes, drawn, data_args)] if self._loaded is not None and drawn else []

    def _encoded(self, attributes: DatasetAttr, records: list[dict], data_args: DataArguments) -> Iterator[int]:
        """Yield the lengths of samples as the host trains on them."""
        template = get_template_and_fix_tokenizer(self._loaded["tokenizer"], data_args)
        encoder = SupervisedDatasetProcessor(template=template, **self._loaded, data_args=data_args)
        convert = get_dataset_converter(attributes.formatting, attributes, data_args)
        columns = [column for column in vars(attributes).values() if isinstance(column, str)]
        rows = [convert({**dict.fromkeys(columns), **record}) for record in records]
        encoded = encoder.preprocess_dataset({key: [row[key] for row in rows] for key in rows[0]})
        yield from map(len, encoded["input_ids"])


def _read(attributes: DatasetAttr, folder: Path) -> tuple[int | None, list[dict]]:
    """Count the records of a local JSON dataset and draw some, evenly spread.

    Returns:
        None and no record for any other dataset, which only a run downloads or unpacks.
    """
    file = folder / attributes.dataset_name
    if attributes.load_from != "file" or file.suffix not in (".json", ".jsonl"):
        return None, []
    records = RecordFile(file)
    try:
        count = len(records)
        return count, [records[index] for index in range(0, count, max(1, count // _DRAWN))[:_DRAWN]]
    finally:
        records.close()
