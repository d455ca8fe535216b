"""KeepLoRA as a method of a recipe (`cl_method: keeplora`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sefe_plugin.files import ADAPTER_WEIGHTS_FILE, is_whole_safetensors
from sefe_plugin.methods.base import Method, Sizes, absent_files, named_files
from sefe_plugin.options import option
from sefe_plugin.zero import read_deepspeed, zero_stage


if TYPE_CHECKING:
    import torch
    from torch import nn

    from sefe_plugin.methods.gradients import Gradients
    from sefe_plugin.methods.task_data import TaskData


logger = logging.getLogger(__name__)

_A = ".lora_A.weight"
_KIND, _WEIGHTS, _FEATURES = "sefe_plugin.directions", "weights.", "features."

#: Directions of a layer that a task leaves on disk, as a share of its inputs, for the plan. All tasks together can
#: leave no more than there are inputs.
_USUAL_SHARE = 1 / 8

#: Keys that it cannot work with, and why.
_REFUSED = {
    "weight_decay": "it would move the A that are kept as they are",
    "quantization_bit": "the base of the next task is quantized again, which moves it in the kept directions too",
    "pure_bf16": "A is rounded out of the free directions",
    "streaming": "a share of the samples needs their number",
    "use_dora": "DoRA's weight change is not B A",
    "pissa_init": "PiSSA begins with another A",
    "use_unsloth": "Unsloth has layers of its own",
    "fsdp": "FSDP leaves no process a whole matrix",
}


def _is_share(value: Any) -> bool:
    return 0 < value <= 1


@dataclass
class KeepLoraOptions:
    """All recipe keys of KeepLoRA."""

    keeplora_weight_energy: float = option(
        0.6,
        "Share in (0, 1] of the energy of each weight of the base whose directions no task may use. The official code "
        "has 0.6.",
        symbol="epsilon_w",
        rule="a share in (0, 1] (official code: 0.6)",
        holds=_is_share,
        scope="sequence",
    )
    keeplora_feature_energy: float = option(
        0.99,
        "Share in (0, 1] of the energy of a task's features whose directions no later task may use. MCITlib has 0.99.",
        symbol="epsilon_f",
        rule="a share in (0, 1] (MCITlib: 0.99)",
        holds=_is_share,
    )
    keeplora_data: float = option(
        0.1,
        "Share in (0, 1] of a task's samples, evenly spread, that its gradient and its features are measured on. The "
        "official code has 0.1, MCITlib 0.2.",
        rule="a share in (0, 1] (official code: 0.1)",
        holds=_is_share,
    )
    keeplora_directions: list[str] | None = option(
        None,
        "The directions that the earlier tasks have left, oldest first. A sequence fills this in.",
        scope="filled_in",
    )


class KeepLora(Method):
    """LoRA in directions of each layer's input that neither the base nor an earlier task depends on.

    KeepLoRA, arXiv 2601.19659. Before a task the gradient G of its loss by each weight is measured, and projected off
    the directions that are kept: those of the weights of the first base, and those of the features of all earlier
    tasks. Its top right singular vectors become A, which stays as it is; B is trained. So the change of the weight,
    ``alpha / r * B A``, is orthogonal to what is kept. After the task the directions of its features are kept, too.

    The paper begins with ``B = B_0`` of the gradient's singular values and subtracts ``alpha / r * B_0 A`` from the
    weight. Here, as in the official code, B begins with 0. It is the same training: the two differ by the constant
    B_0, the gradient by B does not depend on B_0, and an optimizer without weight decay moves B by its gradients
    alone. With weight decay, which is refused, the paper's would decay towards ``W - alpha / r * B_0 A``. With
    `lora_dropout`, the paper's would begin with a disturbed function; this one does not.

    The adapter is exact in this, in fp32. A base in 16 bit is rounded when the adapter is merged into it.

    Inferred where the paper's text was not at hand: the share of the features' energy counts what the kept directions
    hold already, as in the official code (and GPM). That code takes for multimodal models the gradients of the trained
    model in place of its features; here they are the features, all tokens of the samples.
    """

    Options = KeepLoraOptions
    carries = ("merge",)
    file = "directions.safetensors"
    earlier = "keeplora_directions"
    whole_sequence = ("lora_target",)
    same_matrices = True

    @classmethod
    def errors(cls, arguments: Mapping[str, Any]) -> list[str]:
        """List which other keys KeepLoRA cannot work with."""
        errors = absent_files(cls.earlier, named_files(arguments.get(cls.earlier))) + [
            f"`{key}` cannot be combined with `cl_method: keeplora`: {reason}. Drop one."
            for key, reason in _REFUSED.items()
            if arguments.get(key)
        ]
        if zero_stage(arguments) == 3:
            errors.append(
                "`deepspeed`: `cl_method: keeplora` does not work under ZeRO-3, which partitions the weights whose "
                "directions it needs. Use ZeRO-2."
            )
        engine = read_deepspeed(arguments)
        for key in ("bf16", "fp16"):
            if engine is not None and (arguments.get(key) or (engine.get(key) or {}).get("enabled") is True):
                errors.append(
                    f"`deepspeed` with `{key}` cannot be combined with `cl_method: keeplora`: A is rounded to 16 bit, "
                    "out of the free directions. Train with DDP (remove `deepspeed`), or in 32 bit."
                )
        return errors

    @classmethod
    def memory(cls, sizes: Sizes, arguments: Mapping[str, Any], earlier_tasks: int) -> dict[str, float]:
        """Return the bytes of the sums that are held before and after the training, in fp32."""
        gradients = sum(rows * columns for rows, columns in sizes.matrices)
        moments = sum(columns**2 for _, columns in sizes.matrices)
        return {"gradients, features": 4.0 * max(gradients, moments)}

    @classmethod
    def disk(cls, sizes: Sizes, arguments: Mapping[str, Any]) -> dict[str, float]:
        """Return the bytes of the directions of one task, in fp32, where they are an eighth of all that there are."""
        return {"directions": 4.0 * _USUAL_SHARE * sum(columns**2 for _, columns in sizes.matrices)}

    @classmethod
    def check_file(cls, folder: Path, arguments: Mapping[str, Any]) -> str:
        """Check the file's sum, that a layer's directions are orthonormal, and that the layers are the adapter's."""
        import torch
        from safetensors import safe_open

        from sefe_plugin.methods.left_file import read_left

        file, weights = folder / cls.file, folder / ADAPTER_WEIGHTS_FILE
        if not is_whole_safetensors(weights):
            raise ValueError(f"{weights} is missing, cut short or damaged")
        found, _ = read_left(file, _KIND)
        names = {name.removeprefix(_FEATURES) for name in found if name.startswith(_FEATURES)}
        with safe_open(weights, "pt") as adapter:
            keys = [key.rpartition("base_model.model.")[2] for key in adapter.keys()]  # noqa: SIM118 - no mapping
        layers = {key.removesuffix(_A) for key in keys if key.endswith(_A)}
        if names != layers or {key.partition(".")[2] for key in found} != layers:
            raise ValueError(f"{file} is of other layers than the adapter beside it")
        for name in sorted(layers):
            rows = [found[f"{prefix}{name}"] for prefix in (_WEIGHTS, _FEATURES) if f"{prefix}{name}" in found]
            if not _is_orthonormal(torch.cat(rows)):
                raise ValueError(f"{file}: {name} has no set of orthonormal directions. Train that task again.")
        return f"its sum is right, {sum(len(rows) for rows in found.values())} directions, orthonormal"

    def begin(self, model: nn.Module, earlier: Sequence[Path], gradients: Gradients, data: TaskData) -> None:
        """Find the directions that are free, and let the adapter use no others.

        Raises:
            FileNotFoundError: If a file is absent.
            ValueError: If a layer is not linear, or a file is of other layers.
        """
        import torch

        from sefe_plugin.methods.gradients import set_weight
        from sefe_plugin.methods.keeplora.subspace import free_directions, weight_directions
        from sefe_plugin.methods.keeplora.sums import adapted_layers, gradient_sums

        self._layers = adapted_layers(model)
        self._of_weights = {}
        if earlier:
            self._kept = _load(earlier, {name: layer.in_features for name, layer in self._layers.items()})
        else:
            self._of_weights = self._shared(
                lambda name: weight_directions(
                    self._layers[name].get_base_layer().weight.detach(), self.options.keeplora_weight_energy
                )
            )
            self._kept = dict(self._of_weights)
        factors = {name: _factors(layer) for name, layer in self._layers.items()}
        for A, _ in factors.values():
            gradients.transform(A, torch.zeros_like)
        if any(B.any() for _, B in factors.values()):
            return  # a training that goes on from a checkpoint has its A
        sums = gradient_sums(model, self._layers, data, data.spread(self.options.keeplora_data))
        found = self._shared(
            lambda name: free_directions(sums[name], self._kept[name].to(sums[name].device), len(factors[name][0]))
        )
        for name, (A, _) in factors.items():
            set_weight(A, found[name])
        if full := sum(not rows.any(dim=1).all() for rows in found.values()):
            logger.warning(
                "%d of %d layers have fewer free directions than their rank, and learn less or nothing. Lower "
                "`keeplora_feature_energy` or `keeplora_weight_energy` from the first task on.",
                full,
                len(found),
            )

    def finish(self, model: nn.Module, file: Path | None, *, write: bool, seed: int, data: TaskData) -> None:
        """Leave the directions of the task's features; the first task also leaves those of the base."""
        from sefe_plugin.methods.keeplora.subspace import feature_directions
        from sefe_plugin.methods.keeplora.sums import feature_moments
        from sefe_plugin.methods.left_file import write_left

        moments = feature_moments(model, self._layers, data, data.spread(self.options.keeplora_data))
        new = self._shared(
            lambda name: feature_directions(
                moments[name], self._kept[name].to(moments[name].device), self.options.keeplora_feature_energy
            )
        )
        if write:
            parts = {_WEIGHTS: self._of_weights, _FEATURES: new}
            kept = {f"{prefix}{name}": rows for prefix, part in parts.items() for name, rows in part.items()}
            write_left(kept, file, _KIND)

    def _shared(self, make) -> dict[str, torch.Tensor]:
        """Make directions for every layer, each in one of the processes, and give them to all; fp32, on the CPU."""
        import torch
        from accelerate.state import PartialState
        from accelerate.utils import broadcast

        state = PartialState()
        owners = {name: number % state.num_processes for number, name in enumerate(self._layers)}
        made = {name: make(name).float().cpu() for name, owner in owners.items() if owner == state.process_index}
        if state.num_processes == 1:
            return made
        shared = {}
        for name, owner in owners.items():
            layer = self._layers[name]
            device = layer.get_base_layer().weight.device
            count = torch.tensor([len(made.get(name, ()))], device=device)
            count = int(broadcast(count, from_process=owner))
            rows = made[name].to(device) if name in made else torch.empty(count, layer.in_features, device=device)
            shared[name] = broadcast(rows.contiguous(), from_process=owner).cpu()
        return shared


