"""A Python that has loaded LLaMA-Factory already: a process of its is a fork, which starts in no time.

`warm_environment` starts a server, which loads the host once, and writes small programs `python`, `llamafactory-cli`
and `torchrun`. The first takes `-m llamafactory.cli ...`, or the same as `-c`, hands its arguments, working folder,
environment and streams to the server, and ends as the fork ends which the server makes for it. Any other command line
it leaves to the real Python. What runs in a fork takes this program for `sys.executable`. So a
sequence, its trial and its tasks are separate processes as ever, each with its own streams, signals and end; only the
loading of the host is shared, most of the seconds that such a process takes. A fork is unbuffered.

`warm_script_python` is the same for scripts that stand in for the host. Its server loads only what they need.
`warm_plain_python` has PyTorch, transformers and PEFT as they are without the plugin, for code and scripts.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path


#: The modules that are run in a fork. So are the files that torchrun starts, unbuffered (-u), and the engine of vLLM.
MODULES = (
    "llamafactory.cli",
    "sefe_plugin.cli",
    "sefe_plugin.hosts.llamafactory.trial_process",
    "sefe_plugin.hosts.llamafactory.vllm_scoring",
    "torch.distributed.run",
)

#: Where Python looks for modules first; a fork looks there for what is not loaded yet.
PATHS = "PYTHONPATH"

#: The environment that is read while the host is loaded, by the beginnings of names, and what of it may differ. A fork
#: sees the server's GPUs, whatever it is told.
LOADED_WITH = ("HF_", "OMP_", "PYTHON", "SEFE_PLUGIN_DISABLE", "TRANSFORMERS_", "USE_")
FREE = (PATHS, "PYTHONSAFEPATH")

#: The program `python`.
PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys

arguments = [word for word in sys.argv[1:] if word not in ("-P", "-u")]
if arguments[:2] == ["-c", "from llamafactory.cli import main; main()"]:
    arguments = ["-m", "llamafactory.cli", *arguments[2:]]
module = arguments[:1] == ["-m"] and arguments[1] in {modules}
names = arguments[:1] and (".py" if {kind!r} != "host" or sys.argv[1:2] == ["-u"] else "/vllm_engine.py")
file = names and arguments[0].endswith(names)
code = {kind!r} == "plain" and arguments[:1] == ["-c"]
environment = {{name: value for name, value in os.environ.items() if name.startswith({loaded_with})}}
for name in {free}:
    environment.pop(name, None)
environment["PYTHONUNBUFFERED"] = "1"
if not (module or file or code) or environment != {environment}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
job = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(job).to_bytes(8, "big")], [0, 1, 2])
server.sendall(job)
answers = server.makefile("rb")
fork = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda number, frame: os.kill(fork, number))
status = int(answers.readline())
if status < 0:
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@contextlib.contextmanager
def warm_environment(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Start the server; yield an environment in which the programs are found first, and end all when it is left.

    Args:
        environment: What the server loads the host with. A process whose environment differs in what the host reads
            while it is loaded is started by the real Python.
    """
    with _programs(environment, "host") as folder:
        # a sequence needs no process that has loaded the libraries when all of its processes are forks
        path = f"{folder}{os.pathsep}{environment['PATH']}"
        yield environment | {"PATH": path, "SEFE_PRELOAD": "0"}


@contextlib.contextmanager
def warm_script_python() -> Iterator[str]:
    """Start the server for scripts that stand in for the host, with this environment; yield the program `python`."""
    with _programs(dict(os.environ), "scripts") as folder:
        yield f"{folder}/python"


@contextlib.contextmanager
def warm_plain_python() -> Iterator[str]:
    """Start the server for code that must find nothing of the plugin at work; yield the program `python`.

    The server has this environment with SEFE_PLUGIN_DISABLE=1, and the code must have that, too.
    """
    with _programs(os.environ | {"SEFE_PLUGIN_DISABLE": "1"}, "plain") as folder:
        yield f"{folder}/python"


