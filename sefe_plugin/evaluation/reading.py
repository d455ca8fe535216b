"""Questions read by a model, up to the first token of their answers."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from sefe_plugin.evaluation.beginnings import Beginnings, shared_beginnings
from sefe_plugin.evaluation.generate import generate_tokens


#: Words of a row whose probabilities are compared.
_LIKELY = 50


class Read(NamedTuple):
    """Questions with the first tokens of their answers.

    Attributes:
        ids: Tokens, padded on the left and perhaps within; shape (questions, length + 1).
        mask: 1 where a token of the question is no padding; shape (questions, length).
        cache: Of the questions.
        logits: Of the first tokens, in fp32, shape (questions, words); None where they are not asked for.
    """

    ids: Tensor
    mask: Tensor
    cache: DynamicCache
    logits: Tensor | None


class Reader:
    """Reads batches of questions, and what they share once, for a model for which that is the same.

    The first batch that shares something is read both ways. Where the most likely next words differ by more than
    rounding, the model looks at a question in another way than token after token, and nothing is shared from then on.

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
        if found is None:
            return self._read_whole(batch)
        if self._shares is None:
            shared = self._read_parts(found, with_logits=True)
            logits = None if shared is None else shared.logits
            del shared  # its cache takes as much memory as that of the batch
            whole = self._read_whole(batch, with_logits=True)
            self._shares = whole is not None and logits is not None and self._is_same(whole.logits, logits)
            return whole
        read = self._read_parts(found)
        return self._read_whole(batch) if read is None else read

    def _read_whole(self, batch: dict[str, Tensor], with_logits: bool = False) -> Read | None:
        return self._generate(batch["attention_mask"], with_logits, **batch)

    def _read_parts(self, found: Beginnings, with_logits: bool = False) -> Read | None:
        begun = self._read_whole(found.batch)
        if begun is None:
            return None
        for layer in begun.cache.layers:
            of_row = found.of_row.to(layer.keys.device)
            layer.keys, layer.values = layer.keys[of_row], layer.values[of_row]
        mask, cache = found.attention_mask, begun.cache
        return self._generate(mask, with_logits, input_ids=found.input_ids, attention_mask=mask, past_key_values=cache)

    def _generate(self, mask: Tensor, with_logits: bool, **arguments: Any) -> Read | None:
        given = {
            name: one.to(self._model.device) if isinstance(one, Tensor) else one for name, one in arguments.items()
        }
        first = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_logits": with_logits}
        output = generate_tokens(self._model, given, **self._limits | first)
        if not is_plain(output.past_key_values, mask.shape):
            return None
        logits = output.logits[0].float() if with_logits else None
        return Read(output.sequences, given["attention_mask"], output.past_key_values, logits)

    def _is_same(self, one: Tensor, other: Tensor) -> bool:
        """Tell whether logits differ by rounding alone.

        The logarithms of the probabilities of each row's most likely words count. What they may differ by in the mean
        depends on the precision and on the spread of the row's logits, which no offset and no word that is ruled out
        changes.
        """
        device, head = self._model.device.type, self._model.get_output_embeddings()
        dtype = self._model.dtype if head is None else head.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        if not dtype.is_floating_point:
            dtype = self._model.dtype
        words = one.topk(min(_LIKELY, one.shape[1]), dim=1).indices
        apart = (one.log_softmax(1) - other.log_softmax(1)).gather(1, words).square().mean(1).sqrt()
        ordered = one.sort(1).values
        spread = ordered[:, 3 * one.shape[1] // 4] - ordered[:, one.shape[1] // 4]
        return bool((apart <= spread * torch.finfo(dtype).eps ** 0.5).all())


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
