"""The questions of test sets as the host asks them, in its own template."""

import copy

from llamafactory.data import get_template_and_fix_tokenizer
from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.parser import get_dataset_list
from llamafactory.data.processor import UnsupervisedDatasetProcessor
from llamafactory.model import load_tokenizer


_IMAGE_TOKEN = "<image>"  # noqa: S105 - the host's placeholder


class QuestionReader:
    """Encodes the questions of test sets with the host's template, tokenizer and processor.

    Args:
        model_args: the host's arguments of the model.
        data_args: the host's arguments of the data.
        expand_images: whether a question holds as many image tokens as the model sees, or one for each image.

    Attributes:
        tokenizer: pads on the left.
        processor: None for a model without images.
        template: the host's.
        stop_token_ids: every token that ends an answer.
    """

    def __init__(self, model_args, data_args, expand_images: bool = True):
        loaded = load_tokenizer(model_args)
        self.tokenizer, self.processor = loaded["tokenizer"], loaded["processor"]
        self._data_args = copy.copy(data_args)
        # a copy, because the host keeps one template for all its users
        self.template = copy.copy(get_template_and_fix_tokenizer(self.tokenizer, self._data_args))
        self.template.mm_plugin = copy.copy(self.template.mm_plugin)
        self.template.mm_plugin.expand_mm_tokens = expand_images
        self.tokenizer.padding_side = "left"
        self.stop_token_ids = sorted(self.template.get_stop_token_ids(self.tokenizer))
        self._encoder = UnsupervisedDatasetProcessor(
            template=self.template, tokenizer=self.tokenizer, processor=self.processor, data_args=self._data_args
        )

    def questions(self, dataset: str, records: list[dict]) -> list[dict]:
        """Turn records into the host's features; a record with an image but no place for it gets one in front.

        Raises:
            ValueError: if a record has no single question.
        """
        (attributes,) = get_dataset_list([dataset], self._data_args.dataset_dir)
        convert = get_dataset_converter(attributes.formatting, attributes, self._data_args)
        columns = [column for column in vars(attributes).values() if isinstance(column, str)]
        aligned = [convert({**dict.fromkeys(columns), **record}) for record in records]
        for row in aligned:
            if row["_images"] and not any(_IMAGE_TOKEN in message["content"] for message in row["_prompt"]):
                row["_prompt"][0]["content"] = f"{_IMAGE_TOKEN}\n{row['_prompt'][0]['content']}"
        encoded = self._encoder.preprocess_dataset({key: [row[key] for row in aligned] for key in aligned[0]})
        features = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
        if len(features) != len(records):
            raise ValueError(
                f"{len(records) - len(features)} of {len(records)} records of {dataset} have no single question."
            )
        return features

    def decode(self, tokens: list[int]) -> str:
        """Turn the tokens of an answer into text, without special tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)
