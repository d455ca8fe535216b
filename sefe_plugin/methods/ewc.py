"""EWC: each trained weight is held where it was, the harder the more earlier tasks depend on it (arXiv 1612.00796)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sefe_plugin.files import ADAPTER_WEIGHTS_FILE, is_whole_safetensors
from sefe_plugin.methods.base import Method, Sizes, absent_files, named_files
from sefe_plugin.options import option
from sefe_plugin.zero import zero_stage


if TYPE_CHECKING:
    import torch
    from torch import nn

    from sefe_plugin.methods.gradients import Gradients
    from sefe_plugin.methods.task_data import TaskData


#: The logged value: the penalty of a step.
PENALTY_LOG = "ewc_penalty"

_KIND, _FISHER, _ANCHOR = "sefe_plugin.fisher", "fisher.", "anchor."

#: Keys of the host that EWC cannot work with, and why.
_REFUSED = {
    "use_dora": "PEFT saves DoRA's magnitudes under other names than they are trained by",
    "use_unsloth": "Unsloth has layers of its own",
    "fsdp": "FSDP leaves no process a whole matrix",
    "streaming": "samples of a stream cannot be drawn",
}


@dataclass
class EwcOptions:
    """All recipe keys of EWC."""

    ewc_weight: float = option(
        1.0,
        "Weight lambda of the penalty, at least 0. The Fisher information is a mean over samples, so lambda stands "
        "beside a loss whose mean is over samples, too.",
        symbol="lambda",
        rule="a number of at least 0",
        holds=lambda value: value >= 0,
    )
    ewc_samples: int = option(
        256,
        "Samples of a task that its Fisher information is measured on, at least 1; all of them where there are fewer.",
        rule="a whole number of at least 1",
        holds=lambda value: value >= 1,
    )
    ewc_fisher: list[str] | None = option(
        None,
        "Fisher information and weights after the earlier tasks, oldest first. A sequence fills this in.",
        scope="filled_in",
    )


class Ewc(Method):
    """LoRA that goes on from task to task, with a quadratic penalty towards its weights after each earlier task.

    The penalty is ``lambda / 2 * sum_tasks sum_i F_i (theta_i - theta*_i)^2``. F is the diagonal of the empirical
    Fisher information: the mean over samples of the squared gradient of log p(answer | question), with the answer of
    the data. The penalties of all tasks are kept as two tensors of the adapter's size.
    """

    Options = EwcOptions
    carries = ("continue",)
    file = "fisher.safetensors"
    earlier = "ewc_fisher"

    @classmethod
    def errors(cls, arguments: Mapping[str, Any]) -> list[str]:
        """List which other keys EWC cannot work with."""
        errors = absent_files(cls.earlier, named_files(arguments.get(cls.earlier)))
        if zero_stage(arguments) == 3:
            errors.append(
                "`deepspeed`: `cl_method: ewc` does not work under ZeRO-3, which partitions the weights. It needs "
                "their gradients by single samples. Use ZeRO-2."
            )
        return errors + [
            f"`{key}` cannot be combined with `cl_method: ewc`: {reason}. Drop one."
            for key, reason in _REFUSED.items()
            if arguments.get(key)
        ]

    @classmethod
    def memory(cls, sizes: Sizes, arguments: Mapping[str, Any], earlier_tasks: int) -> dict[str, float]:
        """Return the bytes of the penalties' two tensors."""
        return {"Fisher information": 8.0 * sizes.trainable_parameters if earlier_tasks else 0.0}

    @classmethod
    def disk(cls, sizes: Sizes, arguments: Mapping[str, Any]) -> dict[str, float]:
        """Return the bytes of one task's Fisher information and weights."""
        return {"Fisher information": 8.0 * sizes.trainable_parameters}

    @classmethod
    def check_file(cls, folder: Path, arguments: Mapping[str, Any]) -> str:
        """Check the file's sum, that no Fisher information is below 0, and that it is of the adapter beside it."""
        from safetensors.torch import load_file

        file, weights = folder / cls.file, folder / ADAPTER_WEIGHTS_FILE
        if not is_whole_safetensors(weights):
            raise ValueError(f"{weights} is missing, cut short or damaged")
        kept, adapter = read_fisher(file), load_file(weights)
        if not {_saved_name(name) for name in kept} <= adapter.keys():  # PEFT adds embeddings that are not trained
            raise ValueError(f"{file} was measured on another adapter than the one beside it")
        for name, (fisher, anchor) in kept.items():
            if not (fisher >= 0).all() or not fisher.isfinite().all():
                raise ValueError(f"{file}: the Fisher information of {name} is negative or not finite")
            if not anchor.equal(adapter[_saved_name(name)].float()):
                raise ValueError(f"{file} was measured on another adapter than the one beside it; {name} differs")
        return f"its sum is right, and it is of this adapter, {len(kept)} parameters"

    def begin(self, model: nn.Module, earlier: Sequence[Path], gradients: Gradients, data: TaskData) -> None:
        """Load what earlier tasks left.

        Raises:
            FileNotFoundError: If a file is absent.
            ValueError: If a file belongs to another adapter.
        """
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._terms = _terms(earlier, self._trained)

    def on_step_begin(self, gradients: Gradients) -> None:
        """Add the gradient of the penalty, lambda * sum_tasks F (theta - theta*)."""
        import torch

        process, processes = gradients.share
        weight, total = self.options.ewc_weight, torch.zeros(())
        for number, (name, (fisher, pull, spread)) in enumerate(self._terms.items()):
            if number % processes != process:
                continue
            force = fisher * self._trained[name].detach().float() - pull
            value = weight / 2 * ((force * _ratio(force, fisher)).sum() + spread)
            total = total.to(value.device) + value
            gradients.add(self._trained[name], weight * gradients.scale * processes * force)
        gradients.log(PENALTY_LOG, total)

    def finish(self, model: nn.Module, file: Path | None, *, write: bool, seed: int, data: TaskData) -> None:
        """Measure the Fisher information on samples of the task, and save it with the weights."""
        from sefe_plugin.methods.left_file import write_left

        fisher = fisher_information(model, self._trained, data, data.draw(self.options.ewc_samples, seed))
        if not write:
            return
        kept = {f"{_FISHER}{name}": value for name, value in fisher.items()}
        kept |= {f"{_ANCHOR}{name}": parameter.detach().float() for name, parameter in self._trained.items()}
        write_left(kept, file, _KIND)


