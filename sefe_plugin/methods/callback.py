"""`MethodCallback`: any method in any Trainer of transformers or TRL, and in LLaMA-Factory."""

import logging
import weakref
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path

from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import PartialState
from accelerate.utils import DistributedType, reduce
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from sefe_plugin.methods.base import METHOD_LOG, Method
from sefe_plugin.methods.gradients import AddInBackward, Gradients, add_to_grad
from sefe_plugin.methods.task_data import TaskData
from sefe_plugin.patching import is_on


logger = logging.getLogger(__name__)


class MethodCallback(TrainerCallback):
    """Drive a method through the training of one task.

    What a method adds at the beginning of every optimizer step is put into ``.grad``, where the loss's gradients are
    added to it; with DeepSpeed (ZeRO-1, 2 and 3) it is added to what the first backward pass of the step forms. So it
    has its exact weight with every loss, label smoothing, gradient accumulation and number of processes, and is
    clipped together with the loss's gradient.

    Several processes share the work of what is added. Example: two processes, and the gradients g1 to g4 that a
    method adds to four matrices::

                       matrix 1   matrix 2   matrix 3   matrix 4
        process 0 adds   2 g1         0        2 g3         0
        process 1 adds    0         2 g2        0         2 g4
        their average     g1         g2         g3         g4

    With n processes each evaluates every n-th matrix, n times as large, and the average is exact. This needs an
    engine that averages every gradient: DeepSpeed, or DDP with ``ddp_find_unused_parameters=False``, which
    LLaMA-Factory sets. Without that setting, DDP leaves the ``.grad`` of a parameter that took no part in a step as
    each process has it. Shared work would move the processes apart there, so each process evaluates all matrices.

    Args:
        method: The method with its options.
        earlier: The files that earlier tasks left for it, the oldest first.
        save_to: Where the method leaves what later tasks need; its own file name in the output folder if None.
        load: Given names of datasets, loads them as the Trainer's own is; for methods that look at others as well.
    """

    def __init__(
        self,
        method: Method,
        earlier: Sequence[str | Path] = (),
        save_to: str | Path | None = None,
        load: Callable[[Sequence[str]], Dataset] | None = None,
    ):
        self.method, self._load = method, load
        self.earlier = [Path(file) for file in earlier]
        self.save_to = None if save_to is None else Path(save_to)
        self._gradients: Gradients | None = None
        self._in_backward: AddInBackward | None = None
        self._data: TaskData | None = None
        self._steps = 0
        self._step_begun = False

    @property
    def _adds(self) -> bool:
        """Whether the method adds to gradients."""
        return self._has_own("on_step_begin")

    def _has_own(self, *hooks: str) -> bool:
        """Tell whether the method does something in one of the hooks."""
        return any(getattr(type(self.method), hook) is not getattr(Method, hook) for hook in hooks)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs
    ) -> None:
        """Let the method load what earlier tasks left.

        Raises:
            FileNotFoundError: If a file of an earlier task is absent.
            ValueError: If the model or a file does not suit the method, if a file would be overwritten at the end, or
                if the way of training would not give what the method adds its weight.
        """
        if self._has_own("begin", "on_step_begin", "on_step_end"):
            _refuse_unsupported(args)
        file = self._file(args)
        if file is not None and file.resolve() in {earlier.resolve() for earlier in self.earlier}:
            raise ValueError(
                f"{file}: holds what an earlier task left, and this task would overwrite it. Give every task an "
                "`output_dir` of its own, or the callback another file as `save_to`."
            )
        if self._in_backward:
            self._in_backward.drop()  # what a training that failed in the middle of a step has left
        if self._gradients:
            self._gradients.release()
        self._in_backward = AddInBackward() if _is_deepspeed() else None
        self._gradients = Gradients(self._in_backward or add_to_grad, PartialState().num_processes)
        self._data = TaskData(kwargs["train_dataloader"], args, self._load)
        self.method.begin(model, self.earlier, self._gradients, self._data)
        self._steps, self._step_begun = 0, False
        apply_method_log(self)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Optimizer, **kwargs
    ) -> None:
        """Let what the method adds join the gradients of the loss."""
        if self._adds:
            process, processes = PartialState().process_index, PartialState().num_processes
            self._gradients.share = (process, processes) if _averages_every_gradient(args) else (0, 1)
            self._gradients.scale = _loss_scale(args, optimizer)
            self.method.on_step_begin(self._gradients)
        self._steps += 1
        self._step_begun = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs
    ) -> None:
        """Check that the method had its say in the step which ends, and show it the new weights.

        Raises:
            RuntimeError: If the trainer has a loop of its own that does not announce the beginning of its steps.
        """
        if self._adds and not self._step_begun:
            raise RuntimeError(
                f"This trainer does not call `on_step_begin`, so {type(self).__name__} cannot add to the gradients of "
                "its steps. Use the method in a training loop of your own instead."
            )
        self._step_begun = False
        if self._in_backward and (left := self._in_backward.drop()):
            logger.warning(
                "%d trained parameters took no part in step %d: their gradient lacks what the method adds.",
                left,
                state.global_step,
            )
        self.method.on_step_end(model)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs
    ) -> None:
        """Let the method leave what later tasks need."""
        undo_method_log(self)
        self._gradients.release()
        file = self._file(args)
        self.method.finish(model, file, write=state.is_world_process_zero, seed=args.seed, data=self._data)
        if file is not None and state.is_world_process_zero:
            logger.info("Left for later tasks: %s", file)

    def add_logs(self, logs: dict[str, float], state: TrainerState) -> None:
        """Add the means since the last log to a training log and to its copy in the history."""
        if "loss" in logs and self._steps:
            for name, value in self._gradients.take_logged().items():
                mean = reduce((value / self._steps).to(PartialState().device), "sum").item()
                logs[name] = state.log_history[-1][name] = mean
            self._steps = 0

    def _file(self, args: TrainingArguments) -> Path | None:
        """Return where the method leaves what later tasks need."""
        if self.method.file is None:
            return None
        return self.save_to or Path(args.output_dir, self.method.file)


