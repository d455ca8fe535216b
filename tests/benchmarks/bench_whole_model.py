"""Train a step of a whole LLaVA-1.5-7B with and without the penalty, in capped GPU memory.

    python tests/benchmarks/bench_whole_model.py [--rank 128] [--memory-gb 22] [--tasks 7] --json FILE

The model is built from its configuration with random weights: nothing is downloaded. Base in 4-bit NF4, LoRA on all
linear layers of the language model, paged 8-bit AdamW, gradient checkpointing, micro-batch 1 of 700 tokens, of which
576 are an image. The process may allocate no more than the given memory.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from accelerate import init_empty_weights
from bitsandbytes.nn import Linear4bit, Params4bit
from bitsandbytes.optim import PagedAdamW8bit
from peft import get_peft_model
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from sefe_plugin.methods.reglora import RegLoraConfig, find_reglora_model
from sefe_plugin.methods.reglora.codec import encode
from sefe_plugin.methods.reglora.files import KeyElements, write_key_elements
from sefe_plugin.methods.reglora.key_elements import key_count


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
IMAGE_TOKENS, TEXT_TOKENS, IMAGE_TOKEN = 576, 124, 32000


def llava_config() -> LlavaConfig:
    """The architecture of LLaVA-1.5-7B."""
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(vocab_size=32064, rms_norm_eps=1e-5, max_position_embeddings=4096)
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)


def random_parameter(shape: torch.Size) -> nn.Parameter:
    """A frozen parameter of random numbers."""
    weight = torch.randn(shape, dtype=torch.bfloat16, device=DEVICE) * 0.02
    return nn.Parameter(weight, requires_grad=False)


def build_model(config: LlavaConfig, rank: int) -> nn.Module:
    """Fill and quantise one module at a time, so that the 16-bit model never exists."""
    with init_empty_weights():
        model = LlavaForConditionalGeneration(config)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "language_model" in name:
            layer = Linear4bit(1, 1, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
            layer.in_features, layer.out_features = module.in_features, module.out_features
            weight = random_parameter(module.weight.shape).data
            layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4")
            model.set_submodule(name, layer.to(DEVICE))
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                module.register_parameter(key, random_parameter(parameter.shape))
    model.to(DEVICE)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    return get_peft_model(model, RegLoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS))


def write_random_key_elements(model: nn.Module, folder: Path, tasks: int) -> list[Path]:
    """Files of random key elements at M = 2 %."""
    reglora = find_reglora_model(model)
    shapes, ratio = reglora._shapes(), model.peft_config["default"].reglora_key_ratio
    files = [folder / f"task{task}.safetensors" for task in range(tasks)]
    for task, file in enumerate(files):
        codes = {}
        for name, (rows, cols) in shapes.items():
            count = key_count(ratio, rows, cols)
            drawn = torch.rand(rows * cols, device=DEVICE).topk(count).indices.sort().values
            codes[name] = encode(drawn, rows * cols).cpu()
        write_key_elements(KeyElements(file, ratio, shapes, codes, f"{task:064d}"))
    return files


def batch() -> dict[str, torch.Tensor]:
    """One sample: an image and 124 tokens of text."""
    text = torch.randint(3, 31999, (1, TEXT_TOKENS), device=DEVICE)
    image = torch.full((1, IMAGE_TOKENS), IMAGE_TOKEN, device=DEVICE)
    ids = torch.cat([text[:, :24], image, text[:, 24:]], 1)
    pixels = torch.randn(1, 3, 336, 336, dtype=torch.bfloat16, device=DEVICE)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(ids == IMAGE_TOKEN, -100),
        "pixel_values": pixels,
    }


def synchronize() -> None:
    """Wait for the GPU."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def step_seconds(model: nn.Module, optimizer: torch.optim.Optimizer, penalise: bool, steps: int) -> float:
    """Median time of an optimizer step; the first two are not counted."""
    times = []
    for _ in range(steps + 2):
        synchronize()
        start = time.perf_counter()
        if penalise:
            find_reglora_model(model).accumulate_penalty_gradients()
        with torch.autocast(DEVICE, torch.bfloat16):
            model(**batch()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def say(phase: str) -> None:
    """Print a phase as it begins."""
    print(time.strftime("%H:%M:%S"), phase, flush=True)


def main() -> None:
    """Parse, build, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--tasks", type=int, default=7)
    parser.add_argument("--memory-gb", type=float, default=22.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--offload", choices=("none", "cpu"), default="none")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, options.memory_gb * 1e9 / total))
    say("building the model")
    model = build_model(llava_config(), options.rank)
    with tempfile.TemporaryDirectory() as folder:
        say("drawing key elements")
        files = write_random_key_elements(model, Path(folder), options.tasks)
        say("loading them")
        before = torch.cuda.memory_allocated()
        find_reglora_model(model).load_key_elements(files, options.offload)
        resident = torch.cuda.memory_allocated() - before
    optimizer = PagedAdamW8bit([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    say("steps without the penalty")
    plain = step_seconds(model, optimizer, False, options.steps)
    say("steps with the penalty")
    torch.cuda.reset_peak_memory_stats()
    penalised = step_seconds(model, optimizer, True, options.steps)
    content = {
        "rank": options.rank,
        "tasks": options.tasks,
        "offload": options.offload,
        "peak_gb": torch.cuda.max_memory_reserved() / 1e9,
        "key_elements_resident_gb": resident / 1e9,
        "step_seconds": {"plain": plain, "penalised": penalised},
        "slower_percent": 100 * (penalised / plain - 1),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
