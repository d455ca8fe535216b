"""Many runs, arms x seeds x orders, each a sequence of its own; resumable."""

import hashlib
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import filelock
import yaml
from safetensors.torch import load_file
from torch import Tensor

from sefe_plugin.compare.arms import Arm
from sefe_plugin.compare.comparison import RESULTS, compare, results
from sefe_plugin.compare.kept import result_file, test_sets
from sefe_plugin.evaluation.report import REPORT_FILE, load_report
from sefe_plugin.files import ADAPTER_WEIGHTS_FILE, file_digest, read_json, write_json
from sefe_plugin.recipe.include import include_chain
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.inputs import changes
from sefe_plugin.run.sharing import SHARED_RUNS
from sefe_plugin.run.verify import input_changes
from sefe_plugin.versions import installed_versions


#: The finished runs of a folder, each with what it was made of and the versions it was made with.
RUNS_FILE = "runs.json"


class Run(NamedTuple):
    """One run of the table; `order` is None where the recipe decides the order of its tasks."""

    arm: str
    order: str | None
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return "_".join(map(str, (part for part in self if part is not None)))

    def __str__(self) -> str:
        """Return the run as a line names it."""
        order = "" if self.order is None else f", order {self.order}"
        return f"{self.arm}{order}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        arms: name -> arm.
        seeds: seeds of data and training.
        orders: named orders of the tasks; [None] leaves the order to each recipe.
        out: the folder of all runs.
        settings: `key=value` of the recipe, the same for every run.
        is_sharing: whether runs take tasks from others that have trained the very same.
    """

    arms: Mapping[str, Arm]
    seeds: Sequence[int]
    orders: Sequence[str | None]
    out: Path
    settings: Sequence[str] = ()
    is_sharing: bool = False

    def runs(self) -> list[Run]:
        """All runs; one seed after the other, so that a stopped table holds whole comparisons."""
        return [Run(arm, order, seed) for order in self.orders for seed in self.seeds for arm in self.arms]

    def arguments(self, run: Run) -> list[str]:
        """Return the recipe of a run and what overrides its keys, as `llamafactory-cli train` takes them."""
        arm = self.arms[run.arm]
        own = [f"{key}={value}" for key, value in arm.overrides.items()]
        order = [] if run.order is None else [f"task_order={run.order}"]
        place = [*order, f"seed={run.seed}", f"output_dir={self.out / run.name}"]
        return [str(arm.recipe), *own, *self.settings, *place]

    def record(self, run: Run) -> dict:
        """Return what a run is made of; a run with another record is not this one."""
        recipe, *overrides = self.arguments(run)
        return {
            "recipe_sha256": _recipe_digest(Path(recipe)),
            "overrides": [override for override in overrides if not override.startswith("output_dir=")],
        }


def _recipe_digest(recipe: Path) -> str:
    """Return the digest of a recipe's file; where it includes others, that of all their digests."""
    chain = include_chain(recipe, lambda file: yaml.safe_load(file.read_text(encoding="utf-8")))
    digests = [file_digest(file) for file, _ in chain]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def run_all(
    plan: Plan, command: Sequence[str], jobs: int, say: Callable[[str], None], devices: Sequence[str] = ()
) -> None:
    """Make every run of `plan` that is not finished; one that was stopped continues where it was.

    What a run prints goes to ``logs/<run>.log``. If one fails, the others are made nevertheless. An exception in the
    main thread, such as KeyboardInterrupt, ends the runs at work too.

    Args:
        plan: what to run.
        command: the command line that trains a sequence, to which the recipe and its overrides are added.
        jobs: runs at a time; with more than one, each process computes with one thread. Not used with `devices`.
        say: given one line for every finished run, and for each whose recipe has changed since.
        devices: what CUDA_VISIBLE_DEVICES is for the runs that are made at a time, one after the other on each.

    Raises:
        ValueError: if another process works in `plan.out`; if the data, base or another file that finished runs were
            made of has changed; with all runs that failed; or if runs of one seed were scored on different test sets.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(plan.out / ".lock", timeout=0):
            failed = _run_unfinished(plan, command, _environments(jobs, devices), say)
    except filelock.Timeout:
        raise ValueError(f"{plan.out} is in use by another table. Wait for it or choose another `--out`.") from None
    if failed:
        head = f"{len(failed)} of {len(plan.runs())} runs failed; the same command tries them again."
        raise ValueError("\n".join([head, *failed]))
    if differing := _differing_test_sets(plan):
        head = (
            "Runs that are scored on different test sets cannot be compared. Remove some, and start the command again."
        )
        raise ValueError("\n".join([head, *differing]))


def _differing_test_sets(plan: Plan) -> list[str]:
    """List the test sets that are not the same in all runs of a seed, as far as the runs have recorded them.

    A benchmark may draw them from the seed.
    """
    found, first = [], {}
    for run in plan.runs():
        for name, record in test_sets(plan.out, run.name).items():
            other, scored_on = first.setdefault((run.seed, name), (run, record))
            found += [f"{run.name} after {other.name}: {line}" for line in changes({name: scored_on}, {name: record})]
    return list(dict.fromkeys(found))


def _environments(jobs: int, devices: Sequence[str]) -> list[dict[str, str]]:
    """Return the variables of each of the runs that are made at a time."""
    if devices:
        return [{"CUDA_VISIBLE_DEVICES": device} for device in devices]
    return [{"OMP_NUM_THREADS": "1"} if jobs > 1 else {}] * jobs


def compare_runs(plan: Plan, against: str | None = None) -> dict[str, dict]:
    """Return for each order what `comparison.compare` says of the finished runs."""
    return {
        order: compare(
            {arm: {seed: _load(plan.out / Run(arm, order, seed).name) for seed in plan.seeds} for arm in plan.arms},
            against,
        )
        for order in plan.orders
    }


def versions_of(plan: Plan) -> list[dict[str, str]]:
    """Return the versions that the finished runs were made with, each combination once."""
    finished = read_json(plan.out / RUNS_FILE)
    found = [finished[run.name]["versions"] for run in plan.runs()]
    return [versions for index, versions in enumerate(found) if versions not in found[:index]]


def mean_update(folders: Sequence[Path], continued: bool = False) -> float | None:
    """Return the mean of |B A| over all elements of all matrices that LoRA adapters change, from the second task on.

    The first task has no penalty in any arm.

    Args:
        folders: Those of the tasks of a run.
        continued: Whether one adapter goes on from task to task: what a task changed is then B A less that of before.

    Returns:
        None where a task left no adapter but a model, or one that holds more than A and B: a router, say, or whole
        modules.
    """
    if not all((folder / ADAPTER_WEIGHTS_FILE).is_file() for folder in folders):
        return None
    total, count, before = 0.0, 0, {}
    for index, folder in enumerate(folders):
        now = _weight_changes(folder)
        if now is None:
            return None
        for name, change in now.items() if index else ():
            own = change - before[name] if continued else change
            total, count = total + own.abs().sum().item(), count + own.numel()
        before = now
    return total / count if count else None


def _weight_changes(adapter: Path) -> dict[str, Tensor] | None:
    """B A of every matrix that an adapter changes; None where that is not all that it changes."""
    weights = load_file(adapter / ADAPTER_WEIGHTS_FILE)
    if not all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in weights):
        return None
    return {
        name: weights[name.replace("lora_A", "lora_B")] @ factor
        for name, factor in weights.items()
        if name.endswith("lora_A.weight")
    }


def _load(run: Path) -> dict:
    """Return a run's report, and the mean update of its tasks."""
    report, folder = load_report(run), RunFolder(run)
    folders = [folder.task_folder(index, name) for index, name in enumerate(report["tasks"])]
    continued = folder.read_manifest()["recipe"]["carry"] == "continue"
    return {**report, "update": mean_update(folders, continued)}


