"""A small sequence recipe, and plain `llamafactory-cli train` to run it."""

import gc
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from warm_python import warm_environment

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.data import TASKS, write_data


def train_in(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess]:
    """Return what runs a recipe to its end in an environment, by the `llamafactory-cli` that is found there."""

    def run(recipe: Path, *overrides: str, **variables: str) -> subprocess.CompletedProcess:
        command = [shutil.which("llamafactory-cli", path=environment["PATH"]), "train", str(recipe), *overrides]
        return subprocess.run(command, capture_output=True, text=True, env=environment | variables, timeout=900)

    return run


@pytest.fixture(scope="session")
def train_cold(environment):
    """As `train`, by the command as it is installed."""
    return train_in(environment)


@pytest.fixture(scope="session")
def train(warm):
    """Runs a recipe to its end and returns the finished process; keyword arguments are environment variables."""
    return train_in(warm)


@pytest.fixture(scope="session")
def train_with(environment):
    """Gives `train` for an environment that differs while the host is loaded."""
    with ExitStack() as servers:
        yield lambda **variables: train_in(servers.enter_context(warm_environment(environment | variables)))


@pytest.fixture(scope="session")
def small_recipe():
    """Writes data and a recipe of the first tasks of mini-CoIN with few samples into a folder; returns its path."""

    def write(folder: Path, num_tasks: int, **changes) -> Path:
        write_data(folder / "data", seed=1000, train_size=64, test_size=16)
        keys = {
            "model_name_or_path": str(BASE),
            "template": "llava",
            "default_system": "",
            "finetuning_type": "lora",
            "lora_rank": 4,
            "lora_target": "all",
            "cl_method": "reglora",
            "asd_ratio": 0.2,
            "dataset_dir": str(folder / "data"),
            "cutoff_len": 256,
            "preprocessing_num_workers": 1,
            "output_dir": str(folder / "run"),
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "seed": 7,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 2,
            "learning_rate": 2e-3,
            "num_train_epochs": 2,
            "disable_gradient_checkpointing": True,
            "per_device_eval_batch_size": 16,
            "max_new_tokens": 12,
            "tasks": [
                {
                    "name": task.name,
                    "dataset": f"minicoin_{task.name.lower()}_train",
                    "test_dataset": f"minicoin_{task.name.lower()}_test",
                    "scorer": task.scorer,
                }
                for task in TASKS[:num_tasks]
            ],
            **changes,
        }
        if keys["cl_method"] == "reglora":
            keys = {"reglora_weight": 100.0, **keys}
        if keys["cl_method"] in ("full", "lota"):
            keys = {key: value for key, value in keys.items() if not key.startswith(("lora_", "finetuning_type"))}
        file = folder / "recipe.yaml"
        file.write_text(yaml.safe_dump(keys))
        return file

    return write


@pytest.fixture(scope="session")
def recipe(tmp_path_factory, small_recipe) -> Path:
    """The small recipe of two tasks."""
    return small_recipe(tmp_path_factory.mktemp("sequence"), 2)


@pytest.fixture(scope="session")
def finished(train, recipe) -> tuple[Path, str]:
    """The run folder of one undisturbed run of `recipe` for all tests, and what it said."""
    result = train(recipe)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return recipe.parent / "run", result.stdout


@pytest.fixture(scope="session")
def try_here():
    """The trial of a sequence in this process, which has the host loaded."""

    def trial(recipe, tasks) -> dict:
        from sefe_plugin.hosts.llamafactory.trial import try_sequence

        return try_sequence(recipe, tasks, here=True, bar=sys.stderr)

    return trial


@pytest.fixture(scope="session")
def loaded_host():
    """The host, loaded in this process; the collector, which each of its trainings calls, looks through it no more."""
    import llamafactory.train.tuner  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture
def train_here(monkeypatch, loaded_host, blank_pictures):
    """Runs a recipe as `llamafactory-cli train` does, but without its trial, and with every task in this process.

    Returns the report without its times; what the tasks were asked to do is in `train_here.commands`, as (verb, file).
    """
    import sefe_plugin.run.job
    from sefe_plugin.hosts.llamafactory.host import LlamaFactory, read_recipe
    from sefe_plugin.hosts.llamafactory.keys import host_keys
    from sefe_plugin.recipe.load import load_recipe
    from sefe_plugin.run.runner import run_sequence

    def call(command, *rest) -> int:
        from llamafactory.train.tuner import export_model, run_exp

        verb, file = command[-2:]
        run.commands.append((verb, Path(file)))
        try:
            {"train": run_exp, "export": export_model}[verb](yaml.safe_load(Path(file).read_text()))
        except Exception:
            traceback.print_exc()
            return 1
        return 0

    monkeypatch.setattr(sefe_plugin.run.job, "call", call)

    def run(recipe: Path, *overrides: str) -> dict:
        run.commands = []
        loaded = load_recipe(read_recipe(recipe, list(overrides)), str(recipe), host_keys())
        report = run_sequence(loaded, LlamaFactory(), host_keys(), print)
        return {key: value for key, value in report.items() if key != "ledger"}

    return run
