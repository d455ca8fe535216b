"""OSF: full-size training in directions that are orthogonal to the largest ones of every weight (arXiv 2504.07097).

The decomposition and its training are PEFT's own (`peft.OSFConfig`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sefe_plugin.methods.base import Method, Sizes
from sefe_plugin.options import option


if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig
    from torch import nn

    from sefe_plugin.methods.gradients import Gradients
    from sefe_plugin.methods.task_data import TaskData


#: Keys of the host that OSF cannot work with, and why.
_REFUSED = {
    "deepspeed": "it holds the kept directions in 16 bit, or weights in parts; in 16 bit they are not orthogonal",
    "fsdp": "FSDP leaves no process a whole matrix",
    "quantization_bit": "quantized weights cannot be decomposed and trained",
    "pure_bf16": "in 16 bit the kept directions are not orthogonal",
    "use_dora": "DoRA is a kind of LoRA",
    "use_rslora": "OSF has no scale",
    "pissa_init": "PiSSA is a kind of LoRA",
    "lora_dropout": "OSF has no dropout",
    "additional_target": "OSF trains no modules as a whole",
    "stacked_adapter": "it would not be seen, because OSF does not call the layer that holds it",
    "use_unsloth": "Unsloth has layers of its own",
    "loraplus_lr_ratio": "OSF has no A and B that could have rates of their own",
}


@dataclass
class OsfOptions:
    """All recipe keys of OSF."""

    osf_kept: float = option(
        0.3,
        "Share in (0, 1) of every matrix's singular directions, the largest first, that the first task keeps as they "
        "are. The rest is trained. PEFT's example has 0.3.",
        rule="a share in (0, 1) (PEFT's example: 0.3)",
        holds=lambda value: 0 < value < 1,
        scope="sequence",
    )
    osf_rise: float = option(
        0.2,
        "What every later task keeps more than the one before, a share in [0, 1). PEFT's example has 0.2 in three "
        "tasks.",
        rule="a share in [0, 1) (PEFT's example: 0.2)",
        holds=lambda value: 0 <= value < 1,
        scope="sequence",
    )
    osf_most: float = option(
        0.9,
        "Most that any task keeps, a share in (0, 1), so that the last tasks of a long sequence can still learn.",
        rule="a share in (0, 1)",
        holds=lambda value: 0 < value < 1,
        scope="sequence",
    )


class Osf(Method):
    """Full-size training of each matrix in the complement of its largest singular directions.

    Before every task each matrix is decomposed, W = U S V. The largest ``osf_kept`` of its singular directions stay as
    they are. The others are trained, U and V only at right angles to what is kept: W x changes for no x in the span of
    the kept V, and no change has a part in the span of the kept U. After the task all of it becomes one plain matrix,
    which is decomposed anew for the next task.

    PEFT promises this of the gradients. Adam divides each of their elements by another number, and its steps leave the
    complement. So after every step what they left it by is taken away again.
    """

    Options = OsfOptions
    carries = ("merge",)
    peft_type = "OSF"

    @classmethod
    def errors(cls, arguments: Mapping[str, Any]) -> list[str]:
        """List which other keys OSF cannot work with."""
        options = cls(arguments).options
        errors = [
            f"`{key}` cannot be combined with `cl_method: osf`: {reason}. Drop one."
            for key, reason in _REFUSED.items()
            if arguments.get(key)
        ]
        if options.osf_most < options.osf_kept:
            errors.append(
                f"`osf_most` must be at least `osf_kept`, {options.osf_kept}; got {options.osf_most}. Change one."
            )
        return errors

    @classmethod
    def start(cls, arguments: Mapping[str, Any], earlier_tasks: int) -> dict[str, Any]:
        """Return the share that this task keeps.

        Example:
            >>> [Osf.start({}, earlier)["osf_kept"] for earlier in range(5)]
            [0.3, 0.5, 0.7, 0.9, 0.9]
        """
        options = cls(arguments).options
        kept = round(options.osf_kept + options.osf_rise * earlier_tasks, 10)
        return {"osf_kept": min(kept, options.osf_most)}

    @classmethod
    def memory(cls, sizes: Sizes, arguments: Mapping[str, Any], earlier_tasks: int) -> dict[str, float]:
        """Return the bytes of the first task, which trains most: of what is kept, and of the matrices put together.

        The latter are needed for the backward pass, with gradient checkpointing those of one layer.
        """
        share = cls(arguments).options.osf_kept
        kept = [(rows, columns, int(min(rows, columns) * share)) for rows, columns in sizes.matrices]
        whole = sum(rows * columns + rows * (min(rows, columns) - rank) for rows, columns, rank in kept)
        at_once = 1 if arguments.get("disable_gradient_checkpointing") else sizes.layers
        return {
            "kept directions": 4.0 * sum(rank * (rows + columns + 1) for rows, columns, rank in kept),
            "matrices put together": 4.0 * whole / at_once,
        }

    def adapt(self, config: LoraConfig) -> PeftConfig:
        """Return OSF on the same modules; a saved adapter stays as it is."""
        from peft import OSFConfig

        if isinstance(config, OSFConfig):
            return config
        return OSFConfig(
            task_type=config.task_type,
            inference_mode=config.inference_mode,
            target_modules=config.target_modules,
            effective_rank=self.options.osf_kept,
        )

    @contextmanager
    def building(self, base: nn.Module) -> Iterator[None]:
        """Let PEFT decompose in 32 bit: it keeps what it finds in the precision of the weight.

        In 16 bit the kept directions are not orthogonal, and the decomposition does not add up to the weight.
        """
        import torch
        from torch import nn

        precisions = [(m, m.weight.dtype) for m in base.modules() if isinstance(m, nn.Linear)]
        half = [(m, dtype) for m, dtype in precisions if dtype in (torch.bfloat16, torch.float16)]
        for module, _ in half:
            module.weight.data = module.weight.data.float()
        try:
            yield
        finally:
            for module, dtype in half:
                module.weight.data = module.weight.data.to(dtype)

    def begin(self, model: nn.Module, earlier: Sequence[Path], gradients: Gradients, data: TaskData) -> None:
        """Find the decomposed layers, and give all processes the kept directions of the first."""
        from accelerate.utils import broadcast
        from peft.tuners.osf import OSFLayer

        self._layers = [module for module in model.modules() if isinstance(module, OSFLayer)]
        for layer in self._layers:
            for kept in (layer._osf_U_high, layer._osf_S_high, layer._osf_V_high):
                for name in kept:
                    kept[name] = broadcast(kept[name])

    def on_step_end(self, model: nn.Module) -> None:
        """Take away what the step has put into the span of the kept directions."""
        import torch

        with torch.no_grad():
            for layer in self._layers:
                for name, trained in layer.osf_svd_params.items():
                    U, V = layer._osf_U_high[name], layer._osf_V_high[name]
                    trained["U_low"] -= U @ (U.T @ trained["U_low"])
                    trained["V_low"] -= (trained["V_low"] @ V.T) @ V
