"""How the threads of a training on a CPU wait for each other, and what that costs.

    python tests/benchmarks/bench_threads.py --json FILE
    python tests/benchmarks/bench_threads.py --recipe recipes/styles_lora.yaml --steps 6 --alone --json FILE \
        model_name_or_path=models/SmolLM2-135M-Instruct

Every way trains the first task of a recipe for a few steps by one `llamafactory-cli train`: as many threads as there
are cores, which stay awake for some rounds (GOMP_SPINCOUNT) before they sleep, and one thread. Then again beside one
program that is busy all the time. The machine must do nothing else. Further `key=value` change the recipe.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench_sequence import sequence_keys, timed

from sefe_plugin.evaluation.report_text import markdown_table
from sefe_plugin.files import ADAPTER_WEIGHTS_FILE
from sefe_plugin.run.costs import read_cost
from sefe_plugin.versions import installed_versions


#: A way of waiting, as the table says it -> the environment that gives it.
WAYS = {
    "asleep at once": {"GOMP_SPINCOUNT": "0"},
    "awake for 1,000 rounds": {"GOMP_SPINCOUNT": "1000"},
    "awake for 10,000 rounds": {"GOMP_SPINCOUNT": "10000"},
    "awake for 50,000 rounds": {"GOMP_SPINCOUNT": "50000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


@contextmanager
def busy(is_wanted: bool) -> Iterator[None]:
    """Keep a core at work while the context lasts, or do nothing."""
    if not is_wanted:
        yield
        return
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def step_seconds(keys: Mapping[str, Any], folder: Path, way: Mapping[str, str]) -> tuple[float, str]:
    """Train the one task of a recipe in a new folder; return the seconds of a step, and the digest of its weights."""
    given = {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "PASSIVE", **way}
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", **given}
    timed({**keys, "output_dir": str(folder / "run")}, folder / "sequence.yaml", environment)
    place = folder / "run" / f"1_{keys['tasks'][0]['name']}"
    return read_cost(place).step_seconds, hashlib.sha256((place / ADAPTER_WEIGHTS_FILE).read_bytes()).hexdigest()


def measure(recipe: Path, steps: int, rounds: int, alone: bool, overrides: Sequence[str], folder: Path) -> dict:
    """Return, for each way, the seconds of a step in every round, alone and beside a busy program; and the weights."""
    few = [f"max_steps={steps}", "max_test_samples=2", "plot_loss=false"]
    keys = sequence_keys(recipe, 1, [*few, *overrides], folder)
    seconds: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    weights: dict[str, set[str]] = {"several threads": set(), "one thread": set()}
    for place in ("alone",) if alone else ("alone", "beside"):
        for _ in range(rounds):
            for way, environment in WAYS.items():
                with tempfile.TemporaryDirectory(dir=folder) as run, busy(place == "beside"):
                    taken, digest = step_seconds(keys, Path(run), environment)
                seconds[way].setdefault(place, []).append(round(taken, 4))
                weights["one thread" if way == "one thread" else "several threads"].add(digest)
                print(place, way, taken, flush=True)
    return {
        "recipe": recipe.name,
        "overrides": list(overrides),
        "steps": steps,
        "cores": os.cpu_count(),
        "seconds": seconds,
        "different_weights": {threads: len(found) for threads, found in weights.items()},
        "versions": installed_versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


def as_text(figures: Mapping[str, Any]) -> str:
    """Write the seconds of a step as a Markdown table."""
    places = list(figures["seconds"]["one thread"])
    rows = [
        [way, *(" ".join(f"{value:.3f}" for value in found[place]) for place in places)]
        for way, found in figures["seconds"].items()
    ]
    return markdown_table(["threads", *places], rows)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/minicoin_lora.yaml"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2, help="in which all ways take turns")
    parser.add_argument("--alone", action="store_true", help="not beside a busy program, too")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(
            options.recipe, options.steps, options.rounds, options.alone, options.overrides, Path(folder)
        )
    options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(as_text(figures))


if __name__ == "__main__":
    main()
