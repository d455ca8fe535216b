"""The reports of mini-CoIN's first four recipes, kept byte for byte."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from sefe_plugin.files import read_json, write_json


GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))
RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.slow
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda file: file.stem)
def test_report_is_the_same_to_the_byte(golden, tmp_path):
    """Eight tasks on one thread, six to ten minutes a recipe.

    Rounding depends on PyTorch's kernels: these were made with torch 2.11 on a processor with AVX2.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [f"{sysconfig.get_paths()['scripts']}/llamafactory-cli", "train", str(RECIPES / f"{golden.stem}.yaml")]
    with (tmp_path / "log").open("w") as log:
        status = subprocess.run(
            [*command, f"output_dir={tmp_path / 'run'}"], stdout=log, stderr=log, env=environment
        ).returncode
    assert status == 0, (tmp_path / "log").read_text()[-3000:]
    report, kept = read_json(tmp_path / "run" / "report.json"), read_json(golden)
    results = {key: value for key, value in report.items() if key in kept}  # not versions and what else it says
    write_json(tmp_path / "results.json", results)
    assert (tmp_path / "results.json").read_bytes() == golden.read_bytes()