_training: weakref.WeakSet[MethodCallback] = weakref.WeakSet()


def _with_method(on_log: Callable) -> Callable:
    """Wrap a handler's `on_log`: the logs are complete before the first callback sees them."""

    @wraps(on_log)
    def on_log_with_method(
        handler: CallbackHandler, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict
    ) -> TrainerControl:
        for callback in handler.callbacks:
            if callback in _training:
                callback.add_logs(logs, state)
        return on_log(handler, args, state, control, logs)

    _wrappers.add(on_log_with_method)
    return on_log_with_method


_wrappers: weakref.WeakSet[Callable] = weakref.WeakSet()


def apply_method_log(callback: MethodCallback) -> None:
    """Let the logs of the Trainer that runs `callback` hold the method's values, until `undo_method_log`.

    Trainer copies its logs into the history, and its reporters (TensorBoard, Weights & Biases, ...) read them, before
    a callback given by the user can change them; so `CallbackHandler.on_log` is wrapped while a MethodCallback trains.
    Whatever others put there, before or meanwhile, stays at work. Remove this once a callback can take part in making
    the logs.
    """
    if not is_on(METHOD_LOG):
        return
    _training.add(callback)
    if CallbackHandler.on_log not in _wrappers:
        CallbackHandler.on_log = _with_method(CallbackHandler.on_log)


def undo_method_log(callback: MethodCallback) -> None:
    """Undo `apply_method_log`; the wrapper goes with the last callback.

    Below a wrapper that someone else has put on top meanwhile it stays, and passes everything on as it is.
    """
    _training.discard(callback)
    if not _training and CallbackHandler.on_log in _wrappers:
        CallbackHandler.on_log = CallbackHandler.on_log.__wrapped__


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
    """Refuse ways of training in which a method has no hold on whole gradients and weights between the steps."""
    kind = PartialState().distributed_type
    if kind in (DistributedType.FSDP, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"Methods that change gradients or weights do not support {kind.value}: parameters and gradients are kept "
            "in parts there. Train with DDP (torchrun without an FSDP configuration) or with DeepSpeed."
        )
    if "lomo" in args.optim or "layerwise" in args.optim:
        raise ValueError(
            f"Methods that change gradients or weights do not support `optim={args.optim.value}`, which updates the "
            "weights inside the backward pass. Use another optimizer, such as adamw_torch."
        )
