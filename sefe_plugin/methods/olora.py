"""O-LoRA: each task's adapter in directions that are orthogonal to those of all earlier ones (arXiv 2310.14152).

This is not PEFT's initialisation ``init_lora_weights="olora"``, which has a similar name and another purpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sefe_plugin.files import ADAPTER_WEIGHTS_FILE, is_whole_safetensors
from sefe_plugin.methods.base import Method, Sizes, absent_files, named_files
from sefe_plugin.options import option


if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftConfig
    from torch import nn

    from sefe_plugin.methods.gradients import Gradients
    from sefe_plugin.methods.task_data import TaskData


#: The logged value: the weighted overlap, and with `olora_l2_weight` the weighted norms.
PENALTY_LOG = "olora_penalty"

_A = ".lora_A.weight"

#: Keys of the host that O-LoRA cannot work with, and why.
_REFUSED = {
    "use_dora": "DoRA's weight change is not B A",
    "pissa_init": "PiSSA gives every task the same first A",
    "use_unsloth": "Unsloth has layers of its own",
    "fsdp": "FSDP leaves no process a whole matrix",
}


@dataclass
class OLoraOptions:
    """All recipe keys of O-LoRA."""

    olora_weight: float = option(
        0.5,
        "Weight lambda_1 of the overlap of the new A with those of all earlier tasks, at least 0. The official code "
        "has 0.5, and also 5 where there are 15 tasks.",
        symbol="lambda_1",
        rule="a number of at least 0 (official code: 0.5)",
        holds=lambda value: value >= 0,
    )
    olora_l2_weight: float = option(
        0.0,
        "Weight lambda_2 of the sum of the norms of the new A and B, at least 0. The official code has 0, and up to "
        "0.3 where there are 15 tasks.",
        symbol="lambda_2",
        rule="a number of at least 0 (official code: 0)",
        holds=lambda value: value >= 0,
    )
    olora_adapters: list[str] | None = option(
        None,
        "Adapter weights of the earlier tasks, oldest first, as a list or separated by commas. A sequence fills this "
        "in.",
        scope="filled_in",
    )


class OLora(Method):
    """LoRA that is penalised for the overlap of its A with the A of all earlier tasks.

    Earlier adapters stay frozen beside the new one (`carry: stack`), in training and in testing alike. The penalty on
    one matrix is ``lambda_1 * sum |A_earlier A^T| + lambda_2 * (||A|| + ||B||)``, as in the official code; the norms
    are not squared there. Its gradient is formed directly and added once per optimizer step.

    The first task has no overlap. Its A is drawn as plain LoRA's; every later task draws another one from the seed of
    the training and its own number, because an A that begins as the earlier one would begin in its directions.
    """

    Options = OLoraOptions
    carries = ("stack",)
    file = ADAPTER_WEIGHTS_FILE
    earlier = "olora_adapters"

    @classmethod
    def errors(cls, arguments: Mapping[str, Any]) -> list[str]:
        """List which other keys O-LoRA cannot work with."""
        errors = absent_files(cls.earlier, named_files(arguments.get(cls.earlier)))
        return errors + [
            f"`{key}` cannot be combined with `cl_method: olora`: {reason}. Drop one."
            for key, reason in _REFUSED.items()
            if arguments.get(key)
        ]

    @classmethod
    def memory(cls, sizes: Sizes, arguments: Mapping[str, Any], earlier_tasks: int) -> dict[str, float]:
        """Return the bytes of the A of earlier tasks, in 16 bit."""
        rank = int(arguments.get("lora_rank") or 8)
        return {"A of earlier tasks": 2.0 * earlier_tasks * rank * sum(columns for _, columns in sizes.matrices)}

    @classmethod
    def check_file(cls, folder: Path, arguments: Mapping[str, Any]) -> str:
        """Check that the adapter is whole; later tasks read its A."""
        if not is_whole_safetensors(folder / cls.file):
            raise ValueError(f"{folder / cls.file} is missing, cut short or damaged")
        return "whole"

    def adapt(self, config: LoraConfig) -> PeftConfig:
        """Let the A of a later task be drawn from a stream of its own; the adapter is plain LoRA."""
        if tasks := len(named_files(self.options.olora_adapters)):
            import torch

            digest = hashlib.sha256(f"A of task {tasks} with seed {torch.initial_seed()}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
        return config

    def begin(self, model: nn.Module, earlier: Sequence[Path], gradients: Gradients, data: TaskData) -> None:
        """Load the A of earlier tasks.

        Raises:
            FileNotFoundError: If a file is absent.
            ValueError: If an adapter changes other matrices than the one that is trained.
        """
        factors = _trained_factors(model)
        past = _earlier_factors(earlier, factors)
        self._matrices = [(A, B, past.get(name)) for name, (A, B) in sorted(factors.items())]

    def on_step_begin(self, gradients: Gradients) -> None:
        """Add the gradient of the penalty."""
        import torch

        from sefe_plugin.methods.gradients import gathered

        process, processes = gradients.share
        total = torch.zeros(())
        for number, (A, B, past) in enumerate(self._matrices):
            if past is None and not self.options.olora_l2_weight:
                continue
            with gathered(A, B):
                if number % processes != process:
                    continue
                value, *grads = penalty(A, B, past, self.options.olora_weight, self.options.olora_l2_weight)
            total = total.to(value.device) + value
            for factor, grad in zip((A, B), grads, strict=True):
                gradients.add(factor, grad.mul_(gradients.scale * processes))
        gradients.log(PENALTY_LOG, total)


def penalty(
    A: torch.Tensor,  # noqa: N803 - the papers' names of the factors
    B: torch.Tensor,  # noqa: N803
    past: torch.Tensor | None,
    weight: float,
    l2_weight: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the penalty on one matrix and its gradient.

    Args:
        A: Shape (rank, in_features).
        B: Shape (out_features, rank).
        past: The A of all earlier tasks, one below the other, (earlier ranks, in_features); None for the first task.
        weight: lambda_1.
        l2_weight: lambda_2.

    Returns:
        ``weight * sum |past A^T| + l2_weight * (||A|| + ||B||)`` and its gradients by A and B; fp32. The gradient of a
        norm is 0 where the norm is.
    """
    import torch

    A, B = A.detach().float(), B.detach().float()
    value, grad_A, grad_B = A.new_zeros(()), torch.zeros_like(A), torch.zeros_like(B)
    if past is not None and weight:
        past = past.to(A)
        overlap = A @ past.T
        value = value + weight * overlap.abs().sum()
        grad_A += weight * (overlap.sign() @ past)
    if l2_weight:
        for factor, grad in ((A, grad_A), (B, grad_B)):
            norm = factor.norm()
            value = value + l2_weight * norm
            grad += l2_weight * factor / norm.clamp_min(torch.finfo(torch.float32).tiny)
    return value, grad_A, grad_B


