"""The ways to carry a task on: its adapter merged or stacked, continued, its model as it is, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sefe_plugin.carry.base import Carry, SavedSizes
from sefe_plugin.carry.quantized import merge_errors
from sefe_plugin.files import ADAPTER_CONFIG_FILE, MODEL_CONFIG_FILE, replacing_folder
from sefe_plugin.zero import zero_stage


if TYPE_CHECKING:
    from torch import nn


#: Keys that make the shape of an adapter, which one that is continued has already.
_ADAPTER_KEYS = (
    "lora_target",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "pissa_init",
    "additional_target",
)


class Merge(Carry):
    """The adapter becomes part of the next task's base, as in SEFE."""

    result = f"merged/{MODEL_CONFIG_FILE}"
    passing = "merged"

    def errors(self, arguments: Mapping[str, Any]) -> list[str]:
        """Refuse a base whose weights are quantized in its files: nothing can be merged into them."""
        return merge_errors(arguments, "carry: merge", "Set `carry: stack`, which leaves the base as it is.")

    def start(self, arguments: Mapping[str, Any], earlier: Sequence[Path]) -> dict[str, Any]:
        """Start from the merged model of the task before."""
        base = {"model_name_or_path": str(earlier[-1] / "merged")} if earlier else {}
        return {**base, "merge_adapter": not merges_apart(arguments)}

    def finish(self, arguments: Mapping[str, Any], folder: Path, merge: Callable[[Path], None]) -> None:
        """Let the host merge where the task's own process could not, or was ended before it did."""
        if (folder / self.result).is_file():
            return
        with replacing_folder(folder / "merged") as temporary:
            merge(temporary)

    def disk(self, sizes: SavedSizes, tasks: int, arguments: Mapping[str, Any]) -> dict[str, float]:
        """Return the bytes of one merged model for every task, or of the two that stand beside each other."""
        if arguments.get("keep_merged") == "last":
            return {"merged models, two": min(tasks, 2) * sizes.saved_bytes}
        return {"merged models": tasks * sizes.saved_bytes}


class Stack(Carry):
    """The base stays as it is, and all earlier adapters are kept frozen beside the new one."""

    result = f"stacked/{ADAPTER_CONFIG_FILE}"
    whole_sequence = ("lora_target",)
    same_matrices = True

    def errors(self, arguments: Mapping[str, Any]) -> list[str]:
        """Refuse adapters that are no plain B A on the base."""
        return _adapter_with_vllm_errors(arguments) + [
            f"`{key}` cannot be combined with `carry: stack`: its weight change is not B A on the base. Drop one."
            for key in ("use_dora", "pissa_init")
            if arguments.get(key)
        ]

    def model_errors(self, model: nn.Module) -> list[str]:
        """Refuse modules that are trained as a whole while their weight is also another module's."""
        from sefe_plugin.carry.stacking import tied_modules

        return [
            f"`carry: stack` cannot keep {name}, which `additional_target` trains as a whole: it is tied to {others}, "
            "which would change with it. Drop it from `additional_target`, or set `carry: merge`."
            for name, others in tied_modules(model).items()
        ]

    def start(self, arguments: Mapping[str, Any], earlier: Sequence[Path]) -> dict[str, Any]:
        """Start with the stack of all tasks before."""
        stacked = {"stacked_adapter": str(earlier[-1] / "stacked")} if earlier else {}
        return {"merge_adapter": False, **stacked}

    def finish(self, arguments: Mapping[str, Any], folder: Path, merge: Callable[[Path], None]) -> None:
        """Put the task's adapter on the stack."""
        # torch is imported only where it is needed, so that a recipe's errors are told at once
        from sefe_plugin.carry.stacking import stack_adapters

        earlier = [Path(arguments["stacked_adapter"])] if "stacked_adapter" in arguments else []
        stack_adapters([*earlier, folder], folder / "stacked")

    def disk(self, sizes: SavedSizes, tasks: int, arguments: Mapping[str, Any]) -> dict[str, float]:
        """Return the bytes of the stacks, which grow by one adapter from task to task."""
        return {"stacked adapters": sizes.lora_bytes * tasks * (tasks + 1) / 2}

    def stacked_adapters(self, earlier_tasks: int) -> int:
        """Return the number of earlier tasks: all are in the stack."""
        return earlier_tasks


class Continue(Carry):
    """The same adapter goes on from task to task (CoIN, MCITlib)."""

    result = ADAPTER_CONFIG_FILE
    whole_sequence = _ADAPTER_KEYS

    def errors(self, arguments: Mapping[str, Any]) -> list[str]:
        """Refuse what vLLM cannot answer with."""
        return _adapter_with_vllm_errors(arguments)

    def start(self, arguments: Mapping[str, Any], earlier: Sequence[Path]) -> dict[str, Any]:
        """Start with the adapter of the task before."""
        adapter = {"adapter_name_or_path": str(earlier[-1])} if earlier else {}
        return {"merge_adapter": False, **adapter}


class Replace(Carry):
    """The model of a task is the base of the next."""

    result = MODEL_CONFIG_FILE

    def errors(self, arguments: Mapping[str, Any]) -> list[str]:
        """Refuse a base whose weights are quantized in its files: they cannot be trained."""
        remedy = "Train an adapter with `carry: stack`, or take the base in full precision."
        return merge_errors(arguments, "carry: replace", remedy)

    def start(self, arguments: Mapping[str, Any], earlier: Sequence[Path]) -> dict[str, Any]:
        """Start from the model of the task before."""
        base = {"model_name_or_path": str(earlier[-1])} if earlier else {}
        return {**base, "merge_adapter": False}


class Alone(Carry):
    """Nothing is carried on: every task starts from the untouched base, as a reference for those that do not."""

    result = None
    alone = True

    def errors(self, arguments: Mapping[str, Any]) -> list[str]:
        """Refuse what vLLM cannot answer with, a base that cannot be trained, and samples of earlier tasks."""
        errors = []
        if arguments.get("finetuning_type") == "full":
            remedy = "Train an adapter, or take the base in full precision."
            errors = merge_errors(arguments, "carry: none` with `finetuning_type: full", remedy)
        else:
            errors = _adapter_with_vllm_errors(arguments)
        if arguments.get("replay_ratio"):
            errors.append("`replay_ratio` cannot be combined with `carry: none`: no task has earlier ones. Drop one.")
        return errors

    def start(self, arguments: Mapping[str, Any], earlier: Sequence[Path]) -> dict[str, Any]:
        """Start from the base that the recipe names."""
        return {"merge_adapter": False}


def _adapter_with_vllm_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List what keeps vLLM from answering with a base and an adapter."""
    if arguments.get("scoring_backend") != "vllm":
        return []
    reasons = {
        "pad_images": "needs merged models, which hold the padding processor",
        "additional_target": "needs merged models, because vLLM takes no adapter with whole modules",
    }
    return [
        f"`{key}` with `scoring_backend: vllm` {reason}. Set `carry: merge` or `scoring_backend: generate`."
        for key, reason in reasons.items()
        if arguments.get(key)
    ]


def merges_apart(arguments: Mapping[str, Any]) -> bool:
    """Tell whether a trained model cannot take its adapter in, so that another process merges it into the base.

    Weights are quantized, or in parts on several devices (DeepSpeed ZeRO-3).

    Args:
        arguments: Checked keys of one task.
    """
    return bool(arguments.get("quantization_bit")) or zero_stage(arguments) == 3
