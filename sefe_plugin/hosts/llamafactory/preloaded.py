"""The process that has loaded LLaMA-Factory's libraries, and forks for each process of a sequence.

`launcher` starts it with one end of a pair of sockets, on which each side writes lines of JSON::

    <-  null                                     it is ready; or a text: why it does not fork, and it ends
    ->  {"words": [...], "folder": ...}          run a module with these arguments there; with it come the file
                                                 descriptors of output and errors, and others that are held
    <-  4711                                     the number of the fork
    <-  0                                        its exit status, negative where a signal ended it

It loads libraries and nothing of LLaMA-Factory, so that a fork is what a new Python is: patches and all that is read
at the start of the host are the fork's. Of this plugin it loads what a recipe is read with, which changes nothing and
asks nothing. It computes nothing and touches no device.
"""

import atexit
import gc
import importlib
import importlib.util
import json
import os
import runpy
import socket
import sys
import tempfile
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sefe_plugin.run.process import end_with_parent


#: What runs a step of the host, all of which load a model.
HOST_MODULE = "llamafactory.cli"

#: What the host loads first, which starts threads of linear algebra; they end before a fork and begin again behind it.
_FIRST = ("numpy", "scipy.linalg", "torch")

#: What else it loads for a training, as far as that is installed.
_FURTHER = (
    "transformers.trainer_seq2seq",
    "transformers.training_args_seq2seq",
    "transformers.hf_argparser",
    "transformers.models.auto.processing_auto",
    "transformers.models.auto.video_processing_auto",
    "transformers.models.mllama.processing_mllama",
    "transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe",
    "datasets",
    "peft",
    "trl",
    "omegaconf",
    "torchaudio",
    "av",
    "rich",
    "sefe_plugin.run.runner",
)

#: What PEFT and Accelerate load with a model where it is installed; with a GPU they may start CUDA.
_WITH_MODELS = ("bitsandbytes", "deepspeed")

#: What makes a folder of its own where it finds no home, which the end of one fork would take from all.
_AT_HOME = ("matplotlib.pyplot",)

#: PyTorch's variable that has it say whether there is CUDA without starting it, as far as there is a driver to ask.
_ASK_ONLY = "PYTORCH_NVML_BASED_CUDA_CHECK"

#: Names the GPUs that CUDA may see.
_VISIBLE = "CUDA_VISIBLE_DEVICES"

#: A thread of pyarrow's memory, which bears a fork.
_HARMLESS = Counter({"jemalloc_bg_thd": 1})


def main() -> None:
    """Load the libraries, and fork until the other side is gone; what comes back here is a fork."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as said_with_models:
        with _kept_output(said.fileno()):
            reason = _load(said_with_models.fileno())
        heard, heard_with_models = _content(said), _content(said_with_models)
    _answer(connection, reason)
    if reason is not None:
        return
    words = _serve(connection)
    if words is None:
        return
    sys.stderr.buffer.write(heard)  # as if it had loaded them itself
    if words[0] == HOST_MODULE:
        sys.stderr.buffer.write(heard_with_models)
    sys.argv = words
    sys.orig_argv = [sys.executable, "-P", "-m", *words]
    run_and_end(words[0])


def run_and_end(module: str) -> None:
    """Run a module as a new Python does, and end in the way of a `multiprocessing` fork.

    What Python does at its end is done, but the libraries are not taken apart: for that a fork would have to copy the
    memory that it shares. An error goes its usual way.
    """
    status = None
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        status = end.code
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


@contextmanager
def _kept_output(file: int) -> Iterator[None]:
    """Have all that is said go to a file."""
    own = [os.dup(stream) for stream in (1, 2)]
    for stream in (1, 2):
        os.dup2(file, stream)
    try:
        yield
    finally:
        for stream, kept in zip((1, 2), own, strict=True):
            os.dup2(kept, stream)
            os.close(kept)


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _load(said_with_models: int) -> str | None:
    """Load the libraries; return why they do not bear a fork, None if they do.

    Args:
        said_with_models: The file descriptor for what those say that are loaded with a model.
    """
    try:
        _import(_FIRST)
        known = _threads() + _HARMLESS
        gpus = _count_gpus()
        with _asking_only(gpus):
            if reason := _other_devices(gpus):
                return reason
            _import(_FURTHER)
            load_configurations()
            if gpus == 0:
                with _kept_output(said_with_models):
                    _import(_WITH_MODELS)
            if (home := os.environ.get("HOME")) and Path(home).is_dir() and os.access(home, os.W_OK):
                _import(_AT_HOME)
            if reason := _started(known):
                return reason
    except Exception:  # where it is an obstacle to the host, the host says so itself
        return f"they could not be loaded ahead; {traceback.format_exc(limit=0).strip().splitlines()[-1]}"
    gc.collect()
    gc.freeze()  # no fork looks through what was loaded
    return None


@contextmanager
def _asking_only(gpus: int) -> Iterator[None]:
    """Have libraries that ask for CUDA not start it: PyTorch does where there is no driver that it could ask.

    Args:
        gpus: How many there are.
    """
    wanted = {_ASK_ONLY: "1"} | ({} if gpus else {_VISIBLE: ""})
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _import(names: Iterable[str]) -> None:
    for name in names:
        with suppress(ModuleNotFoundError):  # not installed, or not in this version
            importlib.import_module(name)


def load_configurations() -> None:
    """Load the configurations of all models with pictures, among which the host looks for that of its own."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.keys()


