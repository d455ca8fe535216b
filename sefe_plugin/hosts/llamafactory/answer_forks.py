"""Answers from several processes of one thread each: a CPU gives more of them than one process of many threads does.

The steps of greedy decoding are short. Threads that divide each of them wait for each other most of the time, and what
Python does between them is done by one thread alone. Figures: `tests/benchmarks/README.md`.
"""

import json
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import nn

from sefe_plugin.run.process import end_with_parent, ended_how


#: Forks at most, and bytes of weights at most: more was not measured, and each fork reads all weights for its answers.
MOST_FORKS, MOST_BYTES = 8, 1 << 30

#: Questions at least for each fork.
_LEAST = 8


def count_forks(model: nn.Module, questions: int) -> int:
    """Return how many processes are to answer questions with a model; 1 for this process alone.

    Args:
        model: On one device.
        questions: How many there are.
    """
    threads = torch.get_num_threads()
    weights = list(model.parameters())
    suits = (
        sys.platform == "linux"
        and threads <= MOST_FORKS
        and all(one.device.type == "cpu" for one in weights)
        and sum(one.nbytes for one in weights) <= MOST_BYTES
    )
    return max(1, min(threads, questions // _LEAST)) if suits else 1


def from_forks(sources: Sequence[Callable[[], Iterable[Any]]]) -> Iterator[Any]:
    """Yield what each of several functions gives, as it comes; a fork of this process calls it.

    Example: ``from_forks([lambda: [1, 2], lambda: [3]])`` yields 1, 3, 2 or in another order.

    A fork has all that this process has in memory, and shares it until one of them writes. It computes with one
    thread, because a fork has none of its parent's. Close this iterator to end the forks early.

    Args:
        sources: Each gives plain data, as JSON has it: tuples come as lists.

    Raises:
        RuntimeError: If a fork fails, with its error; where it stands has been printed.
    """
    context = multiprocessing.get_context("fork")
    forks = {}
    try:
        for source in sources:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_send, args=(source, theirs))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of threads: a fork needs none of them
                process.start()
            theirs.close()
            forks[ours] = process
        while forks:
            for connection in wait(list(forks)):
                try:
                    given, error = json.loads(connection.recv_bytes())
                except EOFError:
                    process = forks.pop(connection)
                    process.join()
                    if status := process.exitcode:
                        raise RuntimeError(f"A process that answers questions {ended_how(status)}.") from None
                    continue
                if error:
                    raise RuntimeError(f"A process that answers questions has failed: {error}")
                yield given
    finally:
        for process in forks.values():
            process.kill()
            process.join()


def _send(source: Callable[[], Iterable[Any]], connection: Connection) -> None:
    end_with_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads of the tokenizers, which warn of a fork
    torch.set_num_threads(1)
    try:
        for answer in source():
            connection.send_bytes(json.dumps([answer, None]).encode())
    except Exception as error:
        traceback.print_exc()  # before the other side ends this process
        connection.send_bytes(json.dumps([None, f"{type(error).__name__}: {error}"]).encode())
