"""Time a step of every method in the last task of finished mini-CoIN runs, where it holds seven earlier ones.

    python tests/benchmarks/bench_methods.py runs/methods --seed 42 --arms lora full olora --json FILE

The runs are those of `sefe minicoin table --out runs/methods`. Each round trains a few steps of every arm's last task
again, in turns and alone on one thread, into a folder that is thrown away. So what else the machine does falls on all
arms alike; the least and the median over rounds are written. A run's own record of its steps (cost.json) was made
while other runs were at work.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml


sys.path.insert(0, str(Path(__file__).parents[1]))
from warm_python import warm_environment


#: Keys of a task that are not for its training.
_AFTERWARDS = ("test_sets", "merge_adapter", "replay_to")


def step_seconds(task: Path, steps: int, environment: dict[str, str]) -> float:
    """Train some steps of a task in a folder of its own, and return the mean seconds of one."""
    keys = {key: value for key, value in yaml.safe_load(task.read_text()).items() if key not in _AFTERWARDS}
    with tempfile.TemporaryDirectory() as folder:
        keys |= {"output_dir": f"{folder}/run", "max_steps": steps, "logging_steps": steps}
        file = Path(folder, "task.yaml")
        file.write_text(yaml.safe_dump(keys))
        command = ["python", "-m", "llamafactory.cli", "train", file]
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode:
            raise RuntimeError(f"{task} cannot be trained again:\n{result.stdout[-3000:]}")
        return json.loads(Path(folder, "run", "cost.json").read_text())["step_seconds"]


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--arms", nargs="+", required=True, metavar="ARM", help="the first is what others are over")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    tasks = {}
    for arm in options.arms:
        tasks[arm] = max(
            options.runs.glob(f"{arm}_coin_{options.seed}/*_*/task.yaml"), key=lambda file: file.parent.name
        )
    found: dict[str, list[float]] = {arm: [] for arm in tasks}
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with warm_environment(environment) as warm:
        for number in range(options.rounds):
            for arm, task in tasks.items():
                found[arm].append(step_seconds(task, options.steps, warm))
            print(number + 1, {arm: round(times[-1], 4) for arm, times in found.items()}, flush=True)
    first = options.arms[0]
    content = {
        arm: {
            "least_seconds": min(times),
            "median_seconds": statistics.median(times),
            f"median_over_{first}": statistics.median(
                own / other for own, other in zip(times, found[first], strict=True)
            ),
        }
        for arm, times in found.items()
    }
    content |= {"seed": options.seed, "steps": options.steps, "date": time.strftime("%Y-%m-%d")}
    options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
