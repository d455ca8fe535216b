"""The questions of test sets as the host asks them, in its own template."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from llamafactory.data import MultiModalDataCollatorForSeq2Seq, get_template_and_fix_tokenizer
from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.parser import DatasetAttr, get_dataset_list
from llamafactory.data.processor import UnsupervisedDatasetProcessor
from llamafactory.data.template import ReasoningTemplate
from llamafactory.model import load_tokenizer
from torch import Tensor

from sefe_plugin.hosts.llamafactory.image_sizes import by_size
from sefe_plugin.hosts.llamafactory.replies import Replies


_IMAGE_TOKEN = "<image>"  # noqa: S105 - the host's placeholder
#: The host cuts questions to a length of its own; no question is as long as this.
_UNCUT = 1 << 40


class QuestionReader:
    """Encodes the questions of test sets with the host's template, tokenizer and processor, and never cuts one.

    Args:
        model_args: the host's arguments of the model.
        data_args: the host's arguments of the data.
        expand_images: whether a question holds as many image tokens as the model sees, or one for each image.
        loaded: the host's tokenizer and processor, if they are loaded for questions already.

    Attributes:
        tokenizer: pads on the left.
        processor: None for a model without images.
        template: the host's.
        stop_token_ids: every token that ends an answer.
        replies: what of a generated reply is the answer.
    """

    def __init__(self, model_args, data_args, expand_images: bool = True, loaded: Mapping[str, Any] | None = None):
        loaded = loaded or load_tokenizer(model_args)
        self.tokenizer, self.processor = loaded["tokenizer"], loaded["processor"]
        self._data_args = copy.copy(data_args)
        self._data_args.cutoff_len = _UNCUT
        # a copy, because the host keeps one template for all its users
        self.template = copy.copy(get_template_and_fix_tokenizer(self.tokenizer, self._data_args))
        self.template.mm_plugin = copy.copy(self.template.mm_plugin)
        self.template.mm_plugin.expand_mm_tokens = expand_images
        self.tokenizer.padding_side = "left"
        self.stop_token_ids = sorted(self.template.get_stop_token_ids(self.tokenizer))
        self.replies = Replies(self.template, self.tokenizer)
        self._converters: dict[str, tuple] = {}
        # the tokens of a question want the sizes of its images alone; the images themselves are read by `collate`
        self._encoder = UnsupervisedDatasetProcessor(
            template=by_size(self.template),
            tokenizer=self.tokenizer,
            processor=self.processor,
            data_args=self._data_args,
        )

    def way_of_asking(self) -> str | None:
        """Say how a template with thoughts asks: as in training, by `enable_thinking`; None for any other template."""
        if not isinstance(self.template, ReasoningTemplate):
            return None
        thinking = self.template.enable_thinking
        how = {
            True: "the model writes its thought, or an empty one, itself",
            False: "an empty thought ends every question",
            None: "an empty thought ends every question whose response in the test set has no thought",
        }
        return (
            f"Questions of test sets are asked as in training, with `enable_thinking: {str(thinking).lower()}`: "
            f"{how[thinking]}. Thoughts are cut from the answers before they are scored."
        )

    def questions(self, dataset: str, records: list[dict], numbers: Sequence[int] | None = None) -> list[dict]:
        """Turn records into the host's features; a record with an image but no place for it gets one in front.

        Args:
            dataset: The host's name of the test set.
            records: All its records.
            numbers: Those that are wanted, from 0; None for all.

        Raises:
            ValueError: if a record has no single question; names the first by its number.
        """
        features = []
        for number in range(len(records)) if numbers is None else numbers:
            try:
                features.append(self.question(dataset, records[number]))
            except ValueError as error:
                raise ValueError(f"{dataset}, record {number + 1}: {error}") from error
        return features

    def question(self, dataset: str, record: Mapping) -> dict:
        """Turn one record into the host's features.

        Raises:
            ValueError: if it has no single question. The host's own code may raise any other error on odd records.
        """
        row = self.row(dataset, record)
        prompt = row["_prompt"]
        for message in prompt:
            if not isinstance(message["content"], str):
                raise ValueError(f"each turn must be a text; got {str(message['content'])[:200]}")
        if not prompt or not prompt[-1]["content"].strip():
            raise ValueError("has no question: turns must alternate, the user's first, and no question may be empty")
        if row["_images"] and not any(_IMAGE_TOKEN in message["content"] for message in prompt):
            prompt[0]["content"] = f"{_IMAGE_TOKEN}\n{prompt[0]['content']}"
        encoded = self._encoder.preprocess_dataset({key: [value] for key, value in row.items()})
        if not encoded:
            raise ValueError("must end with a question, or with a question and its answer")
        return {key: value for key, (value,) in encoded.items()}

    def row(self, dataset: str, record: Mapping) -> dict:
        """Return a record in the host's one layout: `_prompt`, `_response`, `_images` and so on."""
        if dataset not in self._converters:
            (attributes,) = get_dataset_list([dataset], self._data_args.dataset_dir)
            columns = [column for column in vars(attributes).values() if isinstance(column, str)]
            converter = get_dataset_converter(attributes.formatting, attributes, self._data_args)
            self._converters[dataset] = dict.fromkeys(columns), converter, attributes
        absent, convert, attributes = self._converters[dataset]
        return convert({**absent, **_answered(record, attributes)})

    def reply(self, text: str) -> list[int]:
        """Return the tokens of a reply with this text, as the host trains on them."""
        question = [{"role": "user", "content": "?"}]
        row = {"_prompt": question, "_response": [{"role": "assistant", "content": text}], "_system": "", "_tools": ""}
        row |= dict.fromkeys(("_images", "_videos", "_audios"))
        return self._encoder.preprocess_dataset({key: [value] for key, value in row.items()})["labels"][0]

    def collate(self) -> Callable[[list[dict]], dict[str, Tensor]]:
        """Return what makes the model's arguments of a batch of questions."""
        # without the model, as in the host's own prediction: with it, positions are computed for training
        collator = MultiModalDataCollatorForSeq2Seq(
            template=self.template, tokenizer=self.tokenizer, processor=self.processor
        )
        return partial(_collate, collator)


def _answered(record: Mapping, attributes: DatasetAttr) -> Mapping:
    """Return a record with an empty answer behind a last question, without which the host takes no conversation."""
    turns = record.get(attributes.messages)
    last = turns[-1] if attributes.formatting != "alpaca" and isinstance(turns, list) and turns else None
    if not isinstance(last, Mapping) or last.get(attributes.role_tag) != attributes.user_tag:
        return record
    answer = {attributes.role_tag: attributes.assistant_tag, attributes.content_tag: ""}
    return {**record, attributes.messages: [*turns, answer]}


def _collate(collator: MultiModalDataCollatorForSeq2Seq, features: list[dict]) -> dict[str, Tensor]:
    # the collator takes fields out of the features it is given
    batch = collator([dict(feature) for feature in features])
    batch.pop("labels")
    return batch
