"""`SefeCallback`: RegLoRA in any Trainer of transformers or TRL, and in LLaMA-Factory."""

import logging
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import PartialState
from accelerate.utils import DistributedType, reduce
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from .files import KEY_ELEMENTS_FILE
from .reglora import RegLoraModel, find_reglora_model
from .reglora.engines import AddInBackward, add_to_grad


logger = logging.getLogger(__name__)

#: The logged value: lambda * R, mean over the optimizer steps since the last log.
PENALTY_LOG = "reglora_penalty"


class SefeCallback(TrainerCallback):
    """Train a task with RegLoRA: penalise the key elements of earlier tasks, then find and save this task's.

    At the beginning of every optimizer step the gradient of lambda * R is put into ``.grad``, where the loss's
    gradients are added to it; with DeepSpeed (ZeRO-1, 2 and 3) it is added to what the first backward pass of the
    step forms. So the penalty has the weight lambda with every loss, label smoothing, gradient accumulation and
    number of processes, and is clipped together with the loss's gradient. The official code adds it to the loss
    inside the model, which is the same as long as gradients are not accumulated.

    Processes that average every gradient share the work, each evaluating some of the matrices: those of DeepSpeed,
    and those of DDP with ``ddp_find_unused_parameters=False``, which LLaMA-Factory sets. Else DDP looks for parameters
    that took no part in a step and leaves their ``.grad`` as every process has it, so that a share would move them
    apart; there every process evaluates all matrices.

    lambda * R is logged beside the loss as ``reglora_penalty``.

    Args:
        key_elements: Files of key elements of the earlier tasks, the oldest first. If empty, those already loaded
            into the model stay.
        save_to: Where to save the key elements of this task; ``key_elements.safetensors`` in the output folder if
            None. The weights are those at the end of training, before any merge.
        offload: Where the key elements of earlier tasks stay: ``none``, on the device of their matrix; ``cpu``, in
            host memory, from where those of one matrix at a time are brought to its device.

    Example::

        model = get_peft_model(base, RegLoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
        callback = SefeCallback(["task1/key_elements.safetensors"])
        Trainer(model, args, train_dataset=task2, callbacks=[callback]).train()
    """

    def __init__(
        self, key_elements: Sequence[str | Path] = (), save_to: str | Path | None = None, offload: str = "none"
    ):
        if isinstance(key_elements, str | Path):
            raise ValueError(f"`key_elements` must be a list of files, one per earlier task; got {key_elements!r}")
        self.key_elements = [Path(file) for file in key_elements]
        self.save_to = None if save_to is None else Path(save_to)
        self.offload = offload
        self._reglora: RegLoraModel | None = None
        self._in_backward: AddInBackward | None = None
        self._penalty, self._steps = torch.zeros(()), 0
        self._step_begun = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs
    ) -> None:
        """Find the RegLoRA model and load the key elements of earlier tasks.

        Raises:
            FileNotFoundError: If a file of key elements is absent.
            ValueError: If the model has no RegLoRA adapter, if a file does not fit it or would be overwritten at the
                end, or if the way of training would not give the penalty its weight.
        """
        _refuse_unsupported(args)
        file = self._file(args)
        if file.resolve() in {earlier.resolve() for earlier in self.key_elements}:
            raise ValueError(
                f"{file}: holds the key elements of an earlier task, and those of this task would overwrite them. "
                "Give every task an `output_dir` of its own, or SefeCallback another file as `save_to`."
            )
        self._reglora = find_reglora_model(model)
        if self.key_elements:
            self._reglora.load_key_elements(self.key_elements, self.offload)
        if self._in_backward:
            self._in_backward.drop()  # what a training that failed in the middle of a step has left
        self._in_backward = AddInBackward() if _is_deepspeed() else None
        self._penalty, self._steps = torch.zeros(()), 0
        self._step_begun = False
        apply_penalty_log(self)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Optimizer, **kwargs
    ) -> None:
        """Let the gradient of the penalty join those of the loss."""
        process, processes = PartialState().process_index, PartialState().num_processes
        share = (process, processes) if _averages_every_gradient(args) else (0, 1)
        penalty = self._reglora.accumulate_penalty_gradients(
            scale=_loss_scale(args, optimizer), share=share, deliver=self._in_backward or add_to_grad
        )
        self._penalty = self._penalty + penalty * share[1] / processes
        self._steps += 1
        self._step_begun = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Check that the step which ends was penalised.

        Raises:
            RuntimeError: If the trainer has a loop of its own that does not announce the beginning of its steps.
        """
        if not self._step_begun:
            raise RuntimeError(
                "This trainer does not call `on_step_begin`, so SefeCallback cannot penalise its steps. Add "
                "`RegLoraModel.penalty()` to its loss instead."
            )
        self._step_begun = False
        if self._in_backward and (left := self._in_backward.drop()):
            logger.warning(
                "%d factors of adapted matrices took no part in step %d: their gradient lacks the penalty's.",
                left,
                state.global_step,
            )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Find the key elements of this task, and save them in the main process."""
        undo_penalty_log(self)
        file = self._file(args)
        self._reglora.save_key_elements(file, write=state.is_world_process_zero, seed=args.seed)
        if state.is_world_process_zero:
            logger.info("Key elements of this task: %s", file)

    def add_penalty(self, logs: dict[str, float], state: TrainerState) -> None:
        """Add the mean penalty since the last log to a training log and to its copy in the history."""
        if "loss" in logs and self._steps:
            share = (self._penalty / self._steps).to(PartialState().device)
            logs[PENALTY_LOG] = reduce(share, "sum").item()
            state.log_history[-1][PENALTY_LOG] = logs[PENALTY_LOG]
            self._penalty, self._steps = torch.zeros(()), 0

    def _file(self, args: TrainingArguments) -> Path:
        """Return where the key elements of this task are saved."""
        return self.save_to or Path(args.output_dir, KEY_ELEMENTS_FILE)


