"""The notebook of the docs runs: as it is, minutes long, and in a short form."""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


NOTEBOOK = Path(__file__).parents[1] / "docs/notebooks/quick_start.ipynb"
FORGOTTEN = re.compile(r"(\d+) of 80 answers forgotten")


@pytest.fixture
def execute(warm, tmp_path, monkeypatch):
    """Runs the notebook with some keys of its recipe changed, and returns what its code cells printed."""
    monkeypatch.setattr(os, "environ", warm)

    def run(**changes) -> list[str]:
        book = nbformat.read(NOTEBOOK, as_version=4)
        for key, value in changes.items():
            for cell in book.cells:
                cell.source = re.sub(rf"(?m)^{key}: .*", f"{key}: {value}", cell.source)
        NotebookClient(book, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute(env=warm)
        return ["".join(output.get("text", "") for output in cell.outputs) for cell in book.cells if "outputs" in cell]

    return run


def accuracies(folder: Path) -> list[list[float | None]]:
    return json.loads((folder / "report.json").read_text())["accuracy_matrix"]


def test_it_runs(execute, tmp_path):
    printed = execute(max_samples=32, num_train_epochs=1.0, max_new_tokens=8)
    (first, _), (_, last) = accuracies(tmp_path / "runs/lora")
    assert any(f"creatures    {first:12.2f}            -" in text for text in printed)
    assert len(FORGOTTEN.findall("".join(printed))) == 1
    assert last is not None
    assert accuracies(tmp_path / "runs/keeplora")[1][1] is not None
    assert "runs/keeplora" in printed[-1]


@pytest.mark.slow
def test_it_shows_what_it_says(execute, tmp_path):
    """The first task is learned and then overwritten, and KeepLoRA keeps most of it."""
    printed = execute()
    (first, _), (kept, second) = accuracies(tmp_path / "runs/lora")
    assert first > 60
    assert second > 60
    assert kept < first / 2
    (number,) = FORGOTTEN.findall("".join(printed))
    assert int(number) >= 3
    assert accuracies(tmp_path / "runs/keeplora")[1][0] > 2 * kept


def test_it_is_kept_without_outputs():
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
