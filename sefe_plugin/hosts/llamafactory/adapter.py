"""A method's adapter, on top of stacked ones if any, in the place where the host builds a LoRA adapter."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

import torch
from peft import PeftConfig, PeftModel
from torch import nn

from sefe_plugin.carry.stacking import attach_frozen
from sefe_plugin.hosts.llamafactory.base_check import check_quantized
from sefe_plugin.methods import methods
from sefe_plugin.methods.base import Method


def set_up_adapter(module: ModuleType, host_function: Callable, config, model, model_args, finetuning_args, *flags):
    """Build the adapter to train as the host does, as the method has it and on top of earlier adapters if asked for.

    Args:
        module: `llamafactory.model.adapter`.
        host_function: Its `_setup_lora_tuning`.
        config: The base's configuration.
        model: The base.
        model_args: The host's arguments for the model.
        finetuning_args: The host's arguments with the plugin's keys.
        *flags: The host function's other arguments.

    Returns:
        The PEFT model.

    Raises:
        ValueError: If the stacked adapter does not fit, or an adapted matrix of a 4-bit base is not quantized.
    """
    if finetuning_args.stacked_adapter is not None:
        attach_frozen(model, Path(finetuning_args.stacked_adapter), model_args.compute_dtype or torch.float32)
    with ExitStack() as stack:
        if name := finetuning_args.cl_method:
            method = methods()[name](vars(finetuning_args))
            stack.enter_context(method.building(model))
            stack.enter_context(adapted_by(module, method))
        adapted = host_function(config, model, model_args, finetuning_args, *flags)
    if (
        finetuning_args.test_sets is not None
        and model_args.quantization_bit == 4
        and model_args.quantization_method == "bnb"
    ):
        check_quantized(adapted)
    return adapted


def merge_adapter(model: PeftModel) -> nn.Module:
    """Merge an adapter into its base, whose weights keep their precision; some tuners of PEFT do not keep it.

    Returns:
        The base.
    """
    precisions = [(weight, weight.dtype) for weight in model.parameters()]
    merged = model.merge_and_unload()
    for weight, precision in precisions:
        weight.data = weight.data.to(precision)
    return merged


@contextmanager
def adapted_by(module: ModuleType, method: Method) -> Iterator[None]:
    """Let `llamafactory.model.adapter` build a method's adapter in place of plain LoRA while the context lasts.

    A new adapter is configured through the module's name `LoraConfig`; one that is continued is loaded through
    `PeftModel.from_pretrained`, which would read plain LoRA from the folder.

    Args:
        module: `llamafactory.model.adapter`.
        method: With its options.
    """
    host_config, host_model = module.LoraConfig, module.PeftModel

    def new_config(**kwargs):
        return method.adapt(host_config(**kwargs))

    class ContinuedModel(host_model):
        """Load a trainable adapter as the method has it, every other one as the host does."""

        @classmethod
        def from_pretrained(cls, model, model_id, *args, is_trainable=False, **kwargs):
            if is_trainable:
                config = method.adapt(PeftConfig.from_pretrained(model_id, **kwargs))
                config.inference_mode = False
                kwargs["config"] = config
            return host_model.from_pretrained(model, model_id, *args, is_trainable=is_trainable, **kwargs)

    module.LoraConfig, module.PeftModel = new_config, ContinuedModel
    try:
        yield
    finally:
        module.LoraConfig, module.PeftModel = host_config, host_model
