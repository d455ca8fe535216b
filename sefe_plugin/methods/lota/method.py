"""LoTA as a method of a recipe (`cl_method: lota`)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sefe_plugin.methods.base import Phase, Sizes, absent_files, named_files
from sefe_plugin.methods.full import Full
from sefe_plugin.options import option
from sefe_plugin.zero import read_deepspeed


if TYPE_CHECKING:
    import torch
    from torch import nn

    from sefe_plugin.methods.gradients import Gradients
    from sefe_plugin.methods.task_data import TaskData


_CALIBRATE = "calibrate"

#: Keys of the host by which elements with no gradient would move, and why.
_REFUSED = {
    "use_galore": "its updates are of low rank, not elementwise",
    "use_apollo": "its updates are of low rank, not elementwise",
    "use_muon": "its updates are not elementwise",
    "use_badam": "it trains the layers in turn",
    "fsdp": "FSDP leaves no process a whole matrix",
}

#: Parts of the names of Trainer's optimizers whose updates are of low rank.
_LOW_RANK = ("galore", "apollo")


@dataclass
class LotaOptions:
    """All recipe keys of LoTA."""

    lota_ratio: float = option(
        0.1,
        "Share in (0, 1] of the weights of `lota_layers` that a task may train, over all of them together. The paper "
        "has 0.1 (sparsity 0.9), and 0.01 for tasks one after the other.",
        symbol="1 - s",
        rule="a share in (0, 1] (LoTA: 0.1)",
        holds=lambda value: 0 < value <= 1,
    )
    lota_calibration: float = option(
        1.0,
        "Length of the first training of a task, by which the mask is found, as a share in (0, 1] of its epochs.",
        rule="a share in (0, 1]",
        holds=lambda value: 0 < value <= 1,
    )
    lota_layers: str = option(
        "mlp,attn",
        "Parts of names, separated by commas: only weights with one of them in their name are trained.",
        rule="parts of names, separated by commas (LoTA: mlp,attn)",
        holds=lambda value: all(part.strip() for part in value.split(",")),
        scope="sequence",
    )
    lota_mask: str | None = option(
        None, "The mask of this task, found by its first training. A sequence fills this in.", scope="filled_in"
    )
    lota_masks: list[str] | None = option(
        None, "Masks of the earlier tasks, oldest first. A sequence fills this in.", scope="filled_in"
    )


class Lota(Full):
    """Sparse full fine-tuning in weights that no earlier task has changed (LoTA, arXiv 2406.16797).

    A task is trained twice. The first training (`calibrate`) changes all weights. The `lota_ratio` of the weights that
    it changed most, over all named layers together, become the task's mask; weights in the mask of an earlier task
    cannot. The second training starts from the same model and changes what the mask marks, and nothing else: every
    other gradient is 0, and without weight decay an elementwise optimizer leaves such a weight alone to the bit.
    """

    Options = LotaOptions
    file = "mask.safetensors"
    earlier = "lota_masks"

    @classmethod
    def errors(cls, arguments: Mapping[str, Any]) -> list[str]:
        """List which other keys LoTA cannot work with."""
        errors = super().errors(arguments) + absent_files(cls.earlier, named_files(arguments.get(cls.earlier)))
        if mask := arguments.get("lota_mask"):
            errors += absent_files("lota_mask", [Path(mask)])
        engine = ((read_deepspeed(arguments) or {}).get("optimizer") or {}).get("params") or {}
        for place, decay in (
            ("`weight_decay`", arguments.get("weight_decay")),
            ("`deepspeed`: `weight_decay` of its optimizer", engine.get("weight_decay")),
        ):
            if decay not in (None, "auto", 0):
                errors.append(
                    f"{place} must be 0 with `cl_method: lota`: it would move weights that are not to change; got "
                    f"{decay!r}."
                )
        optimizer = str(arguments.get("optim", ""))
        if any(name in optimizer for name in _LOW_RANK):
            errors.append(
                f"`optim: {optimizer}` cannot be combined with `cl_method: lota`: {_REFUSED['use_galore']}. Use "
                "another optimizer, such as adamw_torch."
            )
        return errors + [
            f"`{key}` cannot be combined with `cl_method: lota`: {reason}. Drop one."
            for key, reason in _REFUSED.items()
            if arguments.get(key)
        ]

    @classmethod
    def phases(cls, arguments: Mapping[str, Any]) -> list[Phase]:
        """Return the training that finds the mask, and the masked one."""
        share = cls(arguments).options.lota_calibration
        length = {"num_train_epochs": float(arguments.get("num_train_epochs", 3.0)) * share}
        if int(arguments.get("max_steps", -1)) > 0:
            length = {"max_steps": math.ceil(int(arguments["max_steps"]) * share)}
        mask = Path(arguments["output_dir"], _CALIBRATE, cls.file)
        return [Phase(_CALIBRATE, length), Phase("", {"lota_mask": str(mask)})]

    @classmethod
    def memory(cls, sizes: Sizes, arguments: Mapping[str, Any], earlier_tasks: int) -> dict[str, float]:
        """Return the bytes of the mask."""
        return {"mask": sizes.trainable_parameters / 8}

    @classmethod
    def disk(cls, sizes: Sizes, arguments: Mapping[str, Any]) -> dict[str, float]:
        """Return the bytes of the masks that both trainings leave."""
        return {"masks": sizes.trainable_parameters / 4}

    @classmethod
    def check_file(cls, folder: Path, arguments: Mapping[str, Any]) -> str:
        """Check the sum of the mask, how much it marks, and that no earlier task has marked any of it."""
        from sefe_plugin.methods.lota.masks import count_marked, load_masks

        options, file = cls(arguments).options, folder / cls.file
        masks, shapes = load_masks(file)
        total = sum(math.prod(shape) for shape in shapes.values())
        marked = sum(count_marked(bits) for bits in masks.values())
        if marked > (most := int(options.lota_ratio * total)):
            raise ValueError(f"{file} marks {marked} weights; with `lota_ratio: {options.lota_ratio}` it is {most}")
        for other in named_files(options.lota_masks):
            theirs, _ = load_masks(other)
            for name in masks.keys() & theirs.keys():
                if (masks[name] & theirs[name]).any():
                    raise ValueError(f"{file} marks weights of {name} that {other} has marked before")
        return f"its sum is right, and {marked} of {total} weights are marked, none by an earlier task"

    def begin(self, model: nn.Module, earlier: Sequence[Path], gradients: Gradients, data: TaskData) -> None:
        """In the second training, let no gradient pass but those that the mask marks.

        Raises:
            FileNotFoundError: If a file of masks is absent.
            ValueError: If a file of masks does not fit the model.
        """
        from sefe_plugin.methods.lota.masks import read_masks

        self._shapes = {name: tuple(_shape(p)) for name, p in model.named_parameters() if p.requires_grad}
        self._earlier = [read_masks(file, self._shapes) for file in earlier]
        if self.options.lota_mask is None:
            return
        self._mask = read_masks(self.options.lota_mask, self._shapes)
        for name, parameter in model.named_parameters():
            if name in self._shapes:
                bits = self._mask[name].to(parameter.device) if name in self._mask else None
                gradients.transform(parameter, partial(_masked, bits))

    def finish(self, model: nn.Module, file: Path | None, *, write: bool, seed: int, data: TaskData) -> None:
        """Find the mask after the first training; leave it for later tasks after the second."""
        from sefe_plugin.methods.lota.masks import largest, write_masks

        if self.options.lota_mask is not None:
            if write:
                write_masks(self._mask, self._shapes, file)
            return
        parts = [part.strip() for part in self.options.lota_layers.split(",")]
        named = [name for name in self._shapes if any(part in name for part in parts)]
        if not named:
            raise ValueError(f"`lota_layers`: no trained weight has one of {parts} in its name. Name others.")
        total = sum(math.prod(self._shapes[name]) for name in named)
        if not (count := int(self.options.lota_ratio * total)):
            raise ValueError(
                f"`lota_ratio`: {self.options.lota_ratio} of the {total} weights of `lota_layers` marks no weight. "
                "Use a larger share."
            )
        changes = partial(self._changes, model, _load_start(model) if write else None, named)
        if not write:
            for _ in range(3):  # as often as `largest` does, because DeepSpeed's processes gather together
                deque(changes(), maxlen=0)
            return
        mask = largest(changes, count)
        if not any(bits.any() for bits in mask.values()):
            raise ValueError(
                "`lota_ratio`: the tasks before have marked all weights of `lota_layers`, and none is left for this "
                "one. Use a smaller share."
            )
        write_masks(mask, self._shapes, file)

    def _changes(
        self, model: nn.Module, start: nn.Module | None, named: Sequence[str]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield how much each named weight has changed, fp32; -1 where an earlier task has a mask."""
        from sefe_plugin.methods.gradients import full_weight
        from sefe_plugin.methods.lota.masks import unpack

        before = dict(start.named_parameters()) if start is not None else {}
        for name, parameter in model.named_parameters():
            if name not in named:
                continue
            now = full_weight(parameter)
            if start is None:
                continue
            # as the training began: rounded where it trains in 16 bit what is kept in 32
            was = before[name].detach().to(now.device, parameter.dtype)
            change = (now - was.float()).abs()
            for masks in self._earlier:
                if name in masks:
                    change[unpack(masks[name].to(change.device), change.shape)] = -1.0
            yield name, change


