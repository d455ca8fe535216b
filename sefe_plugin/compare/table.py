"""Many runs of mini-CoIN, arms x seeds x orders, each a sequence of its own; resumable."""

import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import filelock
from safetensors.torch import load_file
from torch import Tensor

from sefe_plugin.compare.arms import Arm
from sefe_plugin.compare.comparison import VALUES, compare, run_values
from sefe_plugin.evaluation.report import REPORT_FILE, load_report
from sefe_plugin.files import ADAPTER_WEIGHTS_FILE, file_digest, read_json, shipped_folder, write_json
from sefe_plugin.run.folder import RunFolder


#: The finished runs of a folder, each with what it was made of and the versions it was made with.
RUNS_FILE = "runs.json"

_PACKAGES = ("sefe-plugin", "llamafactory", "torch", "transformers", "peft")


class Run(NamedTuple):
    """One run of the table."""

    arm: str
    order: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.arm}_{self.order}_{self.seed}"


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        arms: name -> arm.
        seeds: seeds of data and training.
        orders: named orders of the tasks.
        out: the folder of all runs.
        settings: `key=value` of the recipe, the same for every run.
    """

    arms: Mapping[str, Arm]
    seeds: Sequence[int]
    orders: Sequence[str]
    out: Path
    settings: Sequence[str] = ()

    def runs(self) -> list[Run]:
        """All runs; one seed after the other, so that a stopped table holds whole comparisons."""
        return [Run(arm, order, seed) for order in self.orders for seed in self.seeds for arm in self.arms]

    def arguments(self, run: Run) -> list[str]:
        """Return the recipe of a run and what overrides its keys, as `llamafactory-cli train` takes them."""
        arm = self.arms[run.arm]
        own = [f"{key}={value}" for key, value in arm.overrides.items()]
        place = [f"task_order={run.order}", f"seed={run.seed}", f"output_dir={self.out / run.name}"]
        return [str(shipped_folder("recipes") / arm.recipe), *own, *self.settings, *place]

    def record(self, run: Run) -> dict:
        """Return what a run is made of; a run with another record is not this one."""
        recipe, *overrides = self.arguments(run)
        return {
            "recipe_sha256": file_digest(Path(recipe)),
            "overrides": [override for override in overrides if not override.startswith("output_dir=")],
        }


def run_all(plan: Plan, command: Sequence[str], jobs: int, say: Callable[[str], None]) -> None:
    """Make every run of `plan` that is not finished; one that was stopped continues where it was.

    What a run prints goes to ``logs/<run>.log``. If one fails, the others are made nevertheless. An exception in the
    main thread, such as KeyboardInterrupt, ends the runs at work too.

    Args:
        plan: what to run.
        command: the command line that trains a sequence, to which the recipe and its overrides are added.
        jobs: runs at a time; with more than one, each process computes with one thread.
        say: given one line for every finished run.

    Raises:
        ValueError: if another process works in `plan.out`, or with all runs that failed.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(plan.out / ".lock", timeout=0):
            failed = _run_unfinished(plan, command, jobs, say)
    except filelock.Timeout:
        raise ValueError(f"{plan.out} is in use by another table. Wait for it or choose another `--out`.") from None
    if failed:
        head = f"{len(failed)} of {len(plan.runs())} runs failed; the same command tries them again."
        raise ValueError("\n".join([head, *failed]))


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
        None where a task left no adapter but a model.
    """
    if not all((folder / ADAPTER_WEIGHTS_FILE).is_file() for folder in folders):
        return None
    total, count, before = 0.0, 0, _weight_changes(folders[0])
    for folder in folders[1:]:
        changes = _weight_changes(folder)
        for name, change in changes.items():
            own = change - before[name] if continued else change
            total, count = total + own.abs().sum().item(), count + own.numel()
        before = changes
    return total / count


def _weight_changes(adapter: Path) -> dict[str, Tensor]:
    """B A of every matrix that an adapter changes."""
    weights = load_file(adapter / ADAPTER_WEIGHTS_FILE)
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


def _run_unfinished(plan: Plan, command: Sequence[str], jobs: int, say: Callable[[str], None]) -> list[str]:
    """Make the unfinished runs and return a line for each that failed."""
    runs = plan.runs()
    finished = read_json(plan.out / RUNS_FILE) if (plan.out / RUNS_FILE).is_file() else {}
    todo = [
        run
        for run in runs
        if not plan.record(run).items() <= finished.get(run.name, {}).items()
        or not (plan.out / run.name / REPORT_FILE).is_file()
    ]
    if len(todo) < len(runs):
        say(f"{len(runs) - len(todo)} of {len(runs)} runs are finished already.")
    (plan.out / "logs").mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} if jobs > 1 else None
    done, failed, lock = len(runs) - len(todo), [], threading.Lock()
    started: list[subprocess.Popen] = []
    stopped = False

    def make(run: Run) -> None:
        nonlocal done
        log = plan.out / "logs" / f"{run.name}.log"
        with log.open("a", encoding="utf-8") as output:
            with lock:
                if stopped:
                    return
                process = subprocess.Popen(
                    [*command, *plan.arguments(run)], stdout=output, stderr=output, env=environment
                )
                started.append(process)
            status = process.wait()
        whole = status == 0 and (plan.out / run.name / REPORT_FILE).is_file()
        with lock:
            if whole:
                finished[run.name] = plan.record(run) | {"versions": {name: version(name) for name in _PACKAGES}}
                write_json(plan.out / RUNS_FILE, finished)
                done += 1
                say(f"[{done}/{len(runs)}] {_line(plan, run)}")
            elif not stopped:
                failed.append(f"{run.name} failed with exit status {status}; what it said is in {log}.")
                say(failed[-1])

    pool = ThreadPoolExecutor(jobs)
    try:
        for _ in pool.map(make, todo):
            pass
    finally:
        with lock:
            stopped = True
            for process in started:
                process.terminate()
        pool.shutdown(cancel_futures=True)
    return failed


def _line(plan: Plan, run: Run) -> str:
    """Return what a finished run is worth, in one line."""
    values = run_values(_load(plan.out / run.name))
    shown = "  ".join(f"{VALUES[key]} {values[key]:.1f}" for key in ("mft", "mfn", "maa", "bwt", "format"))
    seconds = sum(task["seconds"] for task in RunFolder(plan.out / run.name).read_manifest()["complete"])
    return f"{run.arm}, order {run.order}, seed {run.seed}: {shown} | {seconds:.0f} s"
