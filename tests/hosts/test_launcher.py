"""A fork of a process that has loaded the libraries is what a new process is: output, signals, end and results."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from same_report import without_times

from sefe_plugin.hosts.llamafactory import launcher, preloaded
from sefe_plugin.hosts.llamafactory.launcher import PRELOAD, Launcher
from sefe_plugin.hosts.llamafactory.trial_process import TRIAL_MODULE
from sefe_plugin.run.process import call, spawn


#: Loads nothing, and says something meanwhile.
QUICK = """
import os, sys
from sefe_plugin.hosts.llamafactory import preloaded

def load(said_with_models):
    print("loaded", flush=True)
    print("with a warning", file=sys.stderr)
    os.write(said_with_models, b"and a model\\n")

preloaded._load = load
preloaded.main()
"""

#: A sequence that runs the given module as its task, in a fork; no other process is started.
RUN = f"""
import sys
from pathlib import Path
from sefe_plugin.hosts.llamafactory import launcher, watch
from sefe_plugin.run.process import call

launcher._PRELOADED = {QUICK!r}
launcher._host_module = lambda command: command[3:]
launcher.spawn = None
watch.announce_runner()
try:
    with launcher.Launcher(print) as found:
        raise SystemExit(call([sys.executable, "-P", "-m", *sys.argv[2:]], Path(sys.argv[1]), (), True, found.start))
except KeyboardInterrupt as interrupt:
    raise SystemExit(143 if isinstance(interrupt, watch.Terminated) else 130)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes the code of a module that forks can run; returns its name."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv(PRELOAD, raising=False)
    monkeypatch.delenv("FORCE_TORCHRUN", raising=False)

    def write(code: str, name: str = "work") -> str:
        (tmp_path / f"{name}.py").write_text(code)
        return name

    return write


@pytest.fixture
def forks(module, monkeypatch):
    """A launcher whose forks run any module; nothing is started plainly."""
    monkeypatch.setattr(launcher, "_PRELOADED", QUICK)
    monkeypatch.setattr(launcher, "_host_module", lambda command: command[3:])
    monkeypatch.setattr(launcher, "spawn", None)
    with Launcher(pytest.fail) as found:
        yield found


