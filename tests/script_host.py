"""A host that is a script: it reads its keys from YAML and leaves what a task leaves; data for it."""

import sys
from pathlib import Path

import yaml

from sefe_plugin.files import write_json
from sefe_plugin.run.process import spawn


#: What runs the scripts; a program that is quicker to start, where there is one.
PYTHON = sys.executable


class ScriptHost:
    """Writes the keys of a step as YAML and has a script run with that file.

    Args:
        script: Path of the script.
    """

    start = staticmethod(spawn)

    def __init__(self, script):
        self.script = script

    def train(self, file, keys):
        file.write_text(yaml.safe_dump(dict(keys)))
        return [PYTHON, str(self.script), str(file)]

    score_base = train


def write_three_tasks(folder: Path) -> Path:
    """Write the data of the tasks A, B and C and of a general test set, and a base; return the dataset folder."""
    names = [f"{name}_{split}" for name in "ABC" for split in ("train", "test")]
    info = {name: {"file_name": f"{name}.json"} for name in [*names, "general_test"]}
    for name in info:
        write_json(folder / "data" / f"{name}.json", [{"text": f"{name} {i}", "answer": "red"} for i in range(4)])
    write_json(folder / "data" / "dataset_info.json", info)
    (folder / "base").mkdir()
    (folder / "base/config.json").write_text("{}")
    return folder / "data"
