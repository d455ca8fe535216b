"""One task's run in the host: its method's callback, then scores and the merged model, each step recorded."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from llamafactory.model import load_model, load_tokenizer
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from sefe_plugin.carry.shards import FILE_BYTES
from sefe_plugin.evaluation.results import SCORES_FILE
from sefe_plugin.files import replacing_folder
from sefe_plugin.hosts.llamafactory.adapter import merge_adapter
from sefe_plugin.hosts.llamafactory.base_check import check_base
from sefe_plugin.hosts.llamafactory.data_phase import loading
from sefe_plugin.hosts.llamafactory.dataset import scored_by
from sefe_plugin.hosts.llamafactory.encoders import SpareFrozenEncoders
from sefe_plugin.hosts.llamafactory.general import load_general
from sefe_plugin.hosts.llamafactory.trackers import Trackers, cost_logs
from sefe_plugin.hosts.llamafactory.watch import end_with_runner
from sefe_plugin.methods import methods
from sefe_plugin.methods.callback import MethodCallback
from sefe_plugin.run.costs import COST_FILE, Cost, bytes_written_by_process, peak_memory_of_process, record_cost
from sefe_plugin.run.progress import CARRYING, DATA, METHOD, SAVING, TRAINING, ProgressFile, Usage
from sefe_plugin.run.steps import CARRIED, SCORED, STEPS_FILE, TRAINED, record_step


class _KeepModel(TrainerCallback):
    """Keeps the trained model, which the host's workflow does not return."""

    model = None

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.model = model


class _Clock(TrainerCallback):
    """Times a training; stands before the method's callback, and its end of steps behind it: the method's work counts.

    A step lasts from its beginning to its end: what the Trainer does between two steps is no part of it.
    """

    began = step_began = in_steps = 0.0
    steps = steps_before = 0
    on_gpu = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.began, self.steps_before = time.perf_counter(), state.global_step
        self.on_gpu = args.device.type == "cuda"

    def on_step_begin(self, args, state, control, **kwargs):
        self.step_began = time.perf_counter()

    def end_step(self, global_step: int) -> None:
        """Count the step that has just ended."""
        if self.on_gpu:
            torch.cuda.synchronize()  # it would be awaited when the loss is logged, between two steps
        self.in_steps += time.perf_counter() - self.step_began
        self.steps = global_step - self.steps_before

    def cost(self) -> Cost:
        """Return what the training took that has just ended."""
        return Cost(
            seconds=round(time.perf_counter() - self.began, 3),
            steps=self.steps,
            steps_before=self.steps_before,
            step_seconds=self.in_steps / max(self.steps, 1),
            peak_memory=torch.cuda.max_memory_allocated() if self.on_gpu else peak_memory_of_process(),
            memory_of="cuda" if self.on_gpu else "process",
        )