@contextlib.contextmanager
def _programs(environment: dict[str, str], kind: str) -> Iterator[str]:
    """Start a server of a kind, one of `_LOADERS`; yield the folder of the programs."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/socket"
        environment = environment | {"PYTHONUNBUFFERED": "1"}  # as a sequence has it for its processes
        loaded_with = {name: value for name, value in environment.items() if name.startswith(LOADED_WITH)}
        for name in FREE:
            loaded_with.pop(name, None)
        program = Path(folder, "python")
        program.write_text(
            PROGRAM.format(
                python=sys.executable,
                kind=kind,
                modules=MODULES,
                loaded_with=LOADED_WITH,
                free=FREE,
                environment=loaded_with,
                address=address,
            )
        )
        for name, module in (("llamafactory-cli", "llamafactory.cli"), ("torchrun", "torch.distributed.run")):
            Path(folder, name).write_text(f'#!/bin/sh\nexec {program} -m {module} "$@"\n')
        for file in Path(folder).iterdir():
            file.chmod(0o755)
        command = [sys.executable, "-P", __file__, kind, address, str(program)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as server:
            try:
                assert any(line == b"ready\n" for line in server.stdout), "the server did not start"
                yield folder
            finally:
                server.terminate()


def _serve(address: str, program: str) -> None:
    """Wait for jobs; return in a fork, once for each job, ready to run it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks that watch
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            break
        connection.close()
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, streams, *_ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as incoming:
        arguments, folder, environment = json.loads(incoming.read(int.from_bytes(length, "big")))
    os.setsid()
    worker = os.fork()
    if worker:
        for stream in streams:
            os.close(stream)
        _watch(connection, worker)
    connection.close()
    for stream, target in zip(streams, (0, 1, 2), strict=True):
        os.dup2(stream, target)
        os.close(stream)
    os.chdir(folder)
    own = _paths()
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [*_paths(), *(path for path in sys.path if path not in own)]
    sys.executable = program
    sys.argv = arguments


def _paths() -> list[str]:
    """Return the folders that `PATHS` names."""
    return [path for path in os.environ.get(PATHS, "").split(os.pathsep) if path]


def _watch(connection: socket.socket, worker: int) -> None:
    """Tell the program which process works for it and how that ends; end it where the program is gone."""
    connection.sendall(b"%d\n" % worker)
    gone = os.fork()
    if gone == 0:
        if not connection.recv(1):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        os._exit(0)
    _, status = os.waitpid(worker, 0)
    os.kill(gone, signal.SIGKILL)
    with contextlib.suppress(OSError):
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _load_host() -> None:
    """Load what the processes of a sequence load."""
    import multiprocessing.spawn  # noqa: F401  # remembers the real Python

    import bitsandbytes  # noqa: F401
    import deepspeed
    import llamafactory.train.tuner  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    import transformers.models.llava.modeling_llava  # noqa: F401
    from tqdm import tqdm

    import sefe_plugin.hosts.llamafactory.scoring
    import sefe_plugin.hosts.llamafactory.task
    import sefe_plugin.hosts.llamafactory.trial  # noqa: F401
    from sefe_plugin.hosts.llamafactory.preloaded import load_configurations

    load_configurations()
    # DeepSpeed would compile its own sums in shared memory for a minute and a half; gloo's are as right
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # its own lock is one of all forks: one that is killed with it would stop all others
    tqdm.set_lock(threading.RLock())


def _load_for_scripts() -> None:
    """Load what scripts load that stand in for the host."""
    own = ("data.test_sets", "evaluation.results", "evaluation.scorers", "run.costs", "run.progress", "run.steps")
    for name in ("numpy", "yaml", "safetensors.numpy", *(f"sefe_plugin.{module}" for module in own)):
        importlib.import_module(name)


def _load_plain() -> None:
    """Load what reads a saved model without the plugin."""
    import peft  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor  # noqa: F401

    assert "sefe_plugin.methods" not in sys.modules


#: Kind of a server -> what loads what its forks need.
_LOADERS = {"host": _load_host, "scripts": _load_for_scripts, "plain": _load_plain}


if __name__ == "__main__":
    _LOADERS[sys.argv[1]]()
    gc.freeze()  # no fork looks through what was loaded
    _serve(*sys.argv[2:])
    if sys.argv[0] == "-m":
        from sefe_plugin.hosts.llamafactory.preloaded import run_and_end

        sys.argv = sys.argv[1:]
        run_and_end(sys.argv[0])
    elif sys.argv[0] == "-c":
        code = sys.argv.pop(1)
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        # for a file of the tests, whose `conftest` is theirs and not a folder's; then for what lies beside a file
        sys.path += [str(Path(__file__).parent), str(Path(sys.argv[0]).parent)]
        runpy.run_path(sys.argv[0], run_name="__main__")
