"""Fwd-Prompt as a method of a recipe (`cl_method: fwd_prompt`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sefe_plugin.files import ADAPTER_WEIGHTS_FILE, is_whole_safetensors
from sefe_plugin.methods.base import Method, Sizes, absent_files, named_files
from sefe_plugin.methods.fwd_prompt.options import FwdPromptOptions, PoolOptions
from sefe_plugin.methods.peft_types import PEFT_TYPE
from sefe_plugin.options import own_options
from sefe_plugin.zero import read_deepspeed


if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftConfig
    from torch import nn

    from sefe_plugin.methods.fwd_prompt.pool import PromptPool
    from sefe_plugin.methods.gradients import Gradients
    from sefe_plugin.methods.task_data import TaskData


logger = logging.getLogger(__name__)

_KIND, _PRETRAINED, _CONFLICTING, _PROMPTS = "sefe_plugin.spaces", "pretrained", "conflicting", "prompts"

#: Keys that it cannot work with, and why.
_REFUSED = {
    "additional_target": "the model stays frozen",
    "train_on_prompt": "prompts are chosen by the question, which ends where the first token that is learned begins",
    **dict.fromkeys(
        ("label_smoothing_factor", "use_dft_loss", "use_eaft_loss", "use_asft_loss"),
        "the model is not told then which tokens are learned, so nothing tells the question from its answer",
    ),
    "moe_aux_loss_coef": "that loss does not know of the prompts",
    "packing": "each sample has prompts of its own, and packed samples are one input",
    "neat_packing": "each sample has prompts of its own, and packed samples are one input",
    "merge_adapter": "a pool of prompts changes no weight that it could be merged into",
    "pure_bf16": "prompts are rounded out of the space that they may move in",
    "streaming": "samples for the spaces are drawn, which needs their number",
    "use_unsloth": "Unsloth has models of its own",
    "fsdp": "FSDP leaves no process the whole pool",
}


class FwdPrompt(Method):
    """A pool of prompts in front of a frozen model, kept out of the directions that earlier tasks depend on.

    Fwd-Prompt, arXiv 2401.09181. Each input is given the n prompts of the pool that are nearest to it (`PromptPool`).
    After each task the core space of its input embeddings is found, and what of it lies outside of the pre-trained
    space joins the conflicting space, in which later tasks do not move the prompts. The first task moves them freely.

    The paper projects the gradient. With Adam's moments or weight decay the step then leaves the space nevertheless,
    so here the change of the prompts since the task began is projected as well, after each step.

    Where the paper's text leaves a choice open, this is what was chosen, as inferred:

    - a loss on the keys as in L2P, and no projection for keys;
    - the allowed space is the pre-trained and the residual space together, which is all but the conflicting one;
    - what an earlier task has taken from the residual space is not given back: spaces are joined. Projecting the
      residual space off the new directions alone could tilt it back into the conflicting one;
    - the embeddings that give a space are all that the language model is fed, the prompts and the answers included.
    """

    Options = FwdPromptOptions
    carries = ("continue", "none")
    file = "spaces.safetensors"
    earlier = "fwd_prompt_spaces"
    datasets = ("fwd_prompt_pretrained",)
    peft_type = "FWD_PROMPT"
    patches = (PEFT_TYPE,)

    @classmethod
    def errors(cls, arguments: Mapping[str, Any]) -> list[str]:
        """List which other keys Fwd-Prompt cannot work with."""
        options = cls(arguments).options
        errors = absent_files(cls.earlier, named_files(arguments.get(cls.earlier))) + [
            f"`{key}` cannot be combined with `cl_method: fwd_prompt`: {reason}. Drop one."
            for key, reason in _REFUSED.items()
            if arguments.get(key)
        ]
        if arguments.get("asd_loss") == "sample":
            errors.append(
                "`asd_loss: sample` cannot be combined with `cl_method: fwd_prompt`: "
                f"{_REFUSED['label_smoothing_factor']}. Drop it."
            )
        if options.fwd_prompt_top > options.fwd_prompt_pool:
            errors.append(
                f"`fwd_prompt_top` must be at most `fwd_prompt_pool`, {options.fwd_prompt_pool}; got "
                f"{options.fwd_prompt_top}. Change one."
            )
        if read_deepspeed(arguments) is not None:
            errors.append(
                "`deepspeed` cannot be combined with `cl_method: fwd_prompt`: its optimizer keeps copies of what is "
                "trained, and the pool is too small to need it. Train with DDP (remove `deepspeed`)."
            )
        if arguments.get("scoring_backend") == "vllm":
            errors.append(
                "`scoring_backend: vllm` cannot be combined with `cl_method: fwd_prompt`: vLLM has no such adapter. "
                "Set `scoring_backend: generate`."
            )
        return errors

    @classmethod
    def start(cls, arguments: Mapping[str, Any], earlier_tasks: int) -> dict[str, Any]:
        """Return the datasets of the pre-trained space, which the first task finds.

        Example:
            >>> FwdPrompt.start({"retention_sets": [{"name": "chat", "dataset": "chat_test", "scorer": "exact"}]}, 0)
            {'fwd_prompt_pretrained': ['chat_test']}
        """
        general = [entry["dataset"] for entry in arguments.get("retention_sets") or ()]
        if earlier_tasks or arguments.get("fwd_prompt_pretrained") or not general:
            return {}
        return {"fwd_prompt_pretrained": general}

    @classmethod
    def added_tokens(cls, arguments: Mapping[str, Any]) -> int:
        """Return how many vectors stand in front of every input."""
        options = cls(arguments).options
        return options.fwd_prompt_top * options.fwd_prompt_length

    @classmethod
    def memory(cls, sizes: Sizes, arguments: Mapping[str, Any], earlier_tasks: int) -> dict[str, float]:
        """Return the bytes of the second moment of embeddings, in float64."""
        return {"moment of embeddings": 8.0 * sizes.hidden_size**2}

    @classmethod
    def disk(cls, sizes: Sizes, arguments: Mapping[str, Any]) -> dict[str, float]:
        """Return the bytes of the spaces at their largest, in fp32, and of the prompts."""
        options = cls(arguments).options
        vectors = sizes.hidden_size + options.fwd_prompt_pool * options.fwd_prompt_length
        return {"spaces": 4.0 * vectors * sizes.hidden_size}

    @classmethod
    def check_file(cls, folder: Path, arguments: Mapping[str, Any]) -> str:
        """Check the file's sum, that the spaces are orthonormal, and that the prompts are those of the adapter."""
        import torch
        from safetensors.torch import load_file

        file, weights = folder / cls.file, folder / ADAPTER_WEIGHTS_FILE
        if not is_whole_safetensors(weights):
            raise ValueError(f"{weights} is missing, cut short or damaged")
        found = _read(file)
        rows = torch.cat([found[_PRETRAINED], found[_CONFLICTING]])
        if not torch.allclose(rows @ rows.T, torch.eye(len(rows), dtype=rows.dtype), atol=1e-3):
            raise ValueError(f"{file}: its spaces are not orthonormal. Train that task again.")
        prompts = next(value for name, value in load_file(weights).items() if name.endswith("fwd_prompt_value"))
        if not found[_PROMPTS].equal(prompts):
            raise ValueError(f"{file} is of other prompts than the adapter beside it")
        return f"its sum is right, {len(found[_PRETRAINED])} and {len(found[_CONFLICTING])} directions, orthonormal"

    def adapt(self, config: LoraConfig) -> PeftConfig:
        """Return the pool in place of LoRA.

        Raises:
            ValueError: If a saved pool has other sizes than the recipe.
        """
        from sefe_plugin.methods.fwd_prompt import FwdPromptConfig

        ours = {key: vars(self.options)[key] for key in own_options(PoolOptions)}
        for key, value in ours.items():
            if (saved := getattr(config, key, value)) != value:
                raise ValueError(f"`{key}` must be {saved}, as in the pool that goes on; got {value}.")
        return FwdPromptConfig(task_type=config.task_type, inference_mode=config.inference_mode, **ours)

    def building(self, base: nn.Module):
        """Make the type known to PEFT before a saved pool is read."""
        from sefe_plugin.methods.fwd_prompt import FwdPromptConfig  # noqa: F401 - registers the type

        return super().building(base)

    def begin(self, model: nn.Module, earlier: Sequence[Path], gradients: Gradients, data: TaskData) -> None:
        """Find the space in which this task may move the prompts; the first task also finds the pre-trained one.

        Raises:
            FileNotFoundError: If a file is absent.
            ValueError: If a file is damaged, or of another model.
        """
        import torch

        from sefe_plugin.methods.fwd_prompt.subspace import core_space

        self._pool = _pool(model)
        self._pool.checkpoint_layers()
        values = self._pool.values
        self._samples = data.samples_of_step
        self._forbidden = self._only = self._begun = None
        if not earlier:
            general = self.options.fwd_prompt_pretrained
            moment = self._moment(model, data.of(general) if general else data, with_prompts=False)
            self._pretrained = core_space(moment, self.options.fwd_prompt_energy)
            self._conflicting = torch.zeros(0, values.shape[-1], dtype=torch.float64)
            return
        found = _read(earlier[-1])
        self._pretrained, self._conflicting = found[_PRETRAINED].double(), found[_CONFLICTING].double()
        if found[_PROMPTS].shape != values.shape:
            raise ValueError(
                f"{earlier[-1]}: its prompts have shape {tuple(found[_PROMPTS].shape)}, this pool's "
                f"{tuple(values.shape)}. Use the same base model and pool for all tasks of a sequence."
            )
        self._limit(len(earlier), values)
        if self._forbidden is not None or self._only is not None:
            self._begun = found[_PROMPTS].to(values.device, torch.float64)
            gradients.transform(values, lambda grad: self._allowed(grad.double()).to(grad.dtype))

    def _limit(self, earlier_tasks: int, values: torch.Tensor) -> None:
        """Say in which directions the prompts may move: in some `only`, or in all but the `forbidden` ones."""
        import torch

        from sefe_plugin.methods.fwd_prompt.subspace import random_space

        match self.options.fwd_prompt_projection:
            case "conflict":
                self._forbidden = self._conflicting
            case "residual":
                self._forbidden = torch.cat([self._pretrained, self._conflicting])
            case "pretrained":
                self._only = self._pretrained
            case "random":
                self._forbidden = random_space(*self._conflicting.shape, seed=earlier_tasks)
        if self._forbidden is not None:
            self._forbidden = self._forbidden.to(values.device)
        if self._only is not None:
            self._only = self._only.to(values.device)

    def _allowed(self, change: torch.Tensor) -> torch.Tensor:
        """Return the part of a change, (..., d) in float64, in the directions in which the prompts may move."""
        if self._only is not None:
            return (change @ self._only.T) @ self._only
        return change - (change @ self._forbidden.T) @ self._forbidden

    def on_step_begin(self, gradients: Gradients) -> None:
        """Give the key loss its weight: c, over the samples of the step."""
        self._pool.key_weight = self.options.fwd_prompt_key_weight / self._samples * gradients.scale

    def on_step_end(self, model: nn.Module) -> None:
        """Take away what the steps so far have moved the prompts by in other directions than the allowed ones."""
        import torch

        if self._begun is not None:
            values = self._pool.values
            with torch.no_grad():
                values.copy_(self._begun + self._allowed(values.double() - self._begun))

    def finish(self, model: nn.Module, file: Path | None, *, write: bool, seed: int, data: TaskData) -> None:
        """Leave the spaces for later tasks, and the prompts as they are now."""
        from sefe_plugin.methods.fwd_prompt.subspace import core_space, with_conflicts
        from sefe_plugin.methods.left_file import write_left

        core = core_space(self._moment(model, data, with_prompts=True), self.options.fwd_prompt_energy)
        after = with_conflicts(self._conflicting, self._pretrained, core)
        if not write:
            return
        inside = (core @ self._pretrained.T).square().sum() / len(core)
        before = (core @ self._conflicting.T).square().sum() / len(core)
        logger.info(
            "The core space of this task has %d of %d directions: %.0f %% of it in the pre-trained space, %.0f %% in "
            "that of earlier tasks. The conflicting space grows from %d to %d directions.",
            *(len(core), core.shape[1], 100 * inside, 100 * before, len(self._conflicting), len(after)),
        )
        spaces = {_PRETRAINED: self._pretrained.float(), _CONFLICTING: after.float()}
        write_left({**spaces, _PROMPTS: self._pool.values}, file, _KIND)

    def _moment(self, model: nn.Module, data: TaskData, with_prompts: bool) -> torch.Tensor:
        """Return ``H^T H`` of what the language model is fed for samples of the data, (d, d), float64, on the CPU."""
        import torch
        from accelerate.utils import reduce

        values = self._pool.values
        total = torch.zeros(values.shape[-1], values.shape[-1], dtype=torch.float64, device=values.device)

        def add(embeddings: torch.Tensor, mask: torch.Tensor) -> None:
            rows = embeddings[mask.bool()].double()
            total.addmm_(rows.T, rows)

        with self._pool.watched(add, with_prompts), torch.no_grad():
            for _ in data.losses(model, data.draw(self.options.fwd_prompt_samples, seed=0)):
                pass
        return reduce(total, "sum").cpu()


def _pool(model: nn.Module) -> PromptPool:
    from sefe_plugin.methods.fwd_prompt.pool import PromptPool

    return next(module for module in model.modules() if isinstance(module, PromptPool))


def _read(file: Path) -> dict[str, torch.Tensor]:
    from sefe_plugin.methods.left_file import read_left

    return read_left(file, _KIND)[0]
