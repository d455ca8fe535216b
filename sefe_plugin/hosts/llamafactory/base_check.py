"""Refuses a base model that a sequence would silently train on in a broken state."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llamafactory.model import load_config
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import modeling_utils

from sefe_plugin.carry.quantized import quantization_in, quantized_error
from sefe_plugin.recipe.errors import RecipeError


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


def check_base(model_args, finetuning_args) -> None:
    """Check, once the host can read a base's configuration, that what is asked for works on its weights.

    Args:
        model_args: the host's arguments for the model.
        finetuning_args: the host's arguments with the plugin's keys.

    Raises:
        RecipeError: if the base is quantized, but is to take the adapter in, or to be trained itself.
    """
    is_full = finetuning_args.finetuning_type == "full"
    if not (finetuning_args.merge_adapter or is_full) or Path(model_args.model_name_or_path).is_dir():
        return  # a folder was looked at before anything was imported
    quantization = quantization_in(load_config(model_args).to_dict())
    if quantization:
        key = "finetuning_type: full" if is_full else "merge_adapter"
        remedy = "Train an adapter with `carry: stack`, or take the base in full precision."
        error = quantized_error(model_args.model_name_or_path, quantization, key, remedy)
        raise RecipeError("This run", [error])


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