def started(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", name, *arguments]


def said(log: Path) -> list[str]:
    """What a task said, without the head of the log and what the loading said."""
    return [line for line in log.read_text().splitlines()[1:] if line not in ("loaded", "with a warning")]


def wait_until(holds, *, running: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        assert running is None or running.poll() is None, running.communicate()
        time.sleep(0.01)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


#: Says what a process can know of itself, as a program of its own and as a fork.
TELLS = """
import json, os, random, signal, sys
import numpy as np
main = sys.modules["__main__"]
print(json.dumps({
    "arguments": sys.argv, "command": sys.orig_argv, "python": sys.executable, "path": sys.path,
    "main": [main.__name__, main.__spec__.name, main.__file__],
    "environment": dict(os.environ), "folder": os.getcwd(), "safe": sys.flags.safe_path,
    "group": [os.getpgid(0), os.getsid(0)], "deaf": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "term": signal.getsignal(signal.SIGTERM) == 0,
    "files": sorted(os.listdir("/proc/self/fd")), "input": os.fstat(0).st_ino, "unbuffered": sys.stdout.write_through,
}))
print(random.random(), np.random.random(), file=sys.stderr)
"""


def test_a_fork_is_what_a_new_process_is(forks, module, tmp_path, monkeypatch):
    name = module(TELLS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A_NAME", "a value")
    (tmp_path / "held").touch()
    with (tmp_path / "held").open() as held:
        for log, start in (("fork", forks.start), ("fork again", forks.start), ("plain", spawn)):
            assert call(started(name, "a word", "wörter"), tmp_path / log, (held.fileno(),), False, start) == 0
    *found, plain = (said(tmp_path / log) for log in ("fork", "fork again", "plain"))
    told = [json.loads(next(line for line in lines if line[0] == "{")) for lines in (*found, plain)]
    for fork in told[:-1]:
        # what it holds has another number, and /proc/self/fd is open itself
        assert len(fork.pop("files")) == len(told[-1]["files"])
        assert fork == {key: value for key, value in told[-1].items() if key != "files"}
    drawn = [line for lines in (*found, plain) for line in lines if line[0] != "{"]
    numbers = [number for line in drawn for number in line.split()]
    assert len(set(numbers)) == len(numbers) == 6, "forks draw the same random numbers"


#: Waits in a process of its own, which inherits what this one holds.
HOLDS = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time; time.sleep(100)"], close_fds=False)
"""


def test_a_fork_holds_what_it_is_given(forks, module):
    """As the lock of a run folder, also in what the fork itself starts; the parent does not hold it."""
    reader, writer = os.pipe()
    task = forks.start(started(module(HOLDS)), (1, 2), (writer,))
    os.close(writer)
    (child,) = _children(task.pid)
    pipe = f"pipe:[{os.fstat(reader).st_ino}]"
    assert [pipe in _open(pid) for pid in (task.pid, child, forks._parent._process.pid)] == [True, True, False]
    for pid in (child, task.pid):
        os.kill(pid, signal.SIGKILL)
    assert task.wait() == task.wait() == -signal.SIGKILL
    assert os.read(reader, 1) == b""
    os.close(reader)


def _open(pid: int) -> set[str]:
    return {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()}


def _children(pid: int) -> list[int]:
    wait_until(lambda: psutil.Process(pid).children())
    return [child.pid for child in psutil.Process(pid).children()]


def test_the_loading_begins_before_it_is_needed(forks, module, tmp_path):
    forks.get_ready()
    begun = forks._parent._process.pid
    forks.get_ready()
    assert call(started(module("print('work')")), tmp_path / "log", (), False, forks.start) == 0
    assert forks._parent._process.pid == begun


def test_what_is_started_plainly_loads_nothing_ahead(monkeypatch):
    monkeypatch.setenv(PRELOAD, "0")
    monkeypatch.setattr(launcher, "_Parent", pytest.fail)
    with Launcher(pytest.fail) as found:
        found.get_ready()


def test_what_the_loading_says_every_fork_says(forks, module, tmp_path):
    name = module("print('work')")
    for log in ("first", "second"):
        assert call(started(name), tmp_path / log, (), False, forks.start) == 0
        assert sorted((tmp_path / log).read_text().splitlines()[1:]) == ["loaded", "with a warning", "work"]


def test_what_is_loaded_with_models_speaks_in_the_steps_of_the_host(forks, tmp_path):
    log = tmp_path / "log"
    assert call(started("llamafactory.cli", "version"), log, (), False, forks.start) == 0
    assert log.read_text().splitlines()[1:4] == ["loaded", "with a warning", "and a model"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("", 0),
        ("raise SystemExit(3)", 3),
        ("raise SystemExit('a message')", 1),
        ("1 / 0", 1),
        ("import os; os._exit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15),
        ("import os; os.abort()", -6),
        ("import atexit; atexit.register(print, 'at the end')", 0),
        ("import sys; sys.stdout.write('no end of a line'); sys.exit(0)", 0),
        ("import threading; threading.Timer(0.5, print, ['late']).start(); raise SystemExit(256 + 5)", 5),
        ("from concurrent import futures; futures.ThreadPoolExecutor().submit(print, 'of a pool')", 0),
    ],
)
def test_a_fork_ends_as_a_process_does(forks, module, tmp_path, code, status):
    task, logs = started(module(code)), [tmp_path / name for name in ("fork", "plain")]
    statuses = [call(task, log, (), False, start) for log, start in zip(logs, (forks.start, spawn), strict=True)]
    assert statuses == [status, status]
    assert said(logs[0])[-1:] == said(logs[1])[-1:]
    assert call(started(module("print('next')", "following")), tmp_path / "next", (), False, forks.start) == 0
    assert said(tmp_path / "next") == ["next"]


@pytest.fixture
def run(module, tmp_path):
    """Starts a sequence that runs a module as its task, in a process group of its own."""
    begun = []

    def start(code: str, **streams) -> subprocess.Popen:
        command = [sys.executable, "-c", RUN, str(tmp_path / "log.txt"), module(code)]
        # what is started in the background may be deaf to a Ctrl-C
        heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        begun.append(subprocess.Popen(command, process_group=0, preexec_fn=heeds, **streams))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


#: Says who it is and what it started, and waits; deaf to a SIGTERM.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: print("asked to end", flush=True))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
print(os.getpid(), child.pid, os.getppid(), flush=True)
while True:
    time.sleep(100)
"""


def pids(log: Path, sequence: subprocess.Popen) -> list[int]:
    """The numbers that a task says: its own, of what it started, and of its parent."""
    wait_until(lambda: log.is_file() and any(line[0].isdigit() for line in said(log)), running=sequence)
    return [int(pid) for pid in next(line for line in said(log) if line[0].isdigit()).split()]


def test_nothing_is_left_of_a_sequence_that_is_killed(run, tmp_path):
    sequence = run(STUBBORN)
    task, _, parent = pids(tmp_path / "log.txt", sequence)
    assert psutil.Process(parent).ppid() == sequence.pid
    sequence.kill()
    sequence.wait()
    wait_until(lambda: not runs(task) and not runs(parent))


@pytest.mark.parametrize(
    ("number", "to_all", "status"),
    [(signal.SIGTERM, False, 143), (signal.SIGINT, True, 130), (signal.SIGTERM, True, 143)],
)
def test_a_sequence_that_is_stopped_ends_its_task_and_the_parent(run, tmp_path, number, to_all, status):
    """A Ctrl-C goes to the whole process group, a SIGTERM to one process or to all."""
    code = STUBBORN.replace("flush=True))\n", "flush=True) or sys.exit())\n")
    sequence = run(code, stderr=subprocess.PIPE, text=True)
    everything = pids(tmp_path / "log.txt", sequence)
    (os.killpg if to_all else os.kill)(sequence.pid, number)
    assert sequence.wait(60) == status
    assert not any(runs(pid) for pid in everything)
    if not to_all:
        assert said(tmp_path / "log.txt")[-1] == "asked to end"
    if number == signal.SIGINT:
        assert "Traceback" not in (tmp_path / "log.txt").read_text()


def test_a_parent_that_is_killed_takes_its_fork_along(run, tmp_path):
    sequence = run("import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(100)")
    task, parent = pids(tmp_path / "log.txt", sequence)
    os.kill(parent, signal.SIGKILL)
    assert sequence.wait(60) == 256 - signal.SIGKILL  # what `call` returned, as an exit status
    wait_until(lambda: not runs(task))


def test_a_terminal_stays_one(run, tmp_path):
    reader, writer = pty.openpty()
    sequence = run("import os; print('a\\rb'); print([os.isatty(1), os.isatty(2)])", stdout=writer, stderr=writer)
    os.close(writer)
    shown = b""
    while True:
        try:
            shown += os.read(reader, 1000)
        except OSError:
            break
    os.close(reader)
    assert sequence.wait() == 0
    assert b"a\rb" in shown
    assert said(tmp_path / "log.txt") == ["b", "[True, True]"]


@pytest.fixture
def plain(module, monkeypatch):
    """Notes what is started plainly; a process that loads libraries is a mistake unless it is `allowed`."""
    noted = []
    monkeypatch.setattr(launcher, "spawn", lambda command, outputs, held: noted.append(command))
    monkeypatch.setattr(launcher, "_Parent", lambda: pytest.fail("a process has been started to load libraries"))
    return noted


KNOWN = started("llamafactory.cli", "train", "task.yaml")


@pytest.mark.parametrize(
    "command",
    [
        started("llamafactory.cli", "api"),
        started("sefe_plugin.hosts.llamafactory.vllm_scoring", "task.yaml"),
        ["/other/python", *KNOWN[1:]],
        [sys.executable, "-m", *KNOWN[3:]],
        [sys.executable],
    ],
)
def test_what_is_no_step_of_the_host_in_this_python_is_started_plainly(plain, command):
    with Launcher(pytest.fail) as found:
        found.start(command, (1, 2))
    assert plain == [command]


@pytest.mark.parametrize("variable", [{PRELOAD: "0"}, {"FORCE_TORCHRUN": "1"}])
def test_it_can_be_switched_off_and_is_not_used_with_torchrun(plain, monkeypatch, variable):
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    with Launcher(pytest.fail) as found:
        found.start(KNOWN, (1, 2))
    assert plain == [KNOWN]


def test_other_systems_start_plainly(plain, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with Launcher(pytest.fail) as found:
        found.start(KNOWN, (1, 2))
    assert plain == [KNOWN]


def test_the_steps_of_the_host_are_known():
    assert launcher._host_module(KNOWN) == ["llamafactory.cli", "train", "task.yaml"]
    for words in (["llamafactory.cli", "export", "merge.yaml"], [TRIAL_MODULE, "job", "result", "log"]):
        assert launcher._host_module(started(*words)) == words


@pytest.mark.parametrize(
    ("program", "line"),
    [
        (
            "from sefe_plugin.hosts.llamafactory import preloaded; preloaded._load = lambda _: 'no'; preloaded.main()",
            "no",
        ),
        ("raise SystemExit(4)", "the process that loads them has ended (4)"),
    ],
)
def test_where_it_does_not_fork_that_is_said_once(module, monkeypatch, program, line):
    noted, lines = [], []
    monkeypatch.setattr(launcher, "_PRELOADED", program)
    monkeypatch.setattr(launcher, "spawn", lambda command, outputs, held: noted.append(command))
    with Launcher(lines.append) as found:
        for _ in range(2):
            found.start(KNOWN, (1, 2))
    assert noted == [KNOWN, KNOWN]
    assert lines == [f"Every task loads the libraries of LLaMA-Factory itself: {line}."]


def test_another_environment_or_a_parent_that_is_gone_means_a_plain_start(forks, module, tmp_path, monkeypatch):
    noted = []
    name = module("")
    assert call(started(name), tmp_path / "log", (), False, forks.start) == 0
    monkeypatch.setattr(launcher, "spawn", lambda command, outputs, held: noted.append(command))
    with monkeypatch.context() as changed:
        changed.setenv("HF_HOME", "elsewhere")
        forks.start(started(name), (1, 2))
        assert len(noted) == 1
    assert call(started(name), tmp_path / "log", (), False, forks.start) == 0
    assert len(noted) == 1
    os.kill(forks._parent._process.pid, signal.SIGKILL)
    forks._parent._process.wait()
    forks.start(started(name), (1, 2))
    assert len(noted) == 2


def test_a_stop_while_the_libraries_load_leaves_nothing(module, monkeypatch):
    monkeypatch.setattr(launcher, "_PRELOADED", "import time; time.sleep(100)")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt), Launcher(pytest.fail) as found:
            found.start(KNOWN, (1, 2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert found._parent._process.returncode == -signal.SIGKILL


@pytest.fixture
def as_loaded(monkeypatch):
    """The check of what loading has started, in this process, with its threads for known ones."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)  # other tests have asked for CUDA
    known = preloaded._threads() + preloaded._HARMLESS
    assert preloaded._started(known) is None
    return known


def test_what_does_not_bear_a_fork_is_found(as_loaded, monkeypatch):
    with monkeypatch.context() as changed:
        changed.setattr(torch.cuda, "is_initialized", lambda: True)
        assert preloaded._started(as_loaded) == "loading them starts CUDA"
    with monkeypatch.context() as changed:
        changed.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
        assert preloaded._started(as_loaded) == "loading them starts CUDA"
    with monkeypatch.context() as changed:
        changed.setattr(threading, "active_count", lambda: 2)
        assert preloaded._started(as_loaded) == "loading them starts threads"
    assert preloaded._started(Counter()) == "loading them starts threads"
    assert preloaded._other_devices(2) == "LLaMA-Factory starts a process for each GPU"
    with monkeypatch.context() as changed:
        changed.setattr(torch.xpu, "is_available", lambda: True)
        assert "this device is neither" in preloaded._other_devices(1)
    assert preloaded._other_devices(1) is None


def test_gpus_are_counted_in_a_fork(monkeypatch):
    seen = []

    def count() -> int:
        seen.append(os.getpid())
        return 3

    monkeypatch.setattr(torch.cuda, "device_count", count)
    assert preloaded._count_gpus() == 3
    assert seen == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ChildProcessError, match="a fork ended with -9"):
        preloaded._count_gpus()


@pytest.mark.parametrize(("gpus", "loaded"), [(0, True), (1, False)])
def test_what_may_start_cuda_is_loaded_ahead_without_a_gpu_alone(module, monkeypatch, tmp_path, gpus, loaded):
    monkeypatch.syspath_prepend(tmp_path)
    library = module("", f"library_with_{gpus}_gpus")
    for names, libraries in (("_FIRST", ()), ("_FURTHER", ()), ("_AT_HOME", ()), ("_WITH_MODELS", (library,))):
        monkeypatch.setattr(preloaded, names, libraries)
    monkeypatch.setattr(preloaded, "_count_gpus", lambda: gpus)
    monkeypatch.setattr(preloaded.gc, "freeze", lambda: None)
    preloaded._load(2)
    assert (library in sys.modules) == loaded


def test_libraries_that_cannot_be_loaded_are_the_hosts_to_tell(module, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(preloaded, "_FIRST", (module("raise OSError('no such library')", "broken_library"),))
    before = dict(os.environ)
    assert preloaded._load(2) == "they could not be loaded ahead; OSError: no such library"
    assert dict(os.environ) == before


@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize("value", [None, "0"])
def test_loading_leaves_the_environment_as_it_is(module, monkeypatch, tmp_path, value, gpus):
    """Meanwhile PyTorch is told to ask for CUDA without starting it; a library that is not installed is left out."""
    monkeypatch.syspath_prepend(tmp_path)
    variables = ("PYTORCH_NVML_BASED_CUDA_CHECK", "CUDA_VISIBLE_DEVICES")
    for variable in variables:
        monkeypatch.delenv(variable, raising=False)
        if value:
            monkeypatch.setenv(variable, value)
    code = f"import os; asked = [os.environ.get(name) for name in {variables}]"
    library = module(code, f"asking_library_{value}_{gpus}")
    for names, libraries in (("_FIRST", ()), ("_AT_HOME", ()), ("_WITH_MODELS", ())):
        monkeypatch.setattr(preloaded, names, libraries)
    monkeypatch.setattr(preloaded, "_FURTHER", ("no_such_library", library))
    monkeypatch.setattr(preloaded, "_count_gpus", lambda: gpus)
    monkeypatch.setattr(preloaded.gc, "freeze", lambda: None)
    before = dict(os.environ)
    preloaded._load(2)
    assert dict(os.environ) == before
    assert sys.modules[library].asked == ["1", value if gpus else ""]


@pytest.mark.parametrize("home", [None, "no such folder", "a file", "."])
def test_what_writes_into_the_home_is_loaded_where_there_is_one(module, monkeypatch, tmp_path, home):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a file").touch()
    monkeypatch.delenv("HOME", raising=False)
    if home:
        monkeypatch.setenv("HOME", str(tmp_path / home))
    library = module("", f"home_library_{home == '.'}_{len(home or '')}")
    for names, libraries in (("_FIRST", ()), ("_FURTHER", ()), ("_WITH_MODELS", ()), ("_AT_HOME", (library,))):
        monkeypatch.setattr(preloaded, names, libraries)
    monkeypatch.setattr(preloaded.gc, "freeze", lambda: None)
    preloaded._load(2)
    assert (library in sys.modules) == (home == ".")


#: Says what a task's process still has to load of other packages when it loads the host.
STILL_LOADS = """
import json, random, sys, threading
before = set(sys.modules)
import numpy as np, torch
drawn = [random.random(), np.random.random(), torch.initial_seed()]
import llamafactory.train.tuner, sefe_plugin.hosts.llamafactory.task, sefe_plugin.hosts.llamafactory.scoring
import peft.tuners.lora.bnb, deepspeed
own = ("llamafactory", "sefe_plugin")
print(json.dumps({
    "host": [name for name in before if name.split(".")[0] == "llamafactory"],
    "others": sorted(name for name in sys.modules if name not in before and name.split(".")[0] not in own),
    "drawn": drawn, "cuda": torch.cuda.is_initialized(), "threads": threading.active_count(),
}))
"""


def test_the_libraries_of_the_host_are_loaded_and_nothing_of_the_host(module, monkeypatch, tmp_path, environment):
    """All but a few small modules of a training; the patches are the fork's own.

    No variable says that there is no GPU, which PyTorch finds out by starting CUDA where there is no driver.
    """
    for name, value in environment.items():
        if name != "PYTHONPATH":
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(launcher, "_host_module", lambda command: command[3:])
    monkeypatch.setattr(launcher, "spawn", None)
    logs = [tmp_path / name for name in ("first", "second")]
    with Launcher(pytest.fail) as found:
        for log in logs:
            assert call(started(module(STILL_LOADS)), log, (), False, found.start) == 0, log.read_text()
    told = [json.loads(said(log)[-1]) for log in logs]
    drawn = [told_one.pop("drawn") for told_one in told]
    assert not set(drawn[0]) & set(drawn[1]), "forks draw the same random numbers"
    others = [told_one.pop("others") for told_one in told]
    assert others[0] == others[1]
    assert len(others[0]) < 40, others[0]
    assert told == [{"host": [], "cuda": False, "threads": 1}] * 2


#: `llamafactory-cli`, in which no process of the host is started plainly.
FORKS_ONLY = """
import sys
from sefe_plugin.hosts.llamafactory import launcher
launcher.spawn = None
from llamafactory.cli import main
main()
"""


def test_a_sequence_of_forks_gives_what_one_of_processes_gives(environment, finished, recipe, tmp_path):
    """Trial and tasks, each a fork: all that does not hold a time or a path is equal byte by byte."""
    plain, _ = finished
    command = [sys.executable, "-P", "-c", FORKS_ONLY, "train", str(recipe), f"output_dir={tmp_path / 'run'}"]
    variables = environment | {"HF_HOME": str(tmp_path / "hf")}  # the trial has not passed there before
    result = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=900)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert result.stderr == ""
    names = [file.relative_to(plain) for file in plain.rglob("*") if file.is_file()]
    assert names == [name for name in names if (tmp_path / "run" / name).is_file()]
    kinds = ("adapter_model.safetensors", "key_elements.safetensors", "model.safetensors", "scores.json", "asd.jsonl")
    same = [name for name in names if name.name in kinds or name.parent.name == "predictions"]
    assert len(same) == 2 * len(kinds) + 3
    assert without_times(plain / "report.json") == without_times(tmp_path / "run" / "report.json")
    assert [str(name) for name in same if (plain / name).read_bytes() != (tmp_path / "run" / name).read_bytes()] == []
