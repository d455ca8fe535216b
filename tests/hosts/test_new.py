"""A recipe that `sefe new` wrote, run by plain LLaMA-Factory."""

import pytest

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.data import TASKS, write_data
from sefe_plugin.cli import main


#: Smaller steps than a new recipe has, so that a few samples make some.
SMALL = ("lora_rank=4", "gradient_accumulation_steps=4", "max_new_tokens=8", "cutoff_len=256")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A recipe of two tasks of mini-CoIN, as `sefe new --yes` writes it."""
    folder = tmp_path_factory.mktemp("new")
    write_data(folder / "data", seed=1000, train_size=32, test_size=8)
    names = ",".join(f"minicoin_{task.name.lower()}_train" for task in TASKS[:2])
    answers = ["--dataset-dir", str(folder / "data"), "--tasks", names, "--output-dir", str(folder / "run")]
    answers += ["--model", str(BASE), "--template", "llava", "--hardware", "cpu"]
    assert main(["new", str(folder / "mine.yaml"), "--yes", *answers]) == 0
    return folder / "mine.yaml"


def test_it_trains_and_scores_its_tasks(written, train_here):
    report = train_here(written, *SMALL, f"output_dir={written.parent / 'here'}")
    tasks = [f"minicoin_{task.name.lower()}" for task in TASKS[:2]]
    assert report["tasks"] == tasks
    run = written.parent / "here"
    assert len((run / f"1_{tasks[0]}" / "asd.jsonl").read_text().splitlines()) == round(0.2 * 32)
    assert (run / f"2_{tasks[1]}" / "key_elements.safetensors").is_file()


@pytest.mark.slow
def test_the_command_that_new_names_runs_it(written, train):
    result = train(written, *SMALL)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert (written.parent / "run" / "report.json").is_file()
