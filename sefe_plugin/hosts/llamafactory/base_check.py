"""Refuses a base model that a sequence would silently train on in a broken state."""

from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import modeling_utils


@contextmanager
def whole_checkpoint() -> Iterator[None]:
    """While it lasts, loading a checkpoint that lacks weights of the model is an error.

    Transformers gives such weights random values and only warns; a checkpoint saved by another version with other
    names for them is enough.

    Raises:
        ValueError: with the names of the first of them.
    """
    report = modeling_utils.log_state_dict_report

    def refuse(*args, **kwargs):
        report(*args, **kwargs)
        absent = sorted(kwargs["loading_info"].missing_keys)
        if absent:
            raise ValueError(
                f"{kwargs['pretrained_model_name_or_path']} lacks {len(absent)} weights of the model, such as "
                f"{', '.join(absent[:3])}; they would be random. Load and save it with the version of transformers "
                "that wrote it, or take another base."
            )

    modeling_utils.log_state_dict_report = refuse
    try:
        yield
    finally:
        modeling_utils.log_state_dict_report = report


def check_quantized(model: nn.Module) -> None:
    """Check that a base loaded in 4 bit is 4-bit in every adapted matrix, and in nothing that is trained itself.

    bitsandbytes passes no gradient to 4-bit weights, so modules named in `additional_target` would silently stay.

    Args:
        model: with its adapter, its base quantized by bitsandbytes.

    Raises:
        ValueError: with the names of the first that are not as they should be.
    """
    from bitsandbytes.nn import Params4bit

    adapted = {
        name: module.get_base_layer().weight for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    whole = [name for name, w in adapted.items() if not (isinstance(w, Params4bit) and w.bnb_quantized)]
    if whole:
        raise ValueError(
            f"`quantization_bit: 4`, but {len(whole)} adapted matrices are not quantized, such as "
            f"{', '.join(whole[:3])}. Take them out of `lora_target`, or train without `quantization_bit`."
        )
    trained = [name for name, w in model.named_parameters() if w.requires_grad and isinstance(w, Params4bit)]
    if trained:
        raise ValueError(
            f"`additional_target` names modules that are quantized and cannot be trained, such as {trained[0]}. Drop "
            "`additional_target` or `quantization_bit`."
        )