def _trained_factors(model: nn.Module) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Return A and B of every adapted matrix, by the name that its saved adapter has for it."""
    from peft.tuners.lora import LoraLayer

    factors = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and module.active_adapters[0] in module.lora_A:
            adapter = module.active_adapters[0]
            path = name[name.index("base_model.model.") :]
            factors[path] = (module.lora_A[adapter].weight, module.lora_B[adapter].weight)
    return factors


def _earlier_factors(files: Sequence[Path], trained: Mapping[str, tuple]) -> dict[str, torch.Tensor]:
    """Return the A of all files, one below the other, by matrix; fp32 on a CPU, bfloat16 on a GPU."""
    import torch
    from safetensors.torch import safe_open

    parts: dict[str, list[torch.Tensor]] = {name: [] for name in trained} if files else {}
    for file in files:
        with safe_open(file, "pt") as adapter:
            names = {key.removesuffix(_A) for key in adapter.keys() if key.endswith(_A)}  # noqa: SIM118 - no mapping
            if names != parts.keys():
                odd = sorted(names ^ parts.keys())[0]
                raise ValueError(
                    f"{file} changes other matrices than this task does, {odd} first. Use one `lora_target`."
                )
            for name in names:
                A, _ = trained[name]
                rows, columns = adapter.get_tensor(f"{name}{_A}"), getattr(A, "ds_shape", A.shape)[1]
                if rows.ndim != 2 or rows.shape[1] != columns:
                    raise ValueError(
                        f"{file}: A of {name} has shape {tuple(rows.shape)}, not {columns} columns. Use the "
                        "same base model for all tasks of a sequence."
                    )
                parts[name].append(rows.to(A.device, torch.float32 if A.device.type == "cpu" else torch.bfloat16))
    return {name: torch.cat(rows) for name, rows in parts.items()}
