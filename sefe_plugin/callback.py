"""`SefeCallback`: RegLoRA in any Trainer of transformers or TRL, and in LLaMA-Factory."""

import logging
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from .reglora import RegLoraModel, find_reglora_model


logger = logging.getLogger(__name__)

#: Name of the file of key elements in the output folder.
KEY_ELEMENTS_FILE = "key_elements.safetensors"

#: The logged value: lambda * R, mean over the optimizer steps since the last log.
PENALTY_LOG = "reglora_penalty"


class SefeCallback(TrainerCallback):
    """Train a task with RegLoRA: penalise the key elements of earlier tasks, then find and save this task's.

    The gradient of lambda * R is put into ``.grad`` at the beginning of every optimizer step, where the loss's
    gradients are added to it. So the penalty has the weight lambda with every loss, label smoothing, gradient
    accumulation and number of processes, and is clipped together with the loss's gradient. The official code adds it
    to the loss inside the model, which is the same as long as gradients are not accumulated.

    lambda * R is logged beside the loss as ``reglora_penalty``.

    Args:
        key_elements: Files of key elements of the earlier tasks, the oldest first. If empty, those already loaded
            into the model stay.
        save_to: Where to save the key elements of this task; ``key_elements.safetensors`` in the output folder if
            None. The weights are those at the end of training, before any merge.

    Example::

        model = get_peft_model(base, RegLoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
        callback = SefeCallback(["task1/key_elements.safetensors"])
        Trainer(model, args, train_dataset=task2, callbacks=[callback]).train()
    """

    def __init__(self, key_elements: Sequence[str | Path] = (), save_to: str | Path | None = None):
        if isinstance(key_elements, str | Path):
            raise ValueError(f"`key_elements` must be a list of files, one per earlier task; got {key_elements!r}")
        self.key_elements = [Path(file) for file in key_elements]
        self.save_to = None if save_to is None else Path(save_to)
        self._reglora: RegLoraModel | None = None
        self._penalties: list[float] = []
        self._step_begun = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs
    ) -> None:
        """Find the RegLoRA model and load the key elements of earlier tasks.

        Raises:
            FileNotFoundError: If a file of key elements is absent.
            ValueError: If the model has no RegLoRA adapter, if a file does not fit it, or if the way of training
                would not give the penalty its weight.
        """
        _refuse_unsupported(args)
        self._reglora = find_reglora_model(model)
        if self.key_elements:
            self._reglora.load_key_elements(self.key_elements)
        self._penalties, self._step_begun = [], False
        apply_penalty_log(self)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Optimizer, **kwargs
    ) -> None:
        """Put the gradient of the penalty where the gradients of the loss will be added."""
        scaler = optimizer.scaler if isinstance(optimizer, AcceleratedOptimizer) else None
        scale = 1.0 if scaler is None else scaler.get_scale()
        self._penalties.append(self._reglora.accumulate_penalty_gradients(scale).item())
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

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Find and save the key elements of this task, in the main process."""
        undo_penalty_log(self)
        if state.is_world_process_zero:
            file = self.save_to or Path(args.output_dir, KEY_ELEMENTS_FILE)
            self._reglora.save_key_elements(file)
            logger.info("Key elements of this task: %s", file)

    def add_penalty(self, logs: dict[str, float], state: TrainerState) -> None:
        """Add the mean penalty since the last log to a training log and to its copy in the history."""
        if "loss" in logs and self._penalties:
            logs[PENALTY_LOG] = sum(self._penalties) / len(self._penalties)
            state.log_history[-1][PENALTY_LOG] = logs[PENALTY_LOG]
            self._penalties = []


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


def _refuse_unsupported(args: TrainingArguments) -> None:
    """Refuse ways of training in which ``.grad`` does not hold the whole gradient of a whole parameter."""
    kind = PartialState().distributed_type
    if kind in (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"SefeCallback does not support {kind.value}: parameters or gradients are kept in parts there. Train with "
            "DDP (torchrun without a DeepSpeed or FSDP configuration)."
        )
    if "lomo" in args.optim or "layerwise" in args.optim:
        raise ValueError(
            f"SefeCallback does not support `optim={args.optim.value}`, which updates the weights inside the backward "
            "pass. Use another optimizer, such as adamw_torch."
        )
