"""Questions read by a model, up to the first token of their answers."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from sefe_plugin.evaluation.beginnings import Beginnings, shared_beginnings
from sefe_plugin.evaluation.generate import generate_tokens


class Read(NamedTuple):
    """Questions with the first tokens of their answers.

    Attributes:
        ids: Tokens, padded on the left and perhaps within; shape (questions, length + 1).
        mask: 1 where a token of the question is no padding; shape (questions, length).
        cache: Of the questions.
        logits: Of the first tokens, in fp32; shape (questions, words).
    """

    ids: Tensor
    mask: Tensor
    cache: DynamicCache
    logits: Tensor


class Reader:
    """Reads batches of questions, and what they share once, as long as that changes nothing for the model.

    The first batch that shares something decides: one of its questions is read alone, too, and where the logits of
    the next token differ by more than rounding, the model looks at a question in another way than token after token,
    and nothing is shared.

    Args:
        model: A causal language model, with or without images, on its device; PEFT wrappers are fine.
        limits: Of `rolling_answers`.
    """

    def __init__(self, model: PreTrainedModel, limits: dict[str, Any]):
        self._model, self._limits = model, limits
        self._image_token_id = getattr(model.config, "image_token_id", None)
        self._shares: bool | None = None  # not known yet

    def read(self, batch: dict[str, Tensor]) -> Read | None:
        """Read a batch; None where its cache is more than keys and values of its tokens."""
        found = None
        if self._shares is not False:
            found = shared_beginnings(batch, self._image_token_id, self._limits["pad_token_id"])
        if found is not None:
            read = self._read_parts(found)
            if self._shares is None:
                self._shares = read is not None and self._is_same(batch, found, read)
            if self._shares:
                return read
        return self._read_whole(batch)

    def _read_whole(self, batch: dict[str, Tensor]) -> Read | None:
        return self._generate(batch["attention_mask"], **batch)

    def _read_parts(self, found: Beginnings) -> Read | None:
        begun = self._read_whole(found.batch)
        if begun is None:
            return None
        of_row = found.of_row.to(self._model.device)
        for layer in begun.cache.layers:
            layer.keys, layer.values = layer.keys[of_row], layer.values[of_row]
        mask = found.attention_mask
        return self._generate(mask, input_ids=found.input_ids, attention_mask=mask, past_key_values=begun.cache)

    def _generate(self, mask: Tensor, **arguments: Any) -> Read | None:
        given = {
            name: one.to(self._model.device) if isinstance(one, Tensor) else one for name, one in arguments.items()
        }
        first = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
        output = generate_tokens(self._model, given, **self._limits | first)
        if not is_plain(output.past_key_values, mask.shape):
            return None
        return Read(output.sequences, given["attention_mask"], output.past_key_values, output.logits[0].float())

    def _is_same(self, batch: dict[str, Tensor], found: Beginnings, read: Read) -> bool:
        """Tell whether a question that shares its beginning is read as it is alone."""
        row = int((torch.bincount(found.of_row)[found.of_row] > 1).nonzero()[-1])
        texts, mask = ("input_ids", "attention_mask"), batch["attention_mask"][row].bool()
        one = {name: part[row, mask][None] if name in texts else part[row][None] for name, part in batch.items()}
        alone = self._read_whole(one)
        device, dtype = self._model.device.type, self._model.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        most = alone.logits.abs().max() * torch.finfo(dtype).eps ** 0.5
        return bool((read.logits[row] - alone.logits[0]).abs().max() <= most)


def is_plain(cache: Any, shape: torch.Size) -> bool:
    """Tell whether a cache holds keys and values of the tokens of all rows in every layer, and nothing else.

    Args:
        cache: What a model has returned.
        shape: Rows and tokens.
    """
    return (
        type(cache) is DynamicCache
        and all(type(layer) is DynamicLayer for layer in cache.layers)
        and all((len(layer.keys), layer.keys.shape[2]) == tuple(shape) for layer in cache.layers)
    )
