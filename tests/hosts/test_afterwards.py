"""After a real run: models that were removed on the way, an export that Transformers loads, answers scored again."""

import os
import subprocess

from safetensors.torch import load_file

from sefe_plugin.cli import main
from sefe_plugin.files import read_json
from sefe_plugin.hosts.llamafactory.verify import check_models
from sefe_plugin.run.rescoring import rescore_run
from sefe_plugin.run.verify import input_changes, verify_run
from sefe_plugin.versions import installed_versions


LOAD = """
import sys
for name in [name for name in sys.modules if name.startswith("sefe_plugin")]:  # the start-up hook
    del sys.modules[name]
sys.modules["sefe_plugin"] = None  # no import of it succeeds
from transformers import AutoModelForImageTextToText, AutoProcessor
from safetensors.torch import save_file
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype="auto")
AutoProcessor.from_pretrained(sys.argv[1])
save_file({name: value.clone() for name, value in model.state_dict().items() if "q_proj" in name}, sys.argv[2])
"""


def test_a_run_that_keeps_its_last_model_alone_is_whole_and_can_be_exported(
    train_here, small_recipe, plain_python, tmp_path
):
    train_here(small_recipe(tmp_path, 2, keep_merged="last", num_train_epochs=1))
    run, out = tmp_path / "run", tmp_path / "out"
    assert [place.parent.name for place in run.glob("*/merged")] == ["2_TextVQA"]
    assert [task["versions"] for task in read_json(run / "manifest.json")["complete"]] == [installed_versions()] * 2
    report = rescore_run(run, {})
    assert report["counts"] == {"ScienceQA": 16, "TextVQA": 16}
    assert input_changes(run) == []
    findings = [(found.where, found.state, found.what) for found in verify_run(run, check_models)]
    assert [found for found in findings if found[1] is False] == []
    assert ("1_ScienceQA", True, "merged: removed on purpose, and no later task needs it") in findings
    ((place, _, what),) = [found for found in findings if found[1] is None]
    assert (place, what.split()[-4:]) == ("2_TextVQA", ["was", "removed", "on", "purpose"])

    assert main(["export", str(run), "--out", str(out)]) == 0
    command = [plain_python, "-c", LOAD, str(out), str(tmp_path / "loaded")]
    environment = os.environ | {"SEFE_PLUGIN_DISABLE": "1", "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    ends = [
        {name.split("layers")[-1]: value for name, value in load_file(file).items() if _is_adapted(name)}
        for file in (tmp_path / "loaded", run / "2_TextVQA/merged/model.safetensors")
    ]
    assert ends[0].keys() == ends[1].keys() > set()
    assert all(value.equal(ends[1][name]) for name, value in ends[0].items())


def _is_adapted(name: str) -> bool:
    return "language_model" in name and "q_proj" in name