_training: weakref.WeakSet[SefeCallback] = weakref.WeakSet()
_original_on_log: Callable = CallbackHandler.on_log


def _on_log_with_penalty(
    handler: CallbackHandler, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict
) -> TrainerControl:
    """Complete the logs before the first callback sees them."""
    for callback in handler.callbacks:
        if callback in _training:
            callback.add_penalty(logs, state)
    return _original_on_log(handler, args, state, control, logs)


def apply_penalty_log(callback: SefeCallback) -> None:
    """Let the logs of the Trainer that runs `callback` hold the penalty, until `undo_penalty_log`.

    Trainer copies its logs into the history, and its reporters (TensorBoard, Weights & Biases, ...) read them, before
    a callback given by the user can change them; so `CallbackHandler.on_log` is wrapped while a SefeCallback trains.
    Remove this once a callback can take part in making the logs.
    """
    _training.add(callback)
    CallbackHandler.on_log = _on_log_with_penalty


def undo_penalty_log(callback: SefeCallback) -> None:
    """Undo `apply_penalty_log`; the wrapper goes with the last callback."""
    _training.discard(callback)
    if not _training:
        CallbackHandler.on_log = _original_on_log


def _is_deepspeed() -> bool:
    """Tell whether DeepSpeed trains."""
    return PartialState().distributed_type == DistributedType.DEEPSPEED


def _averages_every_gradient(args: TrainingArguments) -> bool:
    """Tell whether the processes average the gradients of parameters that took no part in a step, too."""
    return _is_deepspeed() or args.ddp_find_unused_parameters is False


def _loss_scale(args: TrainingArguments, optimizer: Optimizer) -> float:
    """Return the factor by which gradients are too large until the optimizer unscales them (fp16)."""
    if _is_deepspeed():
        return optimizer.optimizer.loss_scale if args.fp16 else 1.0
    scaler = optimizer.scaler if isinstance(optimizer, AcceleratedOptimizer) else None
    return 1.0 if scaler is None else scaler.get_scale()


def _refuse_unsupported(args: TrainingArguments) -> None:
    """Refuse ways of training in which the gradient of the penalty cannot join those of the loss."""
    kind = PartialState().distributed_type
    if kind in (DistributedType.FSDP, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"SefeCallback does not support {kind.value}: parameters and gradients are kept in parts there. Train "
            "with DDP (torchrun without an FSDP configuration) or with DeepSpeed."
        )
    if "lomo" in args.optim or "layerwise" in args.optim:
        raise ValueError(
            f"SefeCallback does not support `optim={args.optim.value}`, which updates the weights inside the backward "
            "pass. Use another optimizer, such as adamw_torch."
        )