def _run_unfinished(
    plan: Plan, command: Sequence[str], environments: Sequence[Mapping[str, str]], say: Callable[[str], None]
) -> list[str]:
    """Make the unfinished runs, one at a time in each environment, and return a line for each that failed."""
    finished = read_json(plan.out / RUNS_FILE) if (plan.out / RUNS_FILE).is_file() else {}
    todo = _unfinished(plan, finished, say)
    (plan.out / "logs").mkdir(exist_ok=True)
    free: queue.SimpleQueue = queue.SimpleQueue()
    for environment in environments:
        free.put(environment)
    work = _Work(plan, command, todo, finished, say)

    def make(run: Run) -> None:
        environment = free.get()
        try:
            work.make(run, environment)
        finally:
            free.put(environment)

    pool = ThreadPoolExecutor(len(environments))
    try:
        for _ in pool.map(make, todo):
            pass
    finally:
        work.stop()
        pool.shutdown(cancel_futures=True)
    return work.failed


def _unfinished(plan: Plan, finished: Mapping[str, dict], say: Callable[[str], None]) -> list[Run]:
    """Return the runs to make, and say what becomes of the others.

    Raises:
        ValueError: If finished runs were made of data, a base or other files that have changed since.
    """
    runs = plan.runs()
    todo = [
        run
        for run in runs
        if not plan.record(run).items() <= finished.get(run.name, {}).items()
        or not (_is_there(plan, run) or result_file(plan.out, run.name).is_file())
    ]
    if len(todo) < len(runs):
        say(f"{len(runs) - len(todo)} of {len(runs)} runs are finished already.")
    there = [run for run in runs if run not in todo and _is_there(plan, run)]
    changed = [f"{run.name}: {line}" for run in there for line in input_changes(plan.out / run.name)]
    if changed:
        head = (
            "Finished runs were made of something else than is there now. Put it back, choose another `--out`, or "
            "remove the folders of these runs and their files in `results`; they are then made anew:"
        )
        raise ValueError("\n".join([head, *changed]))
    for run in todo:
        if run.name in finished and not plan.record(run).items() <= finished[run.name].items():
            say(
                f"{run.name} is finished, but its recipe or keys have changed since. It is started again, and refused "
                f"where that changes what it learned: then remove {plan.out / run.name}, or choose another `--out`."
            )
    return todo


