"""A sequence whose host is this file: it trains, scores and merges in a second, slowly enough to be killed half way.

    python stand_in.py FOLDER [KEY=VALUE ...]  runs a sequence of three tasks in FOLDER/run
    python stand_in.py STEP TASK.YAML          is the process of a task

As LLaMA-Factory, it goes on from the last folder called checkpoint-*, whatever is in it.
"""

import hashlib
import json
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file


STEPS = 4


def slowly(file: Path, content: bytes) -> None:
    """Write a file in pieces."""
    with file.open("wb") as output:
        for start in range(0, len(content), 1 + len(content) // 4):
            output.write(content[start : start + 1 + len(content) // 4])
            output.flush()
            time.sleep(0.002)


def save_weights(file: Path, state: str) -> None:
    half = file.with_suffix(".half")
    factor = np.frombuffer(bytes.fromhex(state), np.uint8).astype(np.float32).reshape(4, 8)
    save_file({"base_model.model.q.lora_A.weight": factor, "base_model.model.q.lora_B.weight": factor.T.copy()}, half)
    slowly(file, half.read_bytes())
    half.unlink()


def save_zip(file: Path, state: str) -> None:
    half = file.with_suffix(".half")
    with zipfile.ZipFile(half, "w") as archive:
        archive.writestr("state", state)
    slowly(file, half.read_bytes())
    half.unlink()


def further(state: str, *what: str) -> str:
    return hashlib.sha256(" ".join((state, *what)).encode()).hexdigest()


def train(keys: dict, folder: Path) -> None:
    info = json.loads(Path(keys["dataset_dir"], "dataset_info.json").read_text())
    data = Path(keys["dataset_dir"], info[keys["dataset"]]["file_name"]).read_text()
    base = keys["model_name_or_path"]
    start = Path(base, "model.safetensors")
    state = further(hashlib.sha256(start.read_bytes()).hexdigest() if start.is_file() else "", data)
    first = 0
    if checkpoints := sorted(folder.glob("checkpoint-*")):
        with zipfile.ZipFile(checkpoints[-1] / "optimizer.pt") as archive:
            state = archive.read("state").decode()
        load_file(checkpoints[-1] / "adapter_model.safetensors")
        first = json.loads((checkpoints[-1] / "trainer_state.json").read_text())["global_step"]
    for step in range(first, STEPS):
        state = further(state, str(step))
        checkpoint = folder / f"checkpoint-{step + 1}"
        checkpoint.mkdir()
        save_weights(checkpoint / "adapter_model.safetensors", state)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            save_zip(checkpoint / name, state)
        slowly(checkpoint / "trainer_state.json", json.dumps({"global_step": step + 1}).encode())
    save_weights(folder / "adapter_model.safetensors", state)
    save_file({"q": np.frombuffer(bytes.fromhex(state), np.uint8)}, folder / "key_elements.safetensors")
    slowly(folder / "adapter_config.json", json.dumps({"r": 4}).encode())


def run_step(step: str, keys: dict) -> None:
    from sefe_plugin.evaluation.results import predictions_file, write_predictions, write_scores
    from sefe_plugin.files import replacing_folder
    from sefe_plugin.hosts.llamafactory.watch import end_with_runner
    from sefe_plugin.run.steps import CARRIED, SCORED, TRAINED, record_step

    end_with_runner()
    folder = Path(keys["output_dir"])
    if step == "train":
        train(keys, folder)
        record_step(folder, TRAINED)
    state = further((folder / "adapter_model.safetensors").read_bytes().hex())
    for test_set in keys["test_sets"]:
        if not predictions_file(folder, test_set["name"]).is_file():
            answer = "yes" if int(state[0], 16) % 2 else "no"
            write_predictions(folder, test_set["name"], [{"answer": "yes"}] * 50, [answer] * 50)
    write_scores(folder, keys["test_sets"], None)
    record_step(folder, SCORED)
    with replacing_folder(folder / "merged") as merged:
        merge(folder, merged)
    record_step(folder, CARRIED)


def merge(adapter: Path, folder: Path) -> None:
    folder.mkdir()
    save_weights(folder / "model.safetensors", further((adapter / "adapter_model.safetensors").read_bytes().hex()))
    slowly(folder / "config.json", b"{}")


class StandIn:
    """The host; the process of a task merges too, if it is not ended before."""

    def __init__(self, start):
        self.start = start

    def train(self, file, keys):
        file.write_text(yaml.safe_dump(dict(keys)))
        return [sys.executable, __file__, "train", str(file)]

    def score(self, file, keys):
        file.write_text(yaml.safe_dump(dict(keys)))
        return [sys.executable, __file__, "score", str(file)]

    def merge(self, file, keys, adapter, folder):
        return [sys.executable, __file__, "merge", str(adapter), str(folder)]


def run(folder: Path) -> None:
    from sefe_plugin.hosts.llamafactory import sequence
    from sefe_plugin.recipe.load import Recipe
    from sefe_plugin.recipe.tasks import Task

    data = folder / "data"
    if not data.is_dir():
        data.mkdir()
        info = {}
        for name in "ABC":
            for split in ("train", "test"):
                (data / f"{name}_{split}.json").write_text(json.dumps([{"text": name, "answer": "yes"}]))
                info[f"{name}_{split}"] = {"file_name": f"{name}_{split}.json"}
        (data / "dataset_info.json").write_text(json.dumps(info))
    tasks = tuple(Task(name, f"{name}_train", f"{name}_test", "yes_no", {}) for name in "ABC")
    keys = {"cl_method": "lora", "carry": "merge", "model_name_or_path": "base", "dataset_dir": str(data)}
    keys |= dict(word.split("=") for word in sys.argv[2:])
    recipe = Recipe("stand_in.yaml", keys, tasks, folder / "run", None)
    sequence.read_recipe_with_places = lambda file, overrides: ({"tasks": []}, {})
    sequence.load_recipe = lambda *arguments: recipe
    sequence.require_trial = lambda *given: None  # which asks LLaMA-Factory
    sequence.LlamaFactory = StandIn
    StandIn.keys = lambda self: sequence.host_keys()
    sequence.intercept(["stand_in.yaml"])


if __name__ == "__main__":
    if sys.argv[1] in ("train", "score"):
        run_step(sys.argv[1], yaml.safe_load(Path(sys.argv[2]).read_text()))
    elif sys.argv[1] == "merge":
        merge(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        run(Path(sys.argv[1]))
