"""RegLoRA in the place where the host builds a LoRA adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from sefe_plugin.reglora import RegLoraConfig


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
                config = RegLoraConfig.from_pretrained(model_id, subfolder=kwargs.get("subfolder"))
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
