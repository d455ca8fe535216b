"""One task's run in the host: its callbacks, then scores and the merged model."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback

from sefe_plugin.callback import SefeCallback
from sefe_plugin.hosts.llamafactory.watch import end_with_runner


logger = logging.getLogger(__name__)


class _KeepModel(TrainerCallback):
    """Keeps the trained model, which the host's workflow does not return."""

    model = None

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.model = model


def run_task(host_run_sft: Callable, arguments: tuple, callbacks: list | None) -> None:
    """Trains as the host does, then scores the test sets and saves the merged model.

    Args:
        host_run_sft: the host's supervised fine-tuning.
        arguments: its argument objects for model, data, training, fine-tuning and generation.
        callbacks: its callbacks.
    """
    model_args, _, training_args, finetuning_args, _ = arguments
    end_with_runner()
    if finetuning_args.stacked_adapter and training_args.ddp_broadcast_buffers is None:
        training_args.ddp_broadcast_buffers = False  # the stacked adapters are buffers, and the same everywhere
    trained = _KeepModel()
    added = [trained]
    if finetuning_args.use_reglora:
        files = finetuning_args.reglora_key_elements or ()
        added.append(SefeCallback(files, offload=finetuning_args.reglora_offload))
    host_run_sft(*arguments, [*(callbacks or ()), *added])
    output_dir = Path(training_args.output_dir)
    if finetuning_args.test_sets and finetuning_args.scoring_backend == "generate":
        from sefe_plugin.hosts.llamafactory.scoring import score_test_sets

        score_test_sets(trained.model, finetuning_args.test_sets, output_dir, arguments)
    if finetuning_args.merge_adapter and training_args.process_index == 0:
        _save_merged(trained.model, model_args, output_dir / "merged")


def _save_merged(model, model_args, folder: Path) -> None:
    """Merges the adapter into the base, in the precision it was trained in, and saves it with its processor.

    The official code does the same with the scale alpha / r after every task.
    """
    from llamafactory.model import load_tokenizer

    temporary = folder.with_name(f".{folder.name}.tmp")
    for stale in (temporary, folder):
        if stale.exists():
            shutil.rmtree(stale)
    merged = model.merge_and_unload()
    merged.save_pretrained(temporary)
    loaded = load_tokenizer(model_args)
    loaded["tokenizer"].save_pretrained(temporary)
    if loaded["processor"] is not None:
        loaded["processor"].save_pretrained(temporary)
    temporary.replace(folder)