def _load_start(model: nn.Module) -> nn.Module:
    """Load the model that a training started from, on the CPU and whole, also under ZeRO-3."""
    import torch
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import (
        is_deepspeed_zero3_enabled,
        set_hf_deepspeed_config,
        unset_hf_deepspeed_config,
    )

    partitions = is_deepspeed_zero3_enabled()
    if partitions:
        unset_hf_deepspeed_config()  # by which Transformers would share a model out over the processes
    try:
        revision = model.config._commit_hash or "main"  # of a hub; None of a folder
        return type(model).from_pretrained(model.config._name_or_path, dtype=torch.float32, revision=revision)
    finally:
        if partitions:
            set_hf_deepspeed_config(AcceleratorState().deepspeed_plugin.hf_ds_config)


def _masked(bits: torch.Tensor | None, grad: torch.Tensor) -> torch.Tensor:
    """Return a gradient with zeros where its weight is not to change."""
    import torch

    from sefe_plugin.methods.lota.masks import unpack

    return torch.zeros_like(grad) if bits is None else grad.masked_fill(~unpack(bits, grad.shape), 0)


def _shape(parameter: nn.Parameter) -> Sequence[int]:
    """Return the shape of a parameter, whole also under ZeRO-3."""
    return getattr(parameter, "ds_shape", parameter.shape)
