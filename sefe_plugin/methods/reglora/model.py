"""`RegLoraModel`: LoRA's model of PEFT that knows the key elements of earlier tasks and the penalty on them."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.utils.hooks import unserializable_hook
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from sefe_plugin.methods.gradients import add_to_grad, gathered
from sefe_plugin.methods.reglora.codec import encode
from sefe_plugin.methods.reglora.config import RegLoraConfig
from sefe_plugin.methods.reglora.files import KeyElements, add_to_fingerprint, read_key_elements, write_key_elements
from sefe_plugin.methods.reglora.key_elements import draw_key_elements, find_key_elements, key_count
from sefe_plugin.methods.reglora.penalty import MatrixPenalty, matrix_penalty
from sefe_plugin.methods.reglora.union import KeyUnion


logger = logging.getLogger(__name__)

_MAX_TASKS = 255  # the number of tasks that chose a key element is decoded into one byte

#: Where the key elements of earlier tasks stay during training: on the device of their matrix, or in host memory.
OFFLOADS = ("none", "cpu")


class RegLoraModel(LoraModel):
    """Adapt a model with RegLoRA; made by `peft.get_peft_model` from a `RegLoraConfig`.

    The forward pass and the weights are LoRA's. The penalty is no part of the forward pass: a training loop adds
    `penalty` to its loss, or calls `accumulate_penalty_gradients` once per optimizer step, as `SefeCallback` does.
    One model carries one adapter; merge the adapter of a task before the next task's is made.
    """

    def __init__(self, model: nn.Module, config: LoraConfig, adapter_name: str, **kwargs):
        super().__init__(model, config, adapter_name, **kwargs)
        self._num_earlier_tasks = 0
        self._key_elements: list[tuple[LoraLayer, KeyUnion]] = []
        self._is_driven = False
        self._watch_for_plain_training()

    def _watch_for_plain_training(self) -> None:
        """Warn, once, of a training in which nobody asks for the penalty or loads key elements.

        At the second step's backward pass the optimizer has changed an adapter that nobody has driven by then.
        """
        watched = next((B for _, B in self._factors().values() if B.requires_grad), None)
        if watched is None:
            return
        before: list[torch.Tensor] = []

        @unserializable_hook
        def look(grad: torch.Tensor) -> None:
            if not before:
                before.append(watched.detach().clone())
            if not self._is_driven and not torch.equal(before[0], watched):
                self._is_driven = True
                logger.warning(
                    "This RegLoRA adapter is trained as plain LoRA: no penalty acts, and no key elements will be kept "
                    "for later tasks. Give the Trainer a SefeCallback, or call `accumulate_penalty_gradients` before "
                    "each step and `save_key_elements` after training."
                )
            if self._is_driven:
                handle.remove()

        handle = watched.register_hook(look)

    def load_key_elements(self, files: Sequence[str | Path], offload: str = "none") -> None:
        """Load the key elements of the earlier tasks, in place of those loaded before.

        About one byte per element and task stays in memory, and up to 6 bytes in matrices of up to 2^17 elements,
        unless these are offloaded. Two files that were found in equal adapters are warned about: either one task is
        given under two names, or two tasks learned nothing.

        Args:
            files: One file per earlier task, the oldest first; none means that there is no earlier task.
            offload: Where they stay: ``none``, on the device of their matrix; ``cpu``, in host memory, from where
                those of one matrix at a time are brought to its device.

        Raises:
            FileNotFoundError: If a file is absent.
            ValueError: If `offload` is another word, if a file is damaged, belongs to another model, another M or
                another selection, or is given twice, or if there are more than 255.
        """
        self._is_driven = True
        if offload not in OFFLOADS:
            raise ValueError(f"`offload` must be one of {', '.join(OFFLOADS)}; got {offload!r}")
        if len(files) > _MAX_TASKS:
            raise ValueError(f"at most {_MAX_TASKS} files of key elements can be loaded; got {len(files)}")
        shapes = self._shapes()
        tasks: dict[Path, KeyElements] = {}
        for file in files:
            elements = read_key_elements(file)
            elements.check_fits(shapes, self._config.reglora_key_ratio, self._config.reglora_selection)
            if tasks.setdefault(Path(file).resolve(), elements) is not elements:
                raise ValueError(f"{elements.file} is given twice. Give one file per earlier task.")
        self._warn_of_equal_adapters(tasks.values())
        self._num_earlier_tasks = len(tasks)
        self._key_elements = []
        for name, layer in self._layers().items() if tasks else ():
            device = self._factors_of(layer)[0].device
            union = KeyUnion.of_tasks([task.codes[name] for task in tasks.values()], shapes[name], device)
            self._key_elements.append((layer, union.in_host_memory() if offload == "cpu" else union))

    @staticmethod
    def _warn_of_equal_adapters(tasks: Iterable[KeyElements]) -> None:
        first: dict[str, Path] = {}
        for task in tasks:
            other = first.setdefault(task.adapter_sha256, task.file)
            if other != task.file:
                logger.warning(
                    "%s and %s were found in equal adapters. If they are of one task, leave one out: it counts twice.",
                    other,
                    task.file,
                )

    def penalty(self) -> torch.Tensor:
        """Compute lambda * R, to be added to a loss.

        Returns:
            fp32, shape (), differentiable once with respect to every A and B; 0 if there is no earlier task.

        Raises:
            RuntimeError: Under DeepSpeed ZeRO-3, where no matrix is whole outside its module's forward pass.
        """
        self._is_driven = True
        if is_deepspeed_zero3_enabled():
            raise RuntimeError("`penalty` needs whole matrices, which ZeRO-3 partitions. Train with SefeCallback.")
        terms = [MatrixPenalty.apply(A, B, union, weight) for A, B, union, weight in self._terms()]
        return torch.stack([term.to(terms[0].device) for term in terms]).sum() if terms else torch.zeros(())

    @torch.no_grad()
    def accumulate_penalty_gradients(
        self,
        scale: float = 1.0,
        share: tuple[int, int] = (0, 1),
        deliver: Callable[[nn.Parameter, torch.Tensor], None] = add_to_grad,
    ) -> torch.Tensor:
        """Add the gradient of scale * lambda * R to that of every trainable A and B.

        Called once per optimizer step, before the first backward pass, it gives the penalty the weight lambda
        whatever the loss, the accumulation and the number of processes: nothing that scales the loss reaches it.

        Args:
            scale: The loss scale in effect, where the gradients will be unscaled (fp16).
            share: (process, number of processes), where processes average every gradient, also of a matrix that no
                step uses: each of n evaluates every n-th matrix, n times as large. Under ZeRO-3 all of them must call
                this together.
            deliver: How a gradient reaches a parameter (`sefe_plugin.methods.gradients`).

        Returns:
            This process's share of lambda * R, not scaled; fp32, shape (). The shares add up to lambda * R.
        """
        self._is_driven = True
        process, processes = share
        value = torch.zeros(())
        for number, (A, B, union, weight) in enumerate(self._terms()):
            with gathered(A, B):
                if number % processes != process:
                    continue
                term, *grads = matrix_penalty(A, B, union, weight)
            value = value.to(term.device) + term
            for factor, grad in zip((A, B), grads, strict=True):
                if factor.requires_grad:
                    deliver(factor, grad.mul_(scale * processes))
        return value

    def save_key_elements(self, file: str | Path, write: bool = True, seed: int = 0) -> None:
        """Find the key elements of the adapter as it is now, and write them to a file.

        With ``reglora_selection="random"`` they are drawn instead, from a stream for each `seed`, number of
        loaded earlier tasks, and matrix.

        Args:
            file: Where to; its folder is made if absent.
            write: False in all processes but one of those that train together. Under ZeRO-3 all must call this.
            seed: Of the random selection; a training's own.

        Raises:
            ValueError: If the weight change of a matrix is not finite.
        """
        shapes, codes, ratio = self._shapes(), {}, self._config.reglora_key_ratio
        adapter, trained = hashlib.sha256(), False
        for name, (A, B) in sorted(self._factors().items()):
            with gathered(A, B):
                if not write:
                    continue
                add_to_fingerprint(adapter, name, A, B)
                trained = trained or bool(B.any())
                try:
                    if self._config.reglora_selection == "random":
                        stream = f"key elements {seed} {self._num_earlier_tasks} {name}"
                        indices = draw_key_elements(A, B, ratio, stream)
                    else:
                        indices = find_key_elements(A, B, ratio)
                except ValueError as error:
                    raise ValueError(f"matrix '{name}': {error}. Lower the learning rate and train again.") from error
            codes[name] = encode(indices, shapes[name][0] * shapes[name][1])
        if not write:
            return
        if not trained:
            logger.warning("The adapter is untrained (every B is 0): the key elements in %s say nothing.", file)
        selection = self._config.reglora_selection
        write_key_elements(KeyElements(Path(file), ratio, shapes, codes, adapter.hexdigest(), selection))

    @property
    def _config(self) -> RegLoraConfig:
        """The configuration of the one adapter."""
        return self.peft_config[self.active_adapters[0]]

    def _layers(self) -> dict[str, LoraLayer]:
        """Return every adapted module, by its path in the base model."""
        return {name: module for name, module in self.model.named_modules() if isinstance(module, LoraLayer)}

    def _factors_of(self, layer: LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
        """Return A and B of an adapted module."""
        adapter = self.active_adapters[0]
        return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight

    def _factors(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """Return A and B of every adapted matrix."""
        return {name: self._factors_of(layer) for name, layer in self._layers().items()}

    def _shapes(self) -> dict[str, tuple[int, int]]:
        """Return (out_features, in_features) of every adapted matrix, which its factors do not tell under ZeRO-3."""
        return {name: (layer.out_features, layer.in_features) for name, layer in self._layers().items()}

    def _terms(self) -> Iterator[tuple[nn.Parameter, nn.Parameter, KeyUnion, float]]:
        """Yield per matrix the arguments of `matrix_penalty`."""
        config, matrices = self._config, len(self._key_elements)
        if not config.reglora_weight:
            return
        tasks_in_mean = self._num_earlier_tasks if config.reglora_reduction == "official_mean" else 1
        for layer, union in self._key_elements:
            count = key_count(config.reglora_key_ratio, layer.out_features, layer.in_features)
            yield *self._factors_of(layer), union, config.reglora_weight / (matrices * count * tasks_in_mean)

    def _check_new_adapter_config(self, config: LoraConfig) -> None:
        """Refuse a second adapter."""
        super()._check_new_adapter_config(config)
        if any(isinstance(module, LoraLayer) for module in self.model.modules()):
            raise ValueError(
                "A RegLoRA model carries one adapter, and this model has one. Merge it with `merge_and_unload` before "
                "the next one is made."
            )

    def _create_and_replace(self, lora_config, adapter_name, target, target_name, parent, current_key, **kwargs):
        """Adapt one module; refuse it, and leave the base as it was, if its weight is no matrix that B A changes."""
        try:
            super()._create_and_replace(
                lora_config, adapter_name, target, target_name, parent, current_key=current_key, **kwargs
            )
            layer = parent.get_submodule(target_name)
            if adapter_name not in layer.lora_A or layer.lora_A[adapter_name].weight.ndim != 2:
                raise ValueError(
                    f"RegLoRA adapts linear layers; '{current_key}' is {type(target).__name__}. Take it out of "
                    "`target_modules`, or list it in `exclude_modules`."
                )
        except Exception:
            self.unload()
            raise


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
