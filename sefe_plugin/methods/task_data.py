"""The training data of a task, for methods that need gradients of single samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy

import torch
from accelerate.state import PartialState
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments


class TaskData:
    """What a method may ask of the data that a task is trained on; `MethodCallback` makes it.

    Samples that join the task's own (`replay_ratio`, `mix`) are among them: after tokenizing, which may drop or pack
    samples, nothing tells whose they are.

    Args:
        loader: The Trainer's.
        args: The Trainer's arguments.
        load: Loads other datasets by their names, as the task's own is loaded; None where nobody can.
    """

    def __init__(
        self, loader: DataLoader, args: TrainingArguments, load: Callable[[Sequence[str]], Dataset] | None = None
    ):
        self._loader, self._args, self._load = loader, args, load
        self._other: Dataset | None = None

    @property
    def samples_of_step(self) -> int:
        """Samples of one optimizer step in one process; the last step of an epoch may have fewer."""
        return self._args.per_device_train_batch_size * self._args.gradient_accumulation_steps

    def of(self, names: Sequence[str]) -> TaskData:
        """Return the data of other datasets.

        Args:
            names: As the host knows them.

        Raises:
            ValueError: If nobody can load them.
        """
        if self._load is None:
            raise ValueError(f"{', '.join(names)} cannot be loaded here. Give `MethodCallback` a way as `load`.")
        other = copy(self)
        other._other = self._load(names)
        return other

    @property
    def _dataset(self) -> Dataset:
        return self._loader.dataset if self._other is None else self._other

    def draw(self, count: int, seed: int) -> list[int]:
        """Draw samples without repetition, alike in every process.

        Args:
            count: How many; all of them where there are fewer.
            seed: Of the drawing.
        """
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self._dataset), generator=generator)[:count].tolist()

    def spread(self, share: float) -> list[int]:
        """Return a share of the samples, at least one, evenly spread and alike in every process.

        Args:
            share: In (0, 1].
        """
        size = len(self._dataset)
        count = max(1, round(share * size))
        return [number * size // count for number in range(count)]

    def losses(self, model: nn.Module, samples: Sequence[int]) -> Iterator[torch.Tensor]:
        """Yield -log p(answer | question) of single samples, the sum over the answer's tokens, without dropout.

        Of several processes each is given its share of the samples. The precision is that of the training.

        Args:
            model: What is trained, not wrapped.
            samples: Of `draw` or `spread`.

        Yields:
            Shape (), with a graph for `torch.autograd.grad`. Do not call `backward` on it: engines look out for that.
        """
        device = next(model.parameters()).device
        dtype = torch.bfloat16 if self._args.bf16 else torch.float16
        was_training = model.training
        model.eval()
        try:
            for index in samples[PartialState().process_index :: PartialState().num_processes]:
                batch = self._loader.collate_fn([self._dataset[index]])
                batch = send_to_device(batch, device)
                with torch.autocast(device.type, dtype, enabled=self._args.bf16 or self._args.fp16):
                    loss = model(**batch)["loss"]
                yield loss.float() * (batch["labels"][:, 1:] != -100).sum()  # the model's loss is their mean
        finally:
            model.train(was_training)