def fisher_information(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], data: TaskData, samples: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Measure the diagonal of the empirical Fisher information.

    Args:
        model: As trained, not wrapped.
        parameters: Name -> parameter.
        data: The task's.
        samples: Of `TaskData.draw`.

    Returns:
        Name -> mean over the samples of the squared gradient of log p(answer | question); fp32, the parameter's shape.
    """
    import torch
    from accelerate.utils import reduce

    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    for loss in data.losses(model, samples):
        # a sample without an image does not use what is trained of the vision side
        grads = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        for name, grad in zip(total, grads, strict=True):
            total[name] += grad.float().square()
    return {name: reduce(value, "sum") / len(samples) for name, value in total.items()}


def read_fisher(file: str | Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Read what a task has left.

    Returns:
        Name of a parameter -> its Fisher information and the parameter itself, fp32, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or of another kind.
    """
    from sefe_plugin.methods.left_file import read_left

    kept, _ = read_left(file, _KIND)
    names = sorted(name.removeprefix(_FISHER) for name in kept if name.startswith(_FISHER))
    return {name: (kept[f"{_FISHER}{name}"], kept[f"{_ANCHOR}{name}"]) for name in names}


def _terms(
    files: Sequence[Path], trained: Mapping[str, nn.Parameter]
) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Add up the penalties of all tasks.

    Example: tasks with F = 1 and 3 have left a weight at 0 and 4. Their penalties are those of F = 4 at 3, and of 12,
    which no weight can undo: 1 * (3 - 0)^2 + 3 * (3 - 4)^2.

    Returns:
        Name of a parameter -> F = sum F_k, sum F_k theta*_k, and sum F_k (theta*_k - mean)^2, where the mean is the
        second by the first.
    """
    import torch

    sums: dict[str, tuple] = {}
    for file in files:
        kept = read_fisher(file)
        if odd := sorted(kept.keys() ^ trained.keys()):
            raise ValueError(f"{file} belongs to another adapter; {odd[0]} is in one of them only. Use one adapter.")
        for name, parameter in trained.items():
            fisher, anchor = (part.to(parameter.device) for part in kept[name])
            if fisher.shape != parameter.shape:
                raise ValueError(
                    f"{file}: {name} has shape {tuple(fisher.shape)}, not {tuple(parameter.shape)}. Use one adapter."
                )
            zeros = torch.zeros_like(fisher)
            total, pull, spread = sums.get(name, (zeros, zeros, fisher.new_zeros(())))
            apart = pull - total * anchor
            spread = spread + (_ratio(fisher, total + fisher) * apart * _ratio(apart, total)).sum()
            sums[name] = (total + fisher, pull + fisher * anchor, spread)
    return sums


def _ratio(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """Divide, where what is below is not 0; the ratio is 0 there."""
    return (above / below).where(below != 0, 0.0)


def _saved_name(name: str) -> str:
    """Return the name that a saved adapter has for a trained parameter; PEFT leaves the adapter's own name out."""
    return name.replace(".modules_to_save.default.", ".").replace(".default.", ".").removesuffix(".default")
