"""Scores test sets with the trained model itself, and the host's own template, processor and collator."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from llamafactory.extras import logging
from torch.utils.data import DataLoader
from tqdm import tqdm

from sefe_plugin.benchmarks import official_rule
from sefe_plugin.data.test_sets import read_test_set
from sefe_plugin.evaluation.generate import generate_answers
from sefe_plugin.evaluation.results import predictions_file, without_prediction, write_predictions, write_scores
from sefe_plugin.evaluation.scorers import scorer_of
from sefe_plugin.hosts.llamafactory.questions import QuestionReader
from sefe_plugin.json_lines import read_json_lines
from sefe_plugin.run.progress import SCORING, ProgressFile


logger = logging.get_logger()  # the host shows what its own logger says


def score_test_sets(
    model, test_sets: list[Mapping[str, str]], output_dir: Path, arguments: tuple, progress: ProgressFile
) -> None:
    """Answer every test set by greedy generation and write what came of it.

    The predictions of a test set are written as soon as they exist; those that are there already, of an interrupted
    scoring of this task, are kept.

    With several processes each answers its share of a test set. They run equally many batches: where the model's
    parameters lie in parts on all processes (DeepSpeed ZeRO-3), every step of one needs all others.
    `dataloader_num_workers` processes read the images ahead.

    Args:
        model: the trained model.
        test_sets: mappings with `name`, `dataset` (the host's name), `scorer` and, optionally, `official` and
            `max_samples`.
        output_dir: folder of the task.
        arguments: the host's argument objects for model, data, training, fine-tuning and generation.
        progress: told how many of all answers are there.
    """
    model_args, data_args, training_args, _, generating_args = arguments
    reader = QuestionReader(model_args, data_args)
    rank, world = training_args.process_index, training_args.world_size
    unanswered = _unanswered(test_sets, output_dir, data_args.dataset_dir, rank, world)
    if rank == 0 and (way := reader.way_of_asking()):
        logger.info_rank0(way)
    read = [_records(test_set, data_args.dataset_dir) for test_set in unanswered]
    bar = tqdm(desc="Scoring", total=sum(map(len, read)), unit="answer", disable=rank != 0)
    progress.begin(SCORING, bar.total)

    def answered_more(count: int) -> None:
        bar.update(count)
        progress.count(bar.n)

    for test_set, records in zip(unanswered, read, strict=True):
        name = test_set["name"]
        bar.set_postfix_str(name)
        features = reader.questions(test_set["dataset"], records)
        order = order_by_length(features)
        batches = share_batches(order, rank, world, training_args.per_device_eval_batch_size)
        loader = DataLoader(
            features,
            batch_sampler=batches,
            collate_fn=reader.collate(),
            num_workers=training_args.dataloader_num_workers,
        )
        # as in training: modules that are trained as a whole are in fp32, and the rest of the model is not
        mixed = training_args.bf16 or training_args.fp16
        with torch.autocast(model.device.type, model_args.compute_dtype, enabled=mixed):
            replies = generate_answers(
                model,
                _counted(loader, order, world * training_args.per_device_eval_batch_size, answered_more),
                reader.replies.decode,
                max_new_tokens=generating_args.max_new_tokens,
                eos_token_id=reader.stop_token_ids,
                pad_token_id=reader.tokenizer.pad_token_id,
            )
        answered = dict(zip(chain.from_iterable(batches), replies, strict=True))
        own = {index: answered[index] for index in order[rank::world]}
        shares = [own]
        if world > 1:
            shares = [None] * world
            dist.all_gather_object(shares, own)
        everything = {index: reply for share in shares for index, reply in share.items()}
        if rank == 0:
            write_predictions(
                output_dir, name, records, [everything[i] for i in range(len(features))], reader.replies.answer
            )
    bar.close()
    if rank == 0:
        write_scores(output_dir, test_sets, official_rule)


def _counted(loader: DataLoader, order: Sequence[int], size: int, told: Callable[[int], None]) -> Iterator[Mapping]:
    """Pass batches on, and tell how many answers of all processes one has brought when the next is asked for.

    Args:
        loader: This process's batches.
        order: All samples of the test set.
        size: How many of them all processes take at a time.
        told: Given the number of answers.
    """
    for start, batch in zip(range(0, len(order), size), loader, strict=True):
        yield batch
        told(min(size, len(order) - start))


def _unanswered(
    test_sets: Sequence[Mapping[str, str]], output_dir: Path, dataset_dir: str, rank: int, world: int
) -> list[Mapping[str, str]]:
    """Return the test sets without predictions of their records, as the first process sees them before it writes."""
    left = [None]
    if rank == 0:
        left = [[test_set for test_set in test_sets if not _is_answered(test_set, output_dir, dataset_dir)]]
    if world > 1:
        dist.broadcast_object_list(left)
    return left[0]


def _is_answered(test_set: Mapping[str, str], output_dir: Path, dataset_dir: str) -> bool:
    file = predictions_file(output_dir, test_set["name"])
    if not file.is_file():
        return False
    records = _records(test_set, dataset_dir)
    return [without_prediction(row) for row in read_json_lines(file)] == [*map(without_prediction, records)]


def _records(test_set: Mapping[str, Any], dataset_dir: str) -> list[dict]:
    scorer = scorer_of(test_set["scorer"])
    return read_test_set(test_set["dataset"], dataset_dir, scorer, test_set.get("max_samples"))


def order_by_length(features: Sequence[Mapping]) -> list[int]:
    """Put samples of like length side by side, so that batches end early and hold little padding.

    A batch runs until its longest answer ends, so the length of the gold answer ("labels") comes first, and that of
    the question ("input_ids") second. No answer depends on its neighbours.

    Example:
        >>> features = [{"labels": [5, 2], "input_ids": [7]}, {"labels": [2], "input_ids": [7, 8]}]
        >>> order_by_length([*features, {"labels": [2], "input_ids": [9]}])
        [2, 1, 0]
    """
    return sorted(range(len(features)), key=lambda i: (len(features[i]["labels"]), len(features[i]["input_ids"])))


def share_batches(order: Sequence[int], rank: int, world: int, size: int) -> list[list[int]]:
    """Cut every `world`-th sample, from the `rank`-th on, into batches; every process gets equally many.

    A process whose share makes fewer batches repeats a sample, whose answer nobody reads.

    Args:
        order: the samples.
        rank: which process, from 0.
        world: number of processes.
        size: samples of a batch at most.

    Example:
        >>> [share_batches([4, 0, 1, 2, 3], rank, 2, 2) for rank in (0, 1)]
        [[[4, 1], [3]], [[0, 2], [4]]]
    """
    own = list(order[rank::world])
    batches = [own[start : start + size] for start in range(0, len(own), size)]
    largest_share = len(order[::world])
    rounds = -(-largest_share // size)
    return batches + [list(order[:1])] * (rounds - len(batches))
