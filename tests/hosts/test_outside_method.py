"""The method of docs/methods.md, installed from a package of its own and run over two tasks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that the example's package is installed in."""
    blocks = PAGE.read_text(encoding="utf-8").split("```")
    code, project = (next(b for b in blocks if b.startswith(kind)).partition("\n")[2] for kind in ("python", "toml"))
    assert len(code.splitlines()) <= 60
    source, target = tmp_path_factory.mktemp("my_method"), tmp_path_factory.mktemp("site")
    (source / "my_method.py").write_text(code)
    (source / "pyproject.toml").write_text(project)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True)
    return target


def test_a_method_of_another_package_runs(installed, small_recipe, train_with, tmp_path):
    recipe = small_recipe(tmp_path, 2, cl_method="l2", l2_weight=50.0, num_train_epochs=1)
    found = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    train = train_with(PYTHONPATH=found)
    refused = train(recipe, "l2_weight=-1")
    assert "`l2_weight` must be a number of at least 0; got -1." in refused.stderr
    result = train(recipe)
    assert result.returncode == 0, result.stderr[-3000:]
    run = tmp_path / "run"
    first, second = (load_file(run / task / "l2_anchor.safetensors") for task in ("1_ScienceQA", "2_TextVQA"))
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    state = json.loads((run / "2_TextVQA" / "trainer_state.json").read_text())
    logged = [entry["l2_penalty"] for entry in state["log_history"] if "loss" in entry]
    assert logged[0] == 0  # the second task starts where the first ended
    distance = sum((second[name] - first[name]).square().sum() for name in first)
    assert 0 < logged[-1] < 50.0 / 2 * float(distance) * 4  # seen before the last step, which moves on
