"""Measure what it takes to merge an adapter into a base on disk: LLaVA-1.5-7B's shapes, bf16, rank 128, by the CPU.

    python tests/benchmarks/bench_merge.py --folder FOLDER --json FILE [--layers N] [--only disk|memory]

FOLDER takes up to 43 GB at a time, and is removed at the end: the base (14 GB in files of 5), an adapter of all linear
layers of the language model (1.3 GB) and both merged models. All weights are random, from a seed. Each merge is the
host's export in a process of its own, as a task that is merged apart has it: part by part from disk, and in memory as
the host alone does it. `--layers` takes fewer decoder layers than 32; 13 make a model of 3 billion weights.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from bench_whole_model import llava_config
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.patching import VARIABLE


RANK, FILE_BYTES = 128, 5 * 10**9
DTYPE = torch.bfloat16


class Noise:
    """Tensors of random numbers, quick to make: parts of one block, each from another place."""

    def __init__(self, seed: int, dtype: torch.dtype):
        self._block = (torch.randn(2**24, generator=torch.Generator().manual_seed(seed)) * 0.02).to(dtype)
        self._start = 0

    def tensor(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a tensor of a shape."""
        numbers = torch.empty(shape, dtype=self._block.dtype)
        flat, filled = numbers.view(-1), 0
        while filled < len(flat):
            part = self._block[self._start : self._start + len(flat) - filled]
            flat[filled : filled + len(part)] = part
            filled += len(part)
            self._start = (self._start + len(part)) % (len(self._block) - 1)
        return numbers


def write_base(folder: Path, layers: int) -> PreTrainedModel:
    """Write a model file by file, without ever holding it; return it without weights."""
    folder.mkdir(parents=True)
    for file in BASE.iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json":
            shutil.copy(file, folder)
    config = llava_config()
    own = json.loads((BASE / "config.json").read_text())
    config.image_token_index = config.image_token_id = own["image_token_index"]
    config.text_config.num_hidden_layers = layers
    config.dtype = DTYPE
    with torch.device("meta"):
        model = LlavaForConditionalGeneration._from_config(config, dtype=DTYPE)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    noise, parts, held = Noise(0, DTYPE), [{}], 0
    weight_map, state = {}, model.state_dict()
    for name, meant in state.items():
        if held + meant.nbytes > FILE_BYTES:
            parts.append({})
            held = 0
        parts[-1][name] = meant
        held += meant.nbytes
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file({name: noise.tensor(meant.shape) for name, meant in part.items()}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    total = sum(meant.nbytes for meant in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return model


def write_adapter(folder: Path, model: PreTrainedModel) -> None:
    """Write a LoRA of all linear layers of the language model's decoder, in fp32 as a training leaves it."""
    folder.mkdir(parents=True)
    noise, weights = Noise(1, torch.float32), {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "language_model.layers" in name:
            weights[f"base_model.model.{name}.lora_A.weight"] = noise.tensor((RANK, module.in_features))
            weights[f"base_model.model.{name}.lora_B.weight"] = noise.tensor((module.out_features, RANK))
    save_file(weights, folder / "adapter_model.safetensors")
    targets = r".*language_model\.layers.*_proj"
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 256, "target_modules": targets, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def merge(folder: Path, out: Path, way: str) -> dict[str, float]:
    """Merge in a process of its own; return its seconds, and the peaks of its memory in GB."""
    keys = {"model_name_or_path": str(folder / "base"), "adapter_name_or_path": str(folder / "adapter")}
    keys |= {"export_dir": str(out), "export_device": "cpu", "template": "llava", "finetuning_type": "lora"}
    file = folder / f"{way}.yaml"
    file.write_text(yaml.safe_dump({**keys, "cl_method": "lora"}))
    switched = {VARIABLE: "merge_on_disk"} if way == "memory" else {}
    command = [sys.executable, "-P", "-m", "llamafactory.cli", "export", str(file)]
    peaks = {"VmHWM": 0, "RssAnon": 0}
    start = time.perf_counter()
    with (folder / f"{way}.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | switched, stdout=log, stderr=log)
        while process.poll() is None:
            peaks = {entry: max(peak, memory(process.pid, entry)) for entry, peak in peaks.items()}
            time.sleep(0.02)
    if process.returncode != 0:
        raise SystemExit((folder / f"{way}.log").read_text()[-3000:])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_own_gb": peaks["RssAnon"] / 1e9, "peak_with_mapped_gb": peaks["VmHWM"] / 1e9}


def memory(process: int, entry: str) -> int:
    """Return an entry of a process's memory in bytes; 0 of one that has just ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(entry)), 0)


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights of a model, one by one, in the order of their names."""
    places = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as archive:
            places |= dict.fromkeys(archive.keys(), file)
    for name in sorted(places):
        with safe_open(places[name], "pt") as archive:
            yield name, archive.get_tensor(name)


def count_equal(one: Path, other: Path) -> tuple[int, int]:
    """Return how many tensors of two models are equal bit by bit, and of how many."""
    equal = [a == b and x.equal(y) for (a, x), (b, y) in zip(tensors(one), tensors(other), strict=True)]
    return sum(equal), len(equal)


def main() -> None:
    """Write the model, merge it both ways, compare, and remove it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="does not exist yet; is removed at the end")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--only", choices=("disk", "memory"), help="one of the two ways, and no comparison")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    figures: dict = {"layers": options.layers, "rank": RANK, "threads": torch.get_num_threads()}
    figures |= {"processor": platform.processor() or platform.machine(), "date": time.strftime("%Y-%m-%d")}
    try:
        model = write_base(options.folder / "base", options.layers)
        write_adapter(options.folder / "adapter", model)
        figures["parameters"] = model.num_parameters()
        ways = [options.only] if options.only else ["disk", "memory"]
        for way in ways:
            figures[way] = merge(options.folder, options.folder / f"merged_{way}", way)
            print(way, figures[way], flush=True)
        if len(ways) == 2:
            equal = count_equal(*(options.folder / f"merged_{way}" for way in ways))
            figures["equal_tensors"], figures["tensors"] = equal
    finally:
        shutil.rmtree(options.folder)
    options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
