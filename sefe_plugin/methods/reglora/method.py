"""RegLoRA as a method of a recipe (`cl_method: reglora`); with `asd_ratio` it is SEFE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sefe_plugin.methods.base import Method, Sizes
from sefe_plugin.methods.reglora.options import AdapterOptions, RegLoraOptions


if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig
    from torch import nn

    from sefe_plugin.methods.gradients import Gradients


#: The logged value: lambda * R, mean over the optimizer steps since the last log.
PENALTY_LOG = "reglora_penalty"

#: Keys of the host that RegLoRA cannot work with, and why.
_REFUSED = {
    "use_dora": "DoRA's weight change is not B A",
    "pissa_init": "PiSSA's weight change is not B A",
    "use_unsloth": "Unsloth has layers of its own",
    "use_hyper_parallel": "its training is not the one that this plugin extends",
    "fsdp": "FSDP leaves no process a whole matrix",
}


class RegLora(Method):
    """LoRA that is penalised for changing the key elements of earlier tasks (SEFE, arXiv 2505.02486)."""

    Options = RegLoraOptions
    file = "key_elements.safetensors"
    earlier = "reglora_key_elements"
    whole_sequence = ("lora_target",)

    @classmethod
    def errors(cls, arguments: Mapping[str, Any]) -> list[str]:
        """List which other keys RegLoRA cannot work with, and absent files of earlier tasks."""
        files = arguments.get(cls.earlier) or []
        errors = [
            f"`{cls.earlier}`: the file {file} does not exist. Train the earlier task first."
            for file in (map(str.strip, files.split(",")) if isinstance(files, str) else files)
            if not Path(file).is_file()
        ]
        return errors + [
            f"`{key}` cannot be combined with `cl_method: reglora`: {reason}. Drop one."
            for key, reason in _REFUSED.items()
            if arguments.get(key)
        ]

    @classmethod
    def memory(cls, sizes: Sizes, arguments: Mapping[str, Any], earlier_tasks: int) -> dict[str, float]:
        """Return the bytes of the key elements of earlier tasks."""
        from sefe_plugin.methods.reglora.sizes import key_element_memory

        options = cls(arguments).options
        held = 0.0
        if options.reglora_offload == "none":
            held = key_element_memory(sizes.matrices, options.reglora_key_ratio, earlier_tasks)
        return {"key elements": held}

    @classmethod
    def disk(cls, sizes: Sizes, arguments: Mapping[str, Any]) -> dict[str, float]:
        """Return the bytes of one task's file of key elements."""
        from sefe_plugin.methods.reglora.sizes import key_element_bytes

        ratio = cls(arguments).options.reglora_key_ratio
        return {"key elements": sum(key_element_bytes(ratio, *shape) for shape in sizes.matrices)}

    def adapt(self, config: LoraConfig) -> PeftConfig:
        """Return the same adapter as RegLoRA's tuner type."""
        from peft import LoraConfig

        from sefe_plugin.methods.reglora import RegLoraConfig

        lora = {f.name: vars(config)[f.name] for f in fields(LoraConfig)}
        return RegLoraConfig(**lora, **{f.name: vars(self.options)[f.name] for f in fields(AdapterOptions)})

    def begin(self, model: nn.Module, earlier: Sequence[Path], gradients: Gradients) -> None:
        """Find the RegLoRA model and load the key elements of earlier tasks; without any, those loaded before stay.

        Raises:
            FileNotFoundError: If a file of key elements is absent.
            ValueError: If the model has no RegLoRA adapter, or a file does not fit it.
        """
        from sefe_plugin.methods.reglora import find_reglora_model

        self._model = find_reglora_model(model)
        if earlier:
            self._model.load_key_elements(earlier, self.options.reglora_offload)

    def on_step_begin(self, gradients: Gradients) -> None:
        """Add the gradient of lambda * R."""
        penalty = self._model.accumulate_penalty_gradients(
            scale=gradients.scale, share=gradients.share, deliver=gradients.add
        )
        gradients.log(PENALTY_LOG, penalty)

    def finish(self, model: nn.Module, file: Path | None, *, write: bool, seed: int) -> None:
        """Save the key elements of this task."""
        self._model.save_key_elements(file, write=write, seed=seed)
