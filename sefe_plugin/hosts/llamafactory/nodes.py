"""A sequence over several nodes: the first runs it, the others join it for every training.

The nodes are told of each other as LLaMA-Factory's own: NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT, with the run
folder and the data on a file system they share. The first node tells the others each command through a TCP store at
the port after MASTER_PORT; within a command the host's torchrun has its own rendezvous.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import TCPStore


_END = "end"
_JOIN_TIME, _LEAVE_TIME = timedelta(hours=1), timedelta(seconds=30)
#: How long a node waits for the next command, while the first one trains, merges or scores alone.
_STEP_TIME = timedelta(days=30)


def num_nodes() -> int:
    """Return number of nodes of this run."""
    return int(os.environ.get("NNODES", "1"))


def environment_errors() -> list[str]:
    """List what the environment lacks for several nodes."""
    absent = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if not absent:
        return []
    return [
        f"NNODES={num_nodes()}, but {' and '.join(absent)} is not set. Set them alike on every node, NODE_RANK from 0."
    ]


class Announcements:
    """What the first node tells the others.

    Args:
        store: where to.
    """

    def __init__(self, store: TCPStore):
        self._store = store
        self._count = 0

    def __call__(self, message: list[str] | str) -> None:
        """Tell the next command line, or that the sequence has ended."""
        self._store.set(f"step/{self._count}", json.dumps(message))
        self._count += 1


@contextmanager
def lead() -> Iterator[Announcements]:
    """Open the store on the first node for as long as the sequence runs, and let the others go at its end."""
    store = _store(is_master=True)
    announce = Announcements(store)
    try:
        yield announce
    finally:
        announce(_END)
        deadline = time.monotonic() + _LEAVE_TIME.total_seconds()
        while store.add("left", 0) < num_nodes() - 1 and time.monotonic() < deadline:
            time.sleep(0.1)


def follow() -> None:
    """On every other node: runs each command of the first node until the sequence ends.

    A failed command is the first node's to report: its own part of it fails too, and it ends the sequence.
    """
    store = _store(is_master=False)
    count = 0
    while True:
        key = f"step/{count}"
        store.wait([key], _STEP_TIME)
        message = json.loads(store.get(key))
        if message == _END:
            store.add("left", 1)
            return
        subprocess.run(message, check=False)
        count += 1


def _store(is_master: bool) -> TCPStore:
    port = int(os.environ["MASTER_PORT"]) + 1
    return TCPStore(os.environ["MASTER_ADDR"], port, is_master=is_master, timeout=_JOIN_TIME, wait_for_workers=False)