class _StepEnd(TrainerCallback):
    """Tells the clock that a step has ended, and that the method's work is done; stands behind its callback."""

    def __init__(self, clock: _Clock, progress: ProgressFile):
        self._clock, self._progress = clock, progress

    def on_step_end(self, args, state, control, **kwargs):
        self._clock.end_step(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self._progress.begin(SAVING)


class _Steps(TrainerCallback):
    """Says how far the training is; stands before the method's callback, which has work of its own at the end."""

    def __init__(self, progress: ProgressFile):
        self._progress, self._has_begun = progress, False
        self._samples: int | None = None
        self._epoch, self._tokens = 0.0, 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._progress.begin(METHOD)

    def on_step_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if not self._has_begun:
            self._has_begun = True
            samples = None if isinstance(train_dataloader.dataset, IterableDataset) else len(train_dataloader.dataset)
            self._samples, self._epoch, self._tokens = samples, state.epoch, state.num_input_tokens_seen
            self._progress.begin(TRAINING, state.max_steps, state.global_step, samples)

    def on_step_end(self, args, state, control, **kwargs):
        self._progress.count(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        if self._has_begun:  # not where a checkpoint holds all steps already
            trained = None if self._samples is None else round(self._samples * (state.epoch - self._epoch))
            self._progress.note(trained, state.num_input_tokens_seen - self._tokens or None)
        self._progress.begin(METHOD)


def run_task(host_run_sft: Callable, arguments: tuple, callbacks: list | None) -> None:
    """Train as the host does, then score the test sets and save the merged model.

    Test sets without `do_train` mean a task that is trained already: its model is loaded and scored. Without an
    adapter, where one is trained, they mean the untouched base.

    Args:
        host_run_sft: The host's supervised fine-tuning.
        arguments: Its argument objects for model, data, training, fine-tuning and generation.
        callbacks: Its callbacks.
    """
    end_with_runner()
    with _speaking_as_the_host(arguments[2].process_index == 0):
        _run_task(host_run_sft, arguments, callbacks)


def _run_task(host_run_sft: Callable, arguments: tuple, callbacks: list | None) -> None:
    _, _, training_args, finetuning_args, _ = arguments
    if not (training_args.do_train or finetuning_args.test_sets):
        host_run_sft(*arguments, callbacks)
        return
    trackers = Trackers(training_args, finetuning_args, callbacks)
    progress = ProgressFile(Path(training_args.output_dir) if training_args.process_index == 0 else None, _used)
    progress.go_on()
    _do_steps(host_run_sft, arguments, trackers, progress)
    trackers.close()  # not after an error: a tracker that sees its process fail can say so


def _do_steps(host_run_sft: Callable, arguments: tuple, trackers: Trackers, progress: ProgressFile) -> None:
    model_args, _, training_args, finetuning_args, _ = arguments
    output_dir, is_first = Path(training_args.output_dir), training_args.process_index == 0
    if training_args.do_train:
        with loading(progress):
            check_base(model_args, finetuning_args)
            model = _train(host_run_sft, arguments, trackers, progress)
        if is_first:
            record_step(output_dir, TRAINED)
    else:
        # an adapter as in training, not merged: the answers are those of the trained model; the base gets no new one
        as_trained = finetuning_args.finetuning_type == "lora" and model_args.adapter_name_or_path is not None
        with loading(progress):
            model = load_model(load_tokenizer(model_args)["tokenizer"], model_args, finetuning_args, as_trained)
        trackers.begin(model)
    is_scored = finetuning_args.test_sets and finetuning_args.scoring_backend == "generate"
    if is_scored:
        from sefe_plugin.hosts.llamafactory.scoring import score_test_sets

        progress.begin(DATA)
        score_test_sets(model, finetuning_args.test_sets, output_dir, arguments, progress)
        if is_first:
            record_step(output_dir, SCORED)
    if finetuning_args.merge_adapter and is_first:
        progress.begin(CARRYING)
        _save_merged(model, model_args, output_dir / "merged")
        record_step(output_dir, CARRIED)
    progress.end()
    if is_scored and is_first:
        trackers.log_scores()


def _used() -> Usage:
    """Say what this process has used since it started."""
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None
    return Usage(peak_memory_of_process(), on_gpu, bytes_written_by_process())


@contextmanager
def _speaking_as_the_host(is_first: bool) -> Iterator[None]:
    """Show what the plugin notes of a task where the host shows its own log, of the first process only."""
    own, level = logging.getLogger("sefe_plugin"), logging.getLogger("sefe_plugin").level
    added = [handler for handler in logging.getLogger("llamafactory").handlers if handler not in own.handlers]
    own.setLevel(logging.INFO if is_first else logging.WARNING)
    for handler in added:
        own.addHandler(handler)
    try:
        yield
    finally:
        own.setLevel(level)
        for handler in added:
            own.removeHandler(handler)


def _train(host_run_sft: Callable, arguments: tuple, trackers: Trackers, progress: ProgressFile):
    """Train with the method's callback, and return the model."""
    model_args, data_args, training_args, finetuning_args, _ = arguments
    if training_args.process_index == 0:
        _remove_results(Path(training_args.output_dir))
    if finetuning_args.stacked_adapter and training_args.ddp_broadcast_buffers is None:
        training_args.ddp_broadcast_buffers = False  # the stacked adapters are buffers, and the same everywhere
    trained, clock = _KeepModel(), _Clock()
    added = [SpareFrozenEncoders(), trained, clock, _Steps(progress)]
    if finetuning_args.cl_method is not None:
        method = methods()[finetuning_args.cl_method](vars(finetuning_args))
        earlier = vars(finetuning_args)[method.earlier] if method.earlier else None
        load = partial(load_general, model_args, data_args, training_args)
        added.append(MethodCallback(method, earlier or (), load=load))
    added.append(_StepEnd(clock, progress))
    with scored_by(finetuning_args.test_sets):
        trackers.hide()
        host_run_sft(*arguments, [*trackers.callbacks, *added])
    if training_args.process_index == 0:
        cost = clock.cost()
        record_cost(Path(training_args.output_dir), cost)
        trackers.log(cost_logs(cost))
    return trained.model


def _remove_results(output_dir: Path) -> None:
    """Remove what an earlier training in this folder was worth."""
    shutil.rmtree(output_dir / "predictions", ignore_errors=True)
    for name in (SCORES_FILE, STEPS_FILE, COST_FILE):
        (output_dir / name).unlink(missing_ok=True)


def _save_merged(model, model_args, folder: Path) -> None:
    """Merge the adapter into the base, in the precision it was trained in, and save it with its processor.

    The official code does the same with the scale alpha / r after every task. The trained model takes the adapter in
    where it is, one matrix at a time; of a model on a GPU, safetensors copies a file at a time to the host's memory.
    """
    with replacing_folder(folder) as temporary:
        merged = merge_adapter(model)
        merged.save_pretrained(temporary, max_shard_size=FILE_BYTES)
        loaded = load_tokenizer(model_args)
        loaded["tokenizer"].save_pretrained(temporary)
        if loaded["processor"] is not None:
            loaded["processor"].save_pretrained(temporary)