def _other_devices(gpus: int) -> str | None:
    """Return which devices speak against forks, None if none does.

    Args:
        gpus: How many there are for CUDA.
    """
    import torch

    if gpus > 1:
        return "LLaMA-Factory starts a process for each GPU"
    if torch.xpu.is_available() or importlib.util.find_spec("torch_npu"):
        return "forks were tried on a CPU and are meant for CUDA, and this device is neither"
    return None


def _started(known: Counter) -> str | None:
    """Return what has been started that does not bear a fork, None if nothing has.

    Args:
        known: The names of threads that do.
    """
    import torch

    if torch.cuda.is_initialized() or _fails_in_a_fork():
        return "loading them starts CUDA"
    if threading.active_count() > 1 or _threads() - known:
        return "loading them starts threads"
    return None


def _count_gpus() -> int:
    """Return how many GPUs there are for CUDA; a fork of this process counts them, because that may start CUDA."""
    import torch

    return _in_a_fork(torch.cuda.device_count)


def _fails_in_a_fork() -> bool:
    """Tell whether a fork of this process could not start CUDA."""
    from torch.cuda import _is_in_bad_fork  # PyTorch has no public name for it

    return _in_a_fork(_is_in_bad_fork) != 0


def _in_a_fork(function: Callable[[], int]) -> int:
    """Return what a function returns in a fork, at most 254.

    Raises:
        ChildProcessError: If the function fails there.
    """
    fork = _fork()
    if fork == 0:
        status = 255
        try:
            status = function()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
    if not 0 <= status < 255:
        raise ChildProcessError(f"a fork ended with {status}")
    return status


def _threads() -> Counter:
    """Return the names of this process's threads, those that Python does not know among them, and how many each."""
    return Counter(file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm"))


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: `_obstacle` knows which there are
        return os.fork()


def _answer(connection: socket.socket, content: str | int | None) -> None:
    connection.sendall(json.dumps(content).encode() + b"\n")


def _serve(connection: socket.socket) -> list[str] | None:
    """Fork for each request, one after the other; return its words in a fork, and None when there is no other."""
    parent = os.getpid()
    while received := _receive(connection):
        request, (output, errors, *held) = received
        fork = _fork()
        if fork == 0:
            connection.close()
            end_with_parent()
            if os.getppid() != parent:
                os._exit(1)
            _become(request["folder"], (output, errors), held)
            return request["words"]
        for descriptor in (output, errors, *held):
            os.close(descriptor)
        _answer(connection, fork)
        _, status = os.waitpid(fork, 0)
        _answer(connection, os.waitstatus_to_exitcode(status))
    return None


def _receive(connection: socket.socket) -> tuple[dict, list[int]] | None:
    """Return the next request and its file descriptors; None where the other side is gone."""
    line, descriptors, *_ = socket.recv_fds(connection, 1 << 16, 16)
    while line and not line.endswith(b"\n"):
        more = connection.recv(1 << 16)
        line = line + more if more else b""
    return (json.loads(line), descriptors) if line else None


def _become(folder: str, outputs: Sequence[int], held: Sequence[int]) -> None:
    """Make this fork what a new process would be.

    Args:
        folder: Its working folder.
        outputs: File descriptors of its output and errors.
        held: File descriptors that it and its own processes hold.
    """
    for descriptor, number in zip(outputs, (1, 2), strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for descriptor in held:
        os.set_inheritable(descriptor, True)
    os.chdir(folder)
    _reseed()


def _reseed() -> None:
    """Give new seeds to the generators that every process has, as Python does with its own behind a fork."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()
