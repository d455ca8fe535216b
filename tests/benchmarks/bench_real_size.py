"""Run a recipe for LLaVA-1.5-7B at its true size, and compare `sefe plan` with what it took. Nothing is downloaded.

    python tests/benchmarks/bench_real_size.py recipes/coin_sefe_qlora.yaml --folder FOLDER --json FILE [key=value ...]

The model has LLaVA-1.5-7B's shapes and random weights, and mini-CoIN's tokenizer; 14 GB in FOLDER, made once. Its
tasks are two of mini-CoIN, a few samples each, whose pictures become the 576 tokens of LLaVA-1.5-7B. So the figures
are memory, disk and time, and no scores. `key=value` changes keys of the recipe, as on the command line of a run.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml
from bench_whole_model import DEVICE, DTYPE, llava_config
from transformers import LlavaForConditionalGeneration

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.data import TASKS, write_data


TRAIN_SAMPLES, TEST_SAMPLES = 64, 8


def write_base(folder: Path, shrink: int = 1) -> None:
    """Write a LLaVA-1.5-7B of random weights, on a GPU in bf16, with mini-CoIN's tokenizer and processor."""
    own = json.loads((BASE / "config.json").read_text())
    config = llava_config(shrink)
    config.image_token_index = config.image_token_id = own["image_token_index"]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, key, own["text_config"][key])
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPE)
    try:
        with torch.device(DEVICE):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder, max_shard_size="5GB")
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json"):
        shutil.copy(BASE / name, folder)
    tokenizer = json.loads((BASE / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "model_max_length": 4096}))
    processor = json.loads((BASE / "processor_config.json").read_text())
    size, processor["patch_size"] = config.vision_config.image_size, config.vision_config.patch_size
    processor["image_processor"] |= {"crop_size": {"height": size, "width": size}, "size": {"shortest_edge": size}}
    (folder / "processor_config.json").write_text(json.dumps(processor))


def write_tasks(folder: Path) -> list[dict]:
    """Write the data of two tasks, and return them as a recipe names them."""
    write_data(folder, seed=42, train_size=TRAIN_SAMPLES, test_size=TEST_SAMPLES)
    names = {task: f"minicoin_{task.name.lower()}" for task in TASKS[1:3]}  # those with a picture in every sample
    return [
        {"name": task.name, "dataset": f"{name}_train", "test_dataset": f"{name}_test", "scorer": task.scorer}
        for task, name in names.items()
    ]


def own_recipe(recipe: Path, folder: Path) -> Path:
    """Write the recipe with this model, these tasks and few steps."""
    keys = yaml.safe_load(recipe.read_text())
    keys.pop("benchmark")
    keys |= {
        "model_name_or_path": str(folder / "base"),
        "dataset_dir": str(folder / "data"),
        "tasks": write_tasks(folder / "data"),
        "output_dir": str(folder / recipe.stem),
        "default_system": "",
        "preprocessing_num_workers": 1,
        "gradient_accumulation_steps": min(2, keys["gradient_accumulation_steps"]),
        "max_steps": 6,
        "logging_steps": 1,
        "save_strategy": "no",
        "max_new_tokens": 8,
    }
    written = folder / recipe.name
    written.write_text(yaml.safe_dump(keys, sort_keys=False))
    return written


def main() -> None:
    """Build, plan, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("changes", nargs="*", metavar="key=value")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shrink", type=int, default=1, help="divide the sizes of the model by this, at most 16")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_intermixed_args()
    if not (options.folder / "base" / "config.json").is_file():
        write_base(options.folder / "base", options.shrink)
    recipe = own_recipe(options.recipe, options.folder)
    planned = subprocess.run(
        [sys.executable, "-m", "sefe_plugin.cli", "plan", recipe, "--gpus", "1", "--json", *options.changes],
        check=True,
        stdout=subprocess.PIPE,
    )
    start = time.perf_counter()
    command = [sys.executable, "-m", "llamafactory.cli", "train", recipe, *options.changes]
    subprocess.run(command, check=True)
    run = Path(yaml.safe_load(recipe.read_text())["output_dir"])
    costs = {file.parent.name: json.loads(file.read_text()) for file in sorted(run.glob("*/cost.json"))}
    content = {
        "recipe": options.recipe.name,
        "changes": options.changes,
        "shrink": options.shrink,
        "seconds": time.perf_counter() - start,
        "tasks": costs,
        "run_folder_bytes": sum(file.stat().st_size for file in run.rglob("*") if file.is_file()),
        "planned": json.loads(planned.stdout),
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
