"""A sequence over several nodes: the first runs it, the others join it for every training.

The nodes are told of each other as LLaMA-Factory's own: NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT, with the run
folder and the data on a file system they share. Within a step the host's torchrun has its own rendezvous. Between
steps the first node tells the others what comes next, at MASTER_ADDR and the port after MASTER_PORT::

    {"step": "train", "task": 1, "phase": ""}        the second task, its only training

That is all a message can say. Every node looks the step up in its own copy of the recipe, and makes the command line
itself. Before anything is believed, each side proves that it has the secret of the run (`docs/security.md`).
"""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sefe_plugin.hosts.llamafactory.node_link import ForeignError, Link, Secret, join, welcome
from sefe_plugin.methods import methods
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.job import TaskFailedError, task_arguments
from sefe_plugin.run.stages import BASE, SCORE_FILE, TASK_FILE, has_base_row


#: Seconds to wait for the other nodes, for the first one, for a file to be seen on all nodes, and for goodbyes.
_JOIN_TIME, _SEE_TIME, _LEAVE_TIME = 3600.0, 60.0, 30.0
_PAUSE = 0.2
_END = {"step": "end"}


class Step(NamedTuple):
    """One command in which all nodes take part.

    Attributes:
        step: "train" or "score".
        task: Number of the task, from 0; `stages.BASE` for the scoring before the first.
        phase: Name of the phase of its training; "" for the last.
    """

    step: str
    task: int
    phase: str = ""


def num_nodes() -> int:
    """Return number of nodes of this run; 1 where NNODES is no number, which `environment_errors` tells."""
    value = os.environ.get("NNODES", "1")
    return int(value) if value.isdecimal() else 1


def environment_errors() -> list[str]:
    """List what is wrong with the environment variables of several nodes."""
    value = os.environ.get("NNODES", "1")
    if not value.isdecimal() or int(value) < 1:
        return [f"NNODES must be the number of nodes; got {value!r}."]
    if int(value) == 1:
        return []
    absent = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    errors = []
    if absent:
        errors.append(
            f"NNODES={value}, but {' and '.join(absent)} is not set. Set them alike on every node, NODE_RANK from 0."
        )
    ranges = {"NODE_RANK": (0, int(value) - 1), "MASTER_PORT": (1, 65534)}
    for name, (low, high) in ranges.items():
        number = os.environ.get(name, str(low))
        if not number.isdecimal() or not low <= int(number) <= high:
            errors.append(f"{name} must be a whole number from {low} to {high}; got {number!r}.")
    return errors


def steps_of_recipe(recipe: Recipe) -> dict[Step, Path]:
    """Return every step in which all nodes take part, and the file of the host's recipe for it."""
    folder, steps = RunFolder(recipe.output_dir.absolute()), {}
    if has_base_row(recipe.arguments):
        steps[Step("score", BASE)] = folder.base_folder / SCORE_FILE
    for index, task in enumerate(recipe.tasks):
        keys = task_arguments(recipe.arguments, recipe.tasks, index, folder)
        own = folder.task_folder(index, task.name)
        for phase in methods()[keys["cl_method"]].phases(keys):
            steps[Step("train", index, phase.name)] = own / phase.name / TASK_FILE
        steps[Step("score", index)] = own / SCORE_FILE
    return steps


