"""The long form, with LLaMA-Factory: three tasks of mini-CoIN, ended at random moments until they are finished."""

import os
import random
import resource
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import yaml
from faults import Disturbed, results, starter
from warm import Forked, load_host, run_sequence

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.data import TASKS, write_data


pytestmark = pytest.mark.faults

KINDS = ("all", "all", "sequence", "task", "SIGTERM", "SIGINT")


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SEFE_")}
    return kept | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    write_data(folder / "data", seed=1000, train_size=32, test_size=8)
    keys = {
        "model_name_or_path": str(BASE),
        "template": "llava",
        "default_system": "",
        "lora_rank": 4,
        "lora_target": "all",
        "cl_method": "reglora",
        "reglora_weight": 100.0,
        "asd_ratio": 0.2,
        "dataset_dir": str(folder / "data"),
        "output_dir": "run",
        "preprocessing_num_workers": 1,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "report_to": "none",
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "learning_rate": 2e-3,
        "num_train_epochs": 1,
        "per_device_eval_batch_size": 8,
        "max_new_tokens": 6,
        "tasks": [
            {
                "name": task.name,
                "dataset": f"minicoin_{task.name.lower()}_train",
                "test_dataset": f"minicoin_{task.name.lower()}_test",
                "scorer": task.scorer,
            }
            for task in TASKS[:3]
        ],
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(keys))
    return file


@pytest.fixture(scope="module")
def command(recipe):
    """Makes the command line of a sequence in a folder."""

    def make(run: Path) -> list[str]:
        return [f"{sysconfig.get_paths()['scripts']}/llamafactory-cli", "train", str(recipe), f"output_dir={run}"]

    return make


@pytest.fixture(scope="module")
def undisturbed(command, environment, tmp_path_factory) -> dict[str, str]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = subprocess.run(command(run), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return results(run)


@pytest.mark.parametrize(("way", "least"), [("forks", 50), ("command", 5)])
def test_kills_change_no_result(recipe, command, environment, undisturbed, tmp_path, monkeypatch, way, least):
    """Fifty kills of forks of a loaded host, which cost no start, and some of the command itself."""
    rng = random.Random(20)
    if way == "forks":
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        load_host()
    moments: Counter[tuple[str, str]] = Counter()
    runs = 0
    while moments.total() < least:
        folder = tmp_path / str(runs)
        (folder / "run").mkdir(parents=True)
        if way == "forks":
            work = partial(run_sequence, command(folder / "run")[2:])
            start = partial(Forked, work, folder / "said")
        else:
            start = starter(command(folder / "run"), folder / "said", environment)
        run = Disturbed(start, folder / "run", folder / "said", rng)
        for _ in range(rng.randrange(6, 12)):
            kind, before = rng.choice(KINDS), run.moments.copy()
            if not run.end_somewhere(kind, most_events=40, most_seconds=0.5):
                break
            (where,) = run.moments - before
            moments[where, kind] += 1
            print(f"{moments.total()}: {kind} in {where}", flush=True)
        assert run.finish(900) == 0, run.log.read_text()[-3000:]
        assert results(run.run) == undisturbed
        runs += 1
        print(f"run {runs}: {run.moments.total()} kills, results equal", flush=True)
    print(f"{moments.total()} kills in {runs} runs, every result equal byte by byte:")
    for where in sorted({where for where, _ in moments}):
        kinds = ", ".join(f"{count} {kind}" for (at, kind), count in sorted(moments.items()) if at == where)
        print(f"  {where}: {sum(count for (at, _), count in moments.items() if at == where)} ({kinds})")


@pytest.fixture
def sequence(command, environment, tmp_path, monkeypatch):
    """Runs a sequence in forks to its end; returns the exit status and what was said."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    load_host()

    def run(folder: Path) -> tuple[int, str]:
        log = tmp_path / "said"
        log.unlink(missing_ok=True)
        return Forked(partial(run_sequence, command(folder)[2:]), log).wait(), log.read_text()

    return run


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes that can be made larger; only root may make one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True)
    if made.returncode != 0:
        pytest.skip("mounting a small file system needs root")

    def change(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)

    yield place, change
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_costs_nothing(sequence, undisturbed, small_disk):
    place, change = small_disk
    run = place / "run"
    for megabytes in (3, 6, 9, 12, 16, 24, 30):
        change(f"size={megabytes}m")
        status, said = sequence(run)
        last = said.rstrip().splitlines()[-1]
        assert status == 1, megabytes
        assert "MB are left on its disk" in last or "No space left on device" in last, last
        assert "the same command continues" in last, last
        print(f"disk of {megabytes} MB: {last[:200]}", flush=True)
    change("size=2g")
    status, said = sequence(run)
    assert status == 0, said[-3000:]
    assert results(run) == undisturbed


def test_a_folder_that_becomes_read_only_is_told(command, environment, undisturbed, small_disk):
    place, change = small_disk
    change("size=2g")
    run = place / "run"
    process = subprocess.Popen(
        command(run), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    while not (run / "1_ScienceQA" / "checkpoint-1").is_dir():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    process.communicate()
    change("ro")
    done = subprocess.run(command(run), capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Read-only file system" in done.stderr
    change("rw")
    assert subprocess.run(command(run), capture_output=True, env=environment).returncode == 0
    assert results(run) == undisturbed


def test_a_lack_of_memory_is_told_and_costs_nothing(command, environment, undisturbed, tmp_path):
    run = tmp_path / "run"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2_500_000_000, resource.RLIM_INFINITY))

    done = subprocess.run(command(run), capture_output=True, text=True, env=environment, preexec_fn=limit)
    assert done.returncode == 1, done.stdout[-2000:]
    last = done.stderr.rstrip().splitlines()[-1]
    assert "the same command continues" in last
    print(last[:200], file=sys.stderr)
    assert subprocess.run(command(run), capture_output=True, env=environment).returncode == 0
    assert results(run) == undisturbed
