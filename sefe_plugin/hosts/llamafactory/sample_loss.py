"""A loss in which every sample weighs the same, however many tokens its answer has.

Example, a batch of two samples: an answer of 2 tokens with losses 1 and 3, and an explanation of 4 tokens with losses
0, 0, 0 and 1. The mean over tokens is 5 / 6; the mean over samples is (2 + 0.25) / 2.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


#: What labels have where nothing is learned.
_IGNORED = -100


def sample_loss(outputs, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Return the sum over samples of the mean loss of their answer's tokens, divided by the number of samples.

    Args:
        outputs: What the model returns, with "logits" of shape (batch, length, vocabulary).
        labels: Ids of the answer's tokens of shape (batch, length), and -100 elsewhere.
        num_items_in_batch: Samples with an answer in the whole optimizer step: over all its micro-batches, and over
            all processes where the Trainer averages over them. Those of this micro-batch if None.
    """
    targets = labels[:, 1:].to(outputs["logits"].device)
    logits = outputs["logits"][:, :-1].float()
    losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=_IGNORED, reduction="none")
    lengths = (targets != _IGNORED).sum(dim=1)
    samples = (lengths > 0).sum() if num_items_in_batch is None else num_items_in_batch
    return (losses.sum(dim=1) / lengths.clamp(min=1)).sum() / samples


def sample_weighted(host_class: type, is_asked: Callable[[Any], bool] = lambda trainer: True) -> type:
    """Return the host's Trainer, with `sample_loss` where it is asked for.

    The Trainer counts the samples of a step as it counts tokens otherwise: over micro-batches and processes.

    Args:
        host_class: The Trainer.
        is_asked: Whether a trainer that was just made shall weigh samples.
    """

    class SampleWeightedTrainer(host_class):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            if is_asked(self):
                self.compute_loss_func = sample_loss

        def _get_num_items_in_batch(self, batch_samples: list, device: torch.device):
            if self.compute_loss_func is sample_loss:
                batch_samples = [
                    {"labels": _answered(batch["labels"])} for batch in batch_samples if "labels" in batch
                ]
            return super()._get_num_items_in_batch(batch_samples, device)

    SampleWeightedTrainer.__name__ = SampleWeightedTrainer.__qualname__ = host_class.__name__
    SampleWeightedTrainer.__module__ = host_class.__module__
    return SampleWeightedTrainer


def _answered(labels: Tensor) -> Tensor:
    """Return one label for each sample: -100 where it has no answer."""
    return torch.where((labels[:, 1:] != _IGNORED).any(dim=1), 0, _IGNORED)