@contextmanager
def lead(recipe: Recipe) -> Iterator[Callable[[str, Path], None]]:
    """Let the other nodes join for as long as the sequence runs, and let them go at its end.

    Yields:
        A function that is given "train" or "score" and the file of a step; it waits for the other nodes, and tells
        them.

    Raises:
        RecipeError: If MASTER_ADDR is no address of this machine, or the port after MASTER_PORT is in use.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        server = socket.create_server((host, port), family=family)
    except OSError as error:
        raise RecipeError(
            recipe.source,
            [
                f"the first node cannot listen at {host}, port {port}, that of MASTER_ADDR and the one after "
                f"MASTER_PORT: {error.strerror or error}. Set MASTER_ADDR to an address of the first node that the "
                "others can reach, and MASTER_PORT so that both ports are free."
            ],
        ) from None
    secret = Secret.of_run(recipe.output_dir.absolute(), create=True)
    leader = _Leader(recipe, server, secret)
    try:
        yield leader.announce
    finally:
        leader.end()
        secret.remove()


class _Leader:
    """The first node's end of the links.

    Args:
        recipe: The sequence.
        server: Where the others connect.
        secret: Of the run.
    """

    def __init__(self, recipe: Recipe, server: socket.socket, secret: Secret):
        self._files = {file: step for step, file in steps_of_recipe(recipe).items()}
        self._recipe, self._server, self._secret = _digest(recipe), server, secret
        self._links: dict[int, Link] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._accept, name="sefe-nodes", daemon=True).start()

    def announce(self, verb: str, file: Path) -> None:
        """Tell the other nodes which step begins, once all of them are there.

        Raises:
            TaskFailedError: If they are not there within an hour, or one is lost.
        """
        step = self._files[file]
        if step.step != verb:
            raise ValueError(f"{file} belongs to the step {step.step!r}, not to {verb!r}")
        others = num_nodes() - 1
        with self._changed:
            if len(self._links) < others:
                address, port = self._server.getsockname()[:2]
                _say(f"Waiting for {others - len(self._links)} of {others} other nodes at {address}, port {port}.")
            if not self._changed.wait_for(lambda: len(self._links) >= others, _JOIN_TIME):
                raise TaskFailedError(
                    f"Only {len(self._links)} of {others} other nodes have joined within {_JOIN_TIME / 60:.0f} "
                    "minutes. Start the same command on every node, with a NODE_RANK of its own."
                )
            for rank, link in self._links.items():
                try:
                    link.send(step._asdict())
                except OSError:
                    raise TaskFailedError(f"The node with NODE_RANK={rank} is gone. Start all nodes anew.") from None

    def end(self) -> None:
        """Let the other nodes go, and wait for those that go at once."""
        with self._changed:
            # a node that comes a moment later is let go, too
            self._changed.wait_for(lambda: len(self._links) >= num_nodes() - 1, _LEAVE_TIME)
            links, self._links = list(self._links.values()), {}
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
        deadline = time.monotonic() + _LEAVE_TIME
        for link in links:
            with contextlib.suppress(OSError):
                link.send(_END)
        for link in links:
            link.wait_for_close(max(0.0, deadline - time.monotonic()))
            link.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._server.accept()
            except OSError:  # closed at the end
                return
            threading.Thread(target=self._meet, args=(connection, address[0]), daemon=True).start()

    def _meet(self, connection: socket.socket, address: str) -> None:
        try:
            link, rank = welcome(connection, self._secret, self._recipe, range(1, num_nodes()))
        except (ForeignError, OSError) as error:
            connection.close()
            _say(f"Refused a connection from {address}: {error}")
            return
        with self._changed:
            earlier = self._links.pop(rank, None)
            if earlier is not None:  # its node was started anew
                earlier.close()
            self._links[rank] = link
            self._changed.notify_all()


def follow(recipe: Recipe) -> None:
    """On every other node: take part in each step of the first node until the sequence ends.

    A failed command is the first node's to report: its own part of it fails too, and it ends the sequence.

    Raises:
        RecipeError: If the first node runs another recipe.
        TaskFailedError: If the first node does not come, is gone, or sends what is no step of the recipe.
    """
    steps = steps_of_recipe(recipe)
    link = _reach_first_node(recipe)
    try:
        while (message := link.receive()) != _END:
            step = _known_step(message, steps)
            subprocess.run(step_command(_seen(steps[step])), check=False)
    except ForeignError as error:
        raise TaskFailedError(f"Refused what came from the first node: {error} Nothing was run.") from None
    except OSError as error:
        raise TaskFailedError(f"The first node is gone: {error}. Its output says why. Start all nodes anew.") from None
    finally:
        link.close()


def step_command(file: Path) -> list[str]:
    """Return the command line of this node's part of a step."""
    return [sys.executable, "-P", "-m", "llamafactory.cli", "train", str(file)]


def _known_step(message: Mapping[str, Any], steps: Mapping[Step, Path]) -> Step:
    """Return the step of a message, or refuse what is none of this node's recipe."""
    if isinstance(message, dict) and message.keys() == set(Step._fields):
        step = Step(**message)
        if [type(value) for value in step] == [str, int, str] and step in steps:
            return step
    raise ForeignError(f"{message!r} is no step of this recipe.")


def _reach_first_node(recipe: Recipe) -> Link:
    """Join the first node, which may start later than this one and makes the secret of the run when it does."""
    host, port, rank = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1, int(os.environ["NODE_RANK"])
    deadline, reason = time.monotonic() + _JOIN_TIME, "nothing was tried"
    while time.monotonic() < deadline:
        secret = Secret.of_run(recipe.output_dir.absolute())
        if secret is None:
            reason = f"it has made no file {Secret.file_in(recipe.output_dir.absolute())}, and SEFE_SECRET is not set"
        else:
            try:
                return join(socket.create_connection((host, port), timeout=10), secret, _digest(recipe), rank)
            except (ForeignError, OSError) as error:
                reason = str(error)
        time.sleep(_PAUSE)
    raise TaskFailedError(
        f"The first node could not be joined at {host}, port {port}, within {_JOIN_TIME / 60:.0f} minutes: {reason}."
    )


def _seen(file: Path) -> Path:
    """Wait until a file of the first node is seen on this one; a shared file system may show it late."""
    deadline = time.monotonic() + _SEE_TIME
    while not file.is_file() and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    if not file.is_file():
        raise TaskFailedError(
            f"{file} is not seen on this node. Start every node in the same folder of a file system that all share, "
            "or write `output_dir` as a whole path."
        )
    return file


def _digest(recipe: Recipe) -> str:
    """Return a text that is equal on nodes with equal recipes."""
    return hashlib.sha256(json.dumps(recipe.to_dict(), sort_keys=True, default=str).encode()).hexdigest()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - as `sequence.py`, part of the command
