"""RegLoRA and stacked adapters in the place where the host builds a LoRA adapter."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType

import torch

from sefe_plugin.hosts.llamafactory.base_check import check_quantized
from sefe_plugin.reglora import RegLoraConfig
from sefe_plugin.stacking import attach_frozen


def set_up_adapter(module: ModuleType, host_function: Callable, config, model, model_args, finetuning_args, *flags):
    """Builds the adapter to train as the host does, with RegLoRA and on top of earlier adapters if asked for.

    Args:
        module: `llamafactory.model.adapter`.
        host_function: its `_setup_lora_tuning`.
        config: the base's configuration.
        model: the base.
        model_args: the host's arguments for the model.
        finetuning_args: the host's arguments with the plugin's keys.
        *flags: the host function's other arguments.

    Returns:
        The PEFT model.

    Raises:
        ValueError: if the stacked adapter does not fit, or an adapted matrix of a 4-bit base is not quantized.
    """
    if finetuning_args.stacked_adapter is not None:
        attach_frozen(model, Path(finetuning_args.stacked_adapter), model_args.compute_dtype or torch.float32)
    reglora = reglora_in_place_of_lora(module, finetuning_args) if finetuning_args.use_reglora else nullcontext()
    with reglora:
        adapted = host_function(config, model, model_args, finetuning_args, *flags)
    if finetuning_args.test_sets and model_args.quantization_bit == 4 and model_args.quantization_method == "bnb":
        check_quantized(adapted)
    return adapted


@contextmanager
def reglora_in_place_of_lora(module: ModuleType, finetuning_args) -> Iterator[None]:
    """Lets `llamafactory.model.adapter` build RegLoRA while the context lasts.

    A new adapter is configured through the module's name `LoraConfig`; one that is continued is loaded through
    `PeftModel.from_pretrained`, which would read plain LoRA from the folder.

    Args:
        module: `llamafactory.model.adapter`.
        finetuning_args: the host's arguments with the plugin's keys.
    """
    host_config, host_model = module.LoraConfig, module.PeftModel
    options = {
        "reg_weight": finetuning_args.reglora_weight,
        "key_ratio": finetuning_args.reglora_key_ratio,
        "reduction": finetuning_args.reglora_reduction,
        "selection": finetuning_args.reglora_selection,
    }

    def new_config(**kwargs) -> RegLoraConfig:
        return RegLoraConfig(**kwargs, **options)

    class ContinuedModel(host_model):
        """Loads a trainable adapter as RegLoRA, every other one as the host does."""

        @classmethod
        def from_pretrained(cls, model, model_id, *args, is_trainable=False, **kwargs):
            if is_trainable:
                config = RegLoraConfig.from_pretrained(model_id, **kwargs)
                config.inference_mode = False
                for name, value in options.items():
                    setattr(config, name, value)
                kwargs["config"] = config
            return host_model.from_pretrained(model, model_id, *args, is_trainable=is_trainable, **kwargs)

    module.LoraConfig, module.PeftModel = new_config, ContinuedModel
    try:
        yield
    finally:
        module.LoraConfig, module.PeftModel = host_config, host_model
