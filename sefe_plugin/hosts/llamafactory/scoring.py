"""Scores test sets with the trained model itself, and the host's own template, processor and collator."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from llamafactory.extras import logging
from tqdm import tqdm
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

from sefe_plugin.benchmarks import official_rule
from sefe_plugin.data.test_sets import read_test_set
from sefe_plugin.evaluation.generate import generate_answers, generating
from sefe_plugin.evaluation.merged import merged_where_exact
from sefe_plugin.evaluation.results import predictions_file, without_prediction, write_predictions, write_scores
from sefe_plugin.evaluation.rolling import rolling_answers
from sefe_plugin.evaluation.scorers import scorer_of
from sefe_plugin.hosts.llamafactory.answer_forks import count_forks, from_forks
from sefe_plugin.hosts.llamafactory.questions import QuestionReader
from sefe_plugin.hosts.llamafactory.shares import Share
from sefe_plugin.json_lines import read_json_lines
from sefe_plugin.run.progress import SCORING, ProgressFile


logger = logging.get_logger()  # the host shows what its own logger says


def score_test_sets(
    model, test_sets: list[Mapping[str, str]], output_dir: Path, arguments: tuple, progress: ProgressFile
) -> None:
    """Answer every test set by greedy generation and write what came of it.

    The predictions of a test set are written as soon as they exist; those that are there already, of an interrupted
    scoring of this task, are kept.

    The questions of one test set follow those of the other without a break, and answers that have ended make room
    for further questions (`evaluation.rolling`). `per_device_eval_batch_size` is how many are read at a time. What
    several of them begin with, such as an image, is read once.

    On a CPU a small model answers in several forks of this process (`answer_forks`).

    With several processes each answers its share of every test set. Where the model's parameters lie in parts on all
    processes (DeepSpeed ZeRO-3, FSDP), every step of one needs all others: they run equally many batches, each to its
    end. `dataloader_num_workers` processes read the images ahead.

    Args:
        model: the trained model.
        test_sets: mappings with `name`, `dataset` (the host's name), `scorer` and, optionally, `official` and
            `max_samples`.
        output_dir: folder of the task.
        arguments: the host's argument objects for model, data, training, fine-tuning and generation.
        progress: told how many of all answers are there.
    """
    model_args, data_args, training_args, _, _ = arguments
    reader = QuestionReader(model_args, data_args)
    rank, world = training_args.process_index, training_args.world_size
    unanswered = _unanswered(test_sets, output_dir, data_args.dataset_dir, rank, world)
    if rank == 0 and (way := reader.way_of_asking()):
        logger.info_rank0(way)
    read = [_records(test_set, data_args.dataset_dir) for test_set in unanswered]
    bar = tqdm(desc="Scoring", total=sum(map(len, read)), unit="answer", disable=rank != 0)
    progress.begin(SCORING, bar.total)
    sets = [Share(one, records, rank, world) for one, records in zip(unanswered, read, strict=True)]

    def answered_one(name: str) -> None:
        bar.set_postfix_str(name)
        bar.update(min(world, bar.total - bar.n))  # the other processes are as far, more or less
        progress.count(bar.n)

    if sets:
        _answer(model, sets, reader, output_dir, arguments, answered_one)
    bar.close()
    if rank == 0:
        write_scores(output_dir, test_sets, official_rule)


def _answer(
    model, sets: Sequence[Share], reader: QuestionReader, output_dir: Path, arguments: tuple, told: Callable
) -> None:
    """Answer test sets, and write the predictions of each as soon as they exist.

    Args:
        model, output_dir, arguments: as in `score_test_sets`.
        sets: this process's share of each.
        reader: of the questions.
        told: given the name of the test set of each answer.
    """
    model_args, _, training_args, _, generating_args = arguments
    rank, world = training_args.process_index, training_args.world_size
    limits = {
        "max_new_tokens": generating_args.max_new_tokens,
        "eos_token_id": reader.stop_token_ids,
        "pad_token_id": reader.tokenizer.pad_token_id,
    }
    in_parts = world > 1 and _is_in_parts(model)
    # as in training: modules that are trained as a whole are in fp32, and the rest of the model is not
    mixed = training_args.bf16 or training_args.fp16
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(model.device.type, model_args.compute_dtype, enabled=mixed))
        if not (mixed or in_parts):
            stack.enter_context(merged_where_exact(model))
        stack.enter_context(generating(model))
        answers = stack.enter_context(closing(answers_of(model, sets, reader, training_args, limits, in_parts)))
        for share in sets:
            while not share.is_answered():
                (number, index), reply = next(answers)
                if sets[number].take(index, reply):
                    told(sets[number].name)
            shares = [share.replies]
            if world > 1:
                shares = [None] * world
                dist.all_gather_object(shares, share.replies)
            if rank == 0:
                everything = {index: reply for own in shares for index, reply in own.items()}
                replies = [everything[i] for i in range(len(share.records))]
                write_predictions(output_dir, share.name, share.records, replies, reader.replies.answer)


def answers_of(
    model, sets: Sequence[Share], reader: QuestionReader, training_args, limits: Mapping[str, Any], in_parts: bool
) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield answers as they end, each with the number of its test set and of its record there.

    The questions of a test set are read when those of the one before are all being answered. Close it at the end.

    Args:
        model: within `generating`.
        sets: this process's share of each test set.
        reader: of the questions.
        training_args: the host's.
        limits: those of `rolling_answers`.
        in_parts: whether each step needs all processes, because the model's parameters lie in parts on them.
    """
    alone = training_args.world_size == 1
    forks = count_forks(model, sum(len(share.records) for share in sets)) if alone else 1

    def of(fork: int) -> Iterator[tuple[tuple[int, int], str]]:
        size = -(-training_args.per_device_eval_batch_size // forks)
        workers = training_args.dataloader_num_workers if forks == 1 else 0  # forks read images beside each other
        batches = (
            ([(number, index) for index in indices], batch)
            for number, share in enumerate(sets)
            for indices, batch in share.batches(reader, size, workers, not in_parts, fork, forks)
        )
        if not in_parts:
            yield from rolling_answers(model, batches, reader.replies.decode, **limits)
            return
        for places, batch in batches:
            yield from zip(places, generate_answers(model, [batch], reader.replies.decode, **limits), strict=True)

    return of(0) if forks == 1 else from_forks([partial(of, fork) for fork in range(forks)])


def _is_in_parts(model) -> bool:
    """Tell whether a step of this process needs all others, as the host's `generate` has it."""
    return is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)


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
