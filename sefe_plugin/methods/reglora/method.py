"""RegLoRA as a method of a recipe (`cl_method: reglora`); with `asd_ratio` it is SEFE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sefe_plugin.files import is_file
from sefe_plugin.methods.base import Method, Sizes, absent_files, named_files
from sefe_plugin.methods.peft_types import PEFT_TYPE
from sefe_plugin.methods.reglora.head import head_errors, read_head
from sefe_plugin.methods.reglora.options import AdapterOptions, RegLoraOptions


if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig
    from torch import nn

    from sefe_plugin.methods.gradients import Gradients
    from sefe_plugin.methods.task_data import TaskData


#: The logged value: lambda * R, mean over the optimizer steps since the last log.
PENALTY_LOG = "reglora_penalty"

#: Keys of the host that RegLoRA cannot work with, and why.
_REFUSED = {
    "use_dora": "DoRA's weight change is not B A",
    "pissa_init": "PiSSA's weight change is not B A",
    "use_unsloth": "Unsloth has layers of its own",
    "fsdp": "FSDP leaves no process a whole matrix",
}


class RegLora(Method):
    """LoRA that is penalised for changing the key elements of earlier tasks (SEFE, arXiv 2505.02486)."""

    Options = RegLoraOptions
    file = "key_elements.safetensors"
    earlier = "reglora_key_elements"
    whole_sequence = ("lora_target",)
    same_matrices = True
    patches = (PEFT_TYPE,)

    @classmethod
    def errors(cls, arguments: Mapping[str, Any]) -> list[str]:
        """List which other keys RegLoRA cannot work with, and files of earlier tasks that are absent or foreign."""
        files = named_files(arguments.get(cls.earlier))
        errors, heads = absent_files(cls.earlier, files), {}
        for file in filter(is_file, files):
            try:
                heads[file] = read_head(file)
            except ValueError as error:
                errors.append(f"`{cls.earlier}`: {error}")
        options = cls(arguments).options
        found = head_errors(heads, options.reglora_key_ratio, options.reglora_selection)
        errors += [f"`{cls.earlier}`: {error}" for error in found]
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

    @classmethod
    def check_file(cls, folder: Path, arguments: Mapping[str, Any]) -> str:
        """Check the sum of the key elements, their M and selection, and that they are of the adapter beside them."""
        from sefe_plugin.methods.reglora.files import adapter_fingerprint, read_key_elements

        options, elements = cls(arguments).options, read_key_elements(folder / cls.file)
        elements.check_fits(elements.shapes, options.reglora_key_ratio, options.reglora_selection)
        if elements.adapter_sha256 != adapter_fingerprint(folder):
            raise ValueError(f"{folder / cls.file} was found in another adapter than the one beside it")
        return f"its sum is right, and it is of this adapter, {len(elements.codes)} matrices"

    def adapt(self, config: LoraConfig) -> PeftConfig:
        """Return the same adapter as RegLoRA's tuner type."""
        from peft import LoraConfig

        from sefe_plugin.methods.reglora import RegLoraConfig

        lora = {f.name: vars(config)[f.name] for f in fields(LoraConfig)}
        return RegLoraConfig(**lora, **{f.name: vars(self.options)[f.name] for f in fields(AdapterOptions)})

    def begin(self, model: nn.Module, earlier: Sequence[Path], gradients: Gradients, data: TaskData) -> None:
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

    def finish(self, model: nn.Module, file: Path | None, *, write: bool, seed: int, data: TaskData) -> None:
        """Save the key elements of this task."""
        self._model.save_key_elements(file, write=write, seed=seed)
