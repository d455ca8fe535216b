"""Train a step of a whole LLaVA-1.5-7B or Qwen2.5-VL-7B with and without the penalty, in capped GPU memory.

    python tests/benchmarks/bench_whole_model.py [--model llava] [--rank 128] [--memory-gb 22] [--tasks 7] --json FILE

The model is built from its configuration with random weights: nothing is downloaded. Base in 4-bit NF4, LoRA on all
linear layers of the language model, paged 8-bit AdamW, gradient checkpointing, one micro-batch a step, of samples of
700 tokens, of which 576 are an image. The process may allocate no more than the given memory.

Without a GPU the same is done on the CPU in fp32 with torch's AdamW, and no memory is measured: with `--shrink 16`, a
rehearsal of seconds.
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
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    PretrainedConfig,
    Qwen2_5_VLConfig,
)

from sefe_plugin.methods.reglora import RegLoraConfig, find_reglora_model
from sefe_plugin.methods.reglora.codec import encode
from sefe_plugin.methods.reglora.files import KeyElements, write_key_elements
from sefe_plugin.methods.reglora.key_elements import key_count


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: A CPU takes its time for bf16.
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
IMAGE_TOKENS, TEXT_TOKENS = 576, 124


def llava_config(shrink: int = 1) -> LlavaConfig:
    """The architecture of LLaVA-1.5-7B, its sizes divided by `shrink`, 1 to 16; pictures stay 576 tokens."""
    vision = CLIPVisionConfig(
        hidden_size=1024 // shrink,
        intermediate_size=4096 // shrink,
        num_hidden_layers=max(3, 24 // shrink),
        num_attention_heads=16 // shrink,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(
        vocab_size=32064 // shrink,
        hidden_size=4096 // shrink,
        intermediate_size=11008 // shrink,
        num_hidden_layers=32 // shrink,
        num_attention_heads=32 // shrink,
        num_key_value_heads=32 // shrink,
        rms_norm_eps=1e-5,
        max_position_embeddings=4096,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=32000 // shrink)


def qwen2_5_vl_config(shrink: int = 1) -> Qwen2_5_VLConfig:
    """The architecture of Qwen2.5-VL-7B likewise; heads stay 128 wide."""
    heads, depth = max(1, 28 // shrink), max(2, 32 // shrink)
    text = {
        "vocab_size": 152064 // shrink,
        "hidden_size": 128 * heads,
        "intermediate_size": 18944 // shrink,
        "num_hidden_layers": max(2, 28 // shrink),
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, 4 // shrink),
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    vision = {
        "depth": depth,
        "hidden_size": 1280 // shrink,
        "intermediate_size": 3420 // shrink,
        "num_heads": 16 // shrink,
        "out_hidden_size": 128 * heads,
        "fullatt_block_indexes": [7, 15, 23, 31] if shrink == 1 else [depth - 1],
    }
    ids = {"image_token_id": 151655 // shrink, "video_token_id": 151656 // shrink - 1}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)


CONFIGS = {"llava": llava_config, "qwen2_5_vl": qwen2_5_vl_config}


def random_parameter(shape: torch.Size) -> nn.Parameter:
    """A frozen parameter of random numbers."""
    weight = torch.randn(shape, dtype=DTYPE, device=DEVICE) * 0.02
    return nn.Parameter(weight, requires_grad=False)


def build_model(config: PretrainedConfig, rank: int) -> nn.Module:
    """Fill and quantise one module at a time, so that the 16-bit model never exists."""
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(config)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "language_model" in name:
            layer = Linear4bit(1, 1, bias=False, compute_dtype=DTYPE, quant_type="nf4")
            layer.in_features, layer.out_features = module.in_features, module.out_features
            weight = random_parameter(module.weight.shape).data
            layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4")
            if module.bias is not None:
                layer.bias = random_parameter(module.bias.shape)
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


def batch(config: PretrainedConfig, samples: int) -> dict[str, torch.Tensor]:
    """Some samples: an image and 124 tokens of text each."""
    text = torch.randint(3, 2**10, (samples, TEXT_TOKENS), device=DEVICE)
    image = torch.full((samples, IMAGE_TOKENS), config.image_token_id, device=DEVICE)
    ids = torch.cat([text[:, :24], image, text[:, 24:]], 1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(ids == config.image_token_id, -100),
        **pixels(config, samples),
    }


def pixels(config: PretrainedConfig, samples: int) -> dict[str, torch.Tensor]:
    """Images of 576 tokens each, as the model takes them."""
    if config.model_type == "llava":
        return {"pixel_values": torch.randn(samples, 3, 336, 336, dtype=DTYPE, device=DEVICE)}
    vision = config.vision_config
    side = int(IMAGE_TOKENS**0.5) * vision.spatial_merge_size  # in patches
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    ids = torch.zeros(samples, IMAGE_TOKENS + TEXT_TOKENS, dtype=torch.int32, device=DEVICE)
    ids[:, 24 : 24 + IMAGE_TOKENS] = 1
    return {
        "pixel_values": torch.randn(samples * side**2, values, dtype=DTYPE, device=DEVICE),
        "image_grid_thw": torch.tensor([[1, side, side]] * samples, device=DEVICE),
        "mm_token_type_ids": ids,
    }


def synchronize() -> None:
    """Wait for the GPU."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def step_seconds(
    model: nn.Module, optimizer: torch.optim.Optimizer, penalise: bool, steps: int, samples: int = 1
) -> float:
    """Median time of an optimizer step; the first two are not counted."""
    times = []
    for _ in range(steps + 2):
        synchronize()
        start = time.perf_counter()
        if penalise:
            find_reglora_model(model).accumulate_penalty_gradients()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
            model(**batch(model.config, samples)).loss.backward()
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
    parser.add_argument("--model", choices=CONFIGS, default="llava")
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1, help="samples of a step")
    parser.add_argument("--tasks", type=int, default=7)
    parser.add_argument("--memory-gb", type=float, default=22.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--offload", choices=("none", "cpu"), default="none")
    parser.add_argument("--shrink", type=int, default=1, help="divide the sizes of the model by this, at most 16")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    on_gpu = DEVICE == "cuda"
    if on_gpu:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.memory_gb * 1e9 / total))
    say("building the model")
    model = build_model(CONFIGS[options.model](options.shrink), options.rank)
    with tempfile.TemporaryDirectory() as folder:
        say("drawing key elements")
        files = write_random_key_elements(model, Path(folder), options.tasks)
        say("loading them")
        before = torch.cuda.memory_allocated() if on_gpu else 0
        find_reglora_model(model).load_key_elements(files, options.offload)
        resident = torch.cuda.memory_allocated() - before if on_gpu else None
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = PagedAdamW8bit(trained, lr=2e-4) if on_gpu else torch.optim.AdamW(trained, lr=2e-4)
    say("steps without the penalty")
    plain = step_seconds(model, optimizer, False, options.steps, options.batch)
    say("steps with the penalty")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    penalised = step_seconds(model, optimizer, True, options.steps, options.batch)
    content = {
        "model": options.model,
        "shrink": options.shrink,
        "rank": options.rank,
        "batch": options.batch,
        "tasks": options.tasks,
        "offload": options.offload,
        "memory_gb": options.memory_gb,
        "peak_gb": torch.cuda.max_memory_reserved() / 1e9 if on_gpu else None,
        "key_elements_resident_gb": resident / 1e9 if on_gpu else None,
        "step_seconds": {"plain": plain, "penalised": penalised},
        "slower_percent": 100 * (penalised / plain - 1),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