def _is_there(plan: Plan, run: Run) -> bool:
    """Tell whether a run's own folder holds its report; of one made elsewhere there may be its result alone."""
    return (plan.out / run.name / REPORT_FILE).is_file()


class _Work:
    """The making of runs, from several threads.

    Args:
        plan: What to run.
        command: The command line that trains a sequence.
        todo: The runs to make.
        finished: The records of finished runs; kept up to date here and in `RUNS_FILE`.
        say: Given one line for every run that ends.

    Attributes:
        failed: One line for every run that failed.
    """

    def __init__(
        self,
        plan: Plan,
        command: Sequence[str],
        todo: Sequence[Run],
        finished: dict[str, dict],
        say: Callable[[str], None],
    ):
        self._plan, self._command, self._finished, self._say = plan, command, finished, say
        self._records = {run: plan.record(run) for run in todo}  # before they start: a recipe may be edited meanwhile
        self._versions = installed_versions()
        self._sharing = {SHARED_RUNS: str(plan.out)} if plan.is_sharing else {}
        self._count = len(plan.runs())
        self._done = self._count - len(todo)
        self._lock = threading.Lock()
        self._started: list[subprocess.Popen] = []
        self._stopped = False
        self.failed: list[str] = []

    def make(self, run: Run, environment: Mapping[str, str]) -> None:
        """Make one run, unless all is stopped, and record it."""
        folder = self._plan.out / run.name
        tasks_before = _complete_tasks(folder)
        log = self._plan.out / "logs" / f"{run.name}.log"
        with log.open("a", encoding="utf-8") as output:
            with self._lock:
                if self._stopped:
                    return
                known = self._finished.pop(run.name, None)
                write_json(self._plan.out / RUNS_FILE, self._finished)
                process = subprocess.Popen(
                    [*self._command, *self._plan.arguments(run)],
                    stdout=output,
                    stderr=output,
                    env={**_without_sharing(os.environ), **environment, **self._sharing},
                )
                self._started.append(process)
            status = process.wait()
        whole = status == 0 and (folder / REPORT_FILE).is_file()
        untouched = known is not None and _complete_tasks(folder) == tasks_before
        with self._lock:
            if whole:
                self._finished[run.name] = self._records[run] | {
                    "versions": known["versions"] if untouched else self._versions
                }
            elif untouched:
                self._finished[run.name] = known  # refused: what lies there is what it was
            write_json(self._plan.out / RUNS_FILE, self._finished)
            if whole:
                self._done += 1
                self._say(f"[{self._done}/{self._count}] {_line(self._plan, run)}")
            elif not self._stopped:
                self.failed.append(f"{run.name} failed with exit status {status}; what it said is in {log}.")
                self._say(self.failed[-1])

    def stop(self) -> None:
        """End the runs at work, and make no other."""
        with self._lock:
            self._stopped = True
            for process in self._started:
                process.terminate()


def _without_sharing(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name != SHARED_RUNS}


def _complete_tasks(run: Path) -> list[dict]:
    """Return the records of a run's complete tasks; they differ when one is trained again."""
    try:
        manifest = RunFolder(run).read_manifest()
    except RunFolderError:
        return []  # the run itself refuses it, and says why
    return manifest["complete"] if manifest else []


def _line(plan: Plan, run: Run) -> str:
    """Return what a finished run is worth, in one line."""
    values = results(load_report(plan.out / run.name))
    shown = "  ".join(f"{RESULTS[key]} {_number(values[key])}" for key in ("mft", "mfn", "maa", "bwt", "format"))
    seconds = sum(task["seconds"] for task in RunFolder(plan.out / run.name).read_manifest()["complete"])
    return f"{run}: {shown} | {seconds:.0f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
