"""`RegLoraModel`: LoRA's model of PEFT that knows the key elements of earlier tasks and the penalty on them."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from torch import nn

from .codec import decode, encode
from .config import RegLoraConfig
from .files import KeyElements, fingerprint, read_key_elements, write_key_elements
from .key_elements import find_key_elements, key_count, unite
from .penalty import MatrixPenalty, matrix_penalty


logger = logging.getLogger(__name__)

_MAX_TASKS = 255  # the multiplicity of a key element is kept in one byte


class RegLoraModel(LoraModel):
    """Adapt a model with RegLoRA; made by `peft.get_peft_model` from a `RegLoraConfig`.

    The forward pass and the weights are LoRA's. The penalty is no part of the forward pass: a training loop adds
    `penalty` to its loss, or calls `accumulate_penalty_gradients` once per optimizer step, as `SefeCallback` does.
    One model carries one adapter; merge the adapter of a task before the next task's is made.
    """

    def __init__(self, model: nn.Module, config: LoraConfig, adapter_name: str, **kwargs):
        super().__init__(model, config, adapter_name, **kwargs)
        self._num_earlier_tasks = 0
        self._key_elements: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def load_key_elements(self, files: Sequence[str | Path]) -> None:
        """Load the key elements of the earlier tasks, in place of those loaded before.

        Their union stays in memory, about two bytes per element, on the device of its matrix.

        Args:
            files: One file per earlier task, the oldest first; none means that there is no earlier task.

        Raises:
            FileNotFoundError: If a file is absent.
            ValueError: If a file is damaged, belongs to another model or another M, or is given twice, or if there
                are more than 255.
        """
        if len(files) > _MAX_TASKS:
            raise ValueError(f"at most {_MAX_TASKS} files of key elements can be loaded; got {len(files)}")
        shapes = self._shapes()
        tasks: dict[str, KeyElements] = {}
        for elements in map(read_key_elements, files):
            elements.check_fits(shapes, self._config.key_ratio)
            if elements.adapter_sha256 in tasks:
                raise ValueError(
                    f"{elements.file}: key elements of the same adapter as in "
                    f"{tasks[elements.adapter_sha256].file}. Give one file per earlier task."
                )
            tasks[elements.adapter_sha256] = elements
        self._num_earlier_tasks = len(tasks)
        self._key_elements = {}
        for name, (A, _) in self._factors().items() if tasks else ():
            numel = shapes[name][0] * shapes[name][1]
            indices, multiplicity = unite([decode(task.codes[name].to(A.device), numel) for task in tasks.values()])
            self._key_elements[name] = encode(indices, numel), multiplicity

    def penalty(self) -> torch.Tensor:
        """Compute lambda * R, to be added to a loss.

        Returns:
            fp32, shape (), differentiable once with respect to every A and B; 0 if there is no earlier task.
        """
        terms = [MatrixPenalty.apply(*term) for term in self._terms()]
        return torch.stack([term.to(terms[0].device) for term in terms]).sum() if terms else torch.zeros(())

    @torch.no_grad()
    def accumulate_penalty_gradients(self, scale: float = 1.0) -> float:
        """Add the gradient of scale * lambda * R to ``.grad`` of every trainable A and B.

        Called once per optimizer step, before the first backward pass, it gives the penalty the weight lambda
        whatever the loss, the accumulation and the number of processes: nothing that scales the loss reaches it, and
        processes average equal contributions.

        Args:
            scale: The loss scale in effect, where the gradients will be unscaled (fp16).

        Returns:
            lambda * R, not scaled.
        """
        values = []
        for A, B, *key_elements, weight in self._terms():
            value, *grads = matrix_penalty(A, B, *key_elements, weight)
            values.append(value)
            for factor, grad in zip((A, B), grads, strict=True):
                if not factor.requires_grad:
                    continue
                grad = (scale * grad).to(factor.dtype)
                if factor.grad is None:
                    factor.grad = grad.contiguous()
                else:
                    factor.grad += grad
        return torch.stack([value.to(values[0].device) for value in values]).sum().item() if values else 0.0

    def save_key_elements(self, file: str | Path) -> None:
        """Find the key elements of the adapter as it is now, and write them to a file.

        Args:
            file: Where to; its folder is made if absent.

        Raises:
            ValueError: If the weight change of a matrix is not finite.
        """
        shapes, codes, ratio = self._shapes(), {}, self._config.key_ratio
        factors = self._factors()
        for name, (A, B) in factors.items():
            try:
                indices = find_key_elements(A, B, ratio)
            except ValueError as error:
                raise ValueError(f"matrix '{name}': {error}. Lower the learning rate and train again.") from error
            codes[name] = encode(indices, shapes[name][0] * shapes[name][1])
        if not any(B.any() for _, B in factors.values()):
            logger.warning("The adapter is untrained (every B is 0): the key elements in %s say nothing.", file)
        write_key_elements(KeyElements(Path(file), ratio, shapes, codes, fingerprint(factors)))

    @property
    def _config(self) -> RegLoraConfig:
        """The configuration of the one adapter."""
        return self.peft_config[self.active_adapters[0]]

    def _factors(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """Return A and B of every adapted matrix, by its module's path in the base model."""
        adapter = self.active_adapters[0]
        return {
            name: (module.lora_A[adapter].weight, module.lora_B[adapter].weight)
            for name, module in self.model.named_modules()
            if isinstance(module, LoraLayer)
        }

    def _shapes(self) -> dict[str, tuple[int, int]]:
        """Return (out_features, in_features) of every adapted matrix."""
        return {name: (len(B), A.shape[1]) for name, (A, B) in self._factors().items()}

    def _terms(self) -> Iterator[tuple[nn.Parameter, nn.Parameter, torch.Tensor, torch.Tensor, float]]:
        """Yield per matrix the arguments of `matrix_penalty`."""
        config, factors = self._config, self._factors()
        if not config.reg_weight:
            return
        tasks_in_mean = self._num_earlier_tasks if config.reduction == "official_mean" else 1
        for name, (codes, multiplicity) in self._key_elements.items():
            A, B = factors[name]
            count = key_count(config.key_ratio, len(B), A.shape[1])
            weight = config.reg_weight / (len(factors) * count * tasks_in_mean)
            yield A, B, codes.to(A.device), multiplicity.to(A.device), weight

    def _check_new_adapter_config(self, config: LoraConfig) -> None:
        """Refuse a second adapter."""
        super()._check_new_adapter_config(config)
        if any(isinstance(module, LoraLayer) for module in self.model.modules()):
            raise ValueError(
                "A RegLoRA model carries one adapter, and this model has one. Merge it with `merge_and_unload` before "
                "the next one is made."
            )

    def _create_and_replace(self, lora_config, adapter_name, target, target_name, parent, current_key, **kwargs):
        """Adapt one module; refuse it if its weight is not a matrix that B A changes."""
        super()._create_and_replace(
            lora_config, adapter_name, target, target_name, parent, current_key=current_key, **kwargs
        )
        layer = parent.get_submodule(target_name)
        if adapter_name not in layer.lora_A or layer.lora_A[adapter_name].weight.ndim != 2:
            raise ValueError(
                f"RegLoRA adapts linear layers; '{current_key}' is {type(target).__name__}. Take it out of "
                "`target_modules`, or list it in `exclude_modules`."
            )


def find_reglora_model(model: nn.Module) -> RegLoraModel:
    """Find the RegLoRA model inside whatever wraps it.

    Args:
        model: A `PeftModel`, or a wrapper of one (DDP, a compiled model, a value head).

    Returns:
        The one `RegLoraModel` in it.

    Raises:
        ValueError: If there is none.
    """
    for module in model.modules():
        if isinstance(module, RegLoraModel):
            return module
    raise ValueError(
        f"{type(model).__name__} has no RegLoRA adapter. Make one with `get_peft_model(model, RegLoraConfig(...))`, "
        "or continue a saved one with `PeftModel.from_pretrained(model, folder, "
        "config=RegLoraConfig.from_pretrained(folder), is_trainable=True)`."
    )
