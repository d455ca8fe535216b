"""Let a model answer batches of questions, greedily."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteriaList


#: What of the model's own settings for generation stays: which tokens are special, and how the cache is kept.
_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "cache_implementation")


def generate_answers(
    model: PreTrainedModel,
    batches: Iterable[dict[str, Tensor]],
    decode: Callable[[list[int]], str],
    **generate_kwargs: Any,
) -> list[str]:
    """Answer every question by greedy decoding (CoIN: temperature 0, output stripped).

    The model's own settings for generation (penalties, suppressed or forced tokens, beams, a least length) do not
    count. The model generates in eval mode with its key-value cache, without gradients; every module's training flag
    is restored afterwards, gradient checkpointing is left as it is.

    Args:
        model: A causal language model, with or without images, on its device; PEFT wrappers are fine.
        batches: Arguments of ``model.generate``, with "input_ids" and "attention_mask" of shape (batch, length),
            padded on the left; tensors are moved to the model's device.
        decode: Turns the ids of the new tokens of one answer, with end and padding tokens, into text; it drops
            special tokens.
        generate_kwargs: Settings of a ``GenerationConfig``, such as ``max_new_tokens``, and as ``eos_token_id``
            every token that ends an answer: a batch runs on until the last of its answers has ended.

    Returns:
        The answers without outer blanks, in the order of the questions.

    Raises:
        ValueError: Where a batch is not padded on the left.
    """
    answers: list[str] = []
    with generating(model):
        for batch in batches:
            check_padding(batch)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            output = generate_tokens(model, batch, **generate_kwargs)
            new_tokens = output[:, batch["input_ids"].shape[1] :].tolist()
            answers.extend(decode(tokens).strip() for tokens in new_tokens)
    return answers


def check_padding(batch: dict[str, Tensor]) -> None:
    """Check that the questions of a batch end in its last column.

    Raises:
        ValueError: Where they are not padded on the left.
    """
    if not batch["attention_mask"][:, -1].all():
        raise ValueError(
            "questions must be padded on the left, so that every one ends in the last column of "
            "'attention_mask'; set the tokenizer's padding_side to 'left'"
        )


def generate_tokens(
    model: PreTrainedModel,
    batch: dict[str, Any],
    stopping_criteria: StoppingCriteriaList | None = None,
    **settings: Any,
) -> Any:
    """Decode greedily, within `generating`.

    Args:
        model: As in `generate_answers`.
        batch: The same arguments of ``model.generate``, on the model's device, and perhaps a cache.
        stopping_criteria: Further ones of the caller.
        settings: Of a ``GenerationConfig``.

    Returns:
        What ``model.generate`` returns: the tokens of questions and answers, or a mapping where that is asked for.
    """
    # as a whole: what is given one by one, `generate` compares with a new configuration of the model at every call
    config = GenerationConfig(do_sample=False, num_beams=1, use_cache=True, **settings)
    return model.generate(**batch, generation_config=config, stopping_criteria=stopping_criteria)


@contextmanager
def generating(model: PreTrainedModel) -> Iterator[None]:
    """Let a model generate in eval mode, without gradients and by no settings of its own; restore all afterwards."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # Not inference_mode: a model that trains on must not keep tensors that autograd refuses.
        with torch.no_grad(), _plain_generation(model):
            yield
    finally:
        for module, flag in training:
            module.training = flag


@contextmanager
def _plain_generation(model: nn.Module) -> Iterator[None]:
    """Put plain settings for generation in the place of the model's own.

    They are replaced, not only overridden: `generate` fills in from them whatever its caller does not set.
    """
    own = [(module, vars(module)["generation_config"]) for module in model.modules() if _has_settings(module)]
    for module, settings in own:
        kept = {name: getattr(settings, name, None) for name in _KEPT}
        module.generation_config = GenerationConfig(**kept)
    try:
        yield
    finally:
        for module, settings in own:
            module.generation_config = settings


def _has_settings(module: nn.Module) -> bool:
    return isinstance(vars(module).get("generation_config"), GenerationConfig)