def _factors(layer) -> tuple[nn.Parameter, nn.Parameter]:
    """Return A and B of a layer's adapter."""
    adapter = layer.active_adapters[0]
    return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight


def _load(files: Sequence[Path], widths: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Return the directions of all files, one below the other, by layer; fp32, on the CPU."""
    import torch

    from sefe_plugin.methods.left_file import read_left

    parts: dict[str, list[torch.Tensor]] = {name: [] for name in widths}
    for file in files:
        found, _ = read_left(file, _KIND)
        names = {name.removeprefix(_FEATURES) for name in found if name.startswith(_FEATURES)}
        if names != widths.keys():
            odd = sorted(names ^ widths.keys())[0]
            raise ValueError(f"{file} is of other layers than this task's, {odd} first. Use one `lora_target`.")
        for key, rows in found.items():
            name = key.partition(".")[2]
            if rows.shape[1:] != (widths[name],):
                raise ValueError(
                    f"{file}: the directions of {name} have shape {tuple(rows.shape)}, not {widths[name]} columns. "
                    "Use the same base model for all tasks of a sequence."
                )
            parts[name].append(rows)
    return {name: torch.cat(rows) for name, rows in parts.items()}


def _is_orthonormal(rows: torch.Tensor) -> bool:
    import torch

    return rows.ndim == 2 and torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-3)
