"""What the data of a task costs before its first step, by the number of its records.

    python tests/benchmarks/bench_data.py --records 6000 60000 600000 --json FILE [preprocessing_num_workers=4 ...]

For each number it writes that many conversations of text alone, half a dozen forms of questions with their
instructions, and starts a sequence of one task with them on the tiny LLaVA: all is checked, ASD rewrites a fifth, the
host converts and tokenizes, and one step is trained. The same command runs a second time into another folder: what it
has checked before, and the host's own cache, are there then. It runs on one thread.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_sequence import timed

from sefe_plugin.benchmarks.minicoin import MiniCoIN
from sefe_plugin.evaluation.report_text import markdown_table
from sefe_plugin.files import read_json, write_json
from sefe_plugin.hosts.llamafactory.host import read_recipe
from sefe_plugin.versions import installed_versions


#: Questions with their instructions, and answers; the number makes each of them one of its own.
FORMS = (
    ("How many of the {n} lamps are lit?\nAnswer the question using a single word or phrase.", "{n}"),
    ("Is the lamp number {n} lit?\nAnswer the question using a single word or phrase.", "yes"),
    (
        "Which lamp is number {n}?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly.",
        "B",
    ),
    ("What colour has the lamp number {n}?\nAnswer the question using a single word or phrase.", "blue"),
)

#: What is told of each run: its head in the table.
HEADS = {
    "seconds": "command, s",
    "before": "before the task, s",
    "data": "data, s",
    "data_gb": "peak memory after data, GB",
    "peak_gb": "peak memory of any process, GB",
}


def records(number: int) -> Iterator[dict[str, Any]]:
    """Yield so many conversations."""
    for n in range(number):
        question, answer = (text.format(n=n) for text in FORMS[n % len(FORMS)])
        yield {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        }


def write_data(folder: Path, number: int) -> None:
    """Write the data of a task with so many records, and a test set of two."""
    folder.mkdir(parents=True)
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records(number))
    write_json(folder / "test.json", [{"text": FORMS[3][0].format(n=n), "answer": "blue"} for n in range(2)])
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    form = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    write_json(
        folder / "dataset_info.json",
        {
            "many": {"file_name": "train.jsonl", **form},
            "few": {"file_name": "test.json", "columns": {"prompt": "text", "response": "answer"}},
        },
    )


def run_keys(recipe: Path, overrides: Sequence[str], folder: Path, run: Path) -> dict[str, Any]:
    """Return the keys of a sequence of one task with the data of a folder."""
    keys = read_recipe(recipe, ["max_steps=1", "per_device_train_batch_size=1", "max_new_tokens=2", *overrides])
    del keys["benchmark"]
    tasks = [{"name": "lamps", "dataset": "many", "test_dataset": "few", "scorer": "short_answer"}]
    return {
        **MiniCoIN().defaults(),
        **keys,
        "dataset_dir": str(folder),
        "tasks": tasks,
        "output_dir": str(run),
    }


def measure_run(keys: Mapping[str, Any], file: Path, environment: Mapping[str, str]) -> dict[str, float]:
    """Run a sequence of one task; return its figures, as `HEADS` has them."""
    began = time.time()
    seconds = timed(keys, file, environment)
    run = Path(keys["output_dir"])
    (task,) = read_json(run / "report.json")["ledger"]["tasks"]
    first = min(process["began"] for process in read_json(run / "1_lamps" / "ledger.json"))
    data = next(phase for phase in task["phases"] if phase["phase"] == "data")
    return {
        "seconds": round(seconds, 1),
        "before": round(first - began, 1),
        "data": round(data["seconds"], 1),
        "data_gb": round(data["peak_memory"] / 1e9, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20), 2),
    }


def measure(recipe: Path, numbers: Sequence[int], overrides: Sequence[str]) -> dict[str, Any]:
    """Run each number of records twice; return the figures of all runs."""
    found: dict[str, Any] = {}
    for number in sorted(numbers):  # the peak of any process is that of all so far
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_data(folder / "data", number)
            environment = os.environ | {
                "HF_HUB_OFFLINE": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1",
                "HF_HOME": str(folder / "hf"),  # nothing has been checked or cached before
            }
            found[str(number)] = {
                way: measure_run(
                    run_keys(recipe, overrides, folder / "data", folder / way), folder / f"{way}.yaml", environment
                )
                for way in ("first", "again")
            }
    return {
        "recipe": recipe.name,
        "overrides": list(overrides),
        "records": found,
        "versions": installed_versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


def as_text(figures: Mapping[str, Any]) -> str:
    """Write the figures as a Markdown table."""
    rows = [
        [number if way == "first" else "", way, *(str(of[name]) for name in HEADS)]
        for number, ways in figures["records"].items()
        for way, of in ways.items()
    ]
    return markdown_table(["records", "run", *HEADS.values()], rows)


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--records", type=int, nargs="+", default=[6000, 60000, 600000])
    parser.add_argument("--recipe", type=Path, default=Path("recipes/minicoin_sefe.yaml"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_intermixed_args()
    figures = measure(options.recipe, options.records, options.overrides)
    options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(as_text(figures) + "\n")


if __name__ == "__main__":
    main()
