"""Let a model answer batches of questions, greedily."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


#: Whatever the model's own settings for generation say.
_GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "use_cache": True}


def generate_answers(
    model: PreTrainedModel,
    batches: Iterable[dict[str, Tensor]],
    decode: Callable[[list[int]], str],
    **generate_kwargs: Any,
) -> list[str]:
    """Answer every question by greedy decoding (CoIN: temperature 0, output stripped).

    The model generates in eval mode with its key-value cache, without gradients; every module's training flag is
    restored afterwards, gradient checkpointing is left as it is.

    Args:
        model: A causal language model, with or without images, on its device; PEFT wrappers are fine.
        batches: Arguments of ``model.generate``, with "input_ids" and "attention_mask" of shape (batch, length),
            padded on the left; tensors are moved to the model's device.
        decode: Turns the ids of the new tokens of one answer, with end and padding tokens, into text; it drops
            special tokens.
        generate_kwargs: Further arguments of ``model.generate``, such as ``max_new_tokens``, and as ``eos_token_id``
            every token that ends an answer: a batch runs on until the last of its answers has ended.

    Returns:
        The answers without outer blanks, in the order of the questions.

    Raises:
        ValueError: Where a batch is not padded on the left.
    """
    answers: list[str] = []
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # Not inference_mode: a model that trains on must not keep tensors that autograd refuses.
        with torch.no_grad():
            for batch in batches:
                if not batch["attention_mask"][:, -1].all():
                    raise ValueError(
                        "questions must be padded on the left, so that every one ends in the last column of "
                        "'attention_mask'; set the tokenizer's padding_side to 'left'"
                    )
                batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
                output = model.generate(**batch, **_GREEDY, **generate_kwargs)
                new_tokens = output[:, batch["input_ids"].shape[1] :].tolist()
                answers.extend(decode(tokens).strip() for tokens in new_tokens)
    finally:
        for module, flag in training:
            module.training = flag
    return answers
