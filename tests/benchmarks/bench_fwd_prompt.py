"""Measure a step of Fwd-Prompt on the tiny LLaVA, with the projection of its prompts and without it, beside LoRA's.

    python tests/benchmarks/bench_fwd_prompt.py [--steps 30] --json FILE

The ways take turns, step by step, in one process: the same batch, AdamW, a whole step with what the callback does.
Times are medians, so ratios do not depend on what else the machine does. Every way has the settings of its recipe.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlavaForConditionalGeneration

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.files import replacing
from sefe_plugin.methods.fwd_prompt import FwdPromptConfig
from sefe_plugin.methods.fwd_prompt.method import FwdPrompt
from sefe_plugin.methods.fwd_prompt.subspace import random_space
from sefe_plugin.methods.gradients import Gradients, add_to_grad
from sefe_plugin.methods.left_file import write_left


#: Samples of a batch, tokens of a sample, of which four are an image's, and the first token that is learned.
BATCH, LENGTH, ANSWER = 16, 40, 36
POOL = {"fwd_prompt_pool": 10, "fwd_prompt_length": 8, "fwd_prompt_top": 4}
#: Directions of the pre-trained and the conflicting space, as after the third of mini-CoIN's tasks.
SPACES = (19, 65)
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Data:
    """What the method asks of a task's data before its training."""

    samples_of_step = BATCH


def batch(config) -> dict[str, torch.Tensor]:
    """Return random questions with a picture each."""
    ids = torch.randint(300, 900, (BATCH, LENGTH))
    ids[:, 2:6] = config.image_token_id
    labels = ids.masked_fill(torch.arange(LENGTH) < ANSWER, -100)
    side = config.vision_config.image_size
    return {"input_ids": ids, "labels": labels, "pixel_values": torch.randn(BATCH, 3, side, side)}


def lora() -> Callable[[dict], None]:
    """Return a step of LoRA with the rank of mini-CoIN's recipes."""
    # the language model alone, as the host adapts it
    target = rf".*language_model.*\.({'|'.join(LINEAR)})"
    model = get_peft_model(load(), LoraConfig(r=16, lora_alpha=32, target_modules=target))
    return stepper(model, lambda: None, lambda: None)


def fwd_prompt(projection: str, folder: Path) -> Callable[[dict], None]:
    """Return a step of Fwd-Prompt in its second task."""
    model = get_peft_model(load(), FwdPromptConfig(task_type="CAUSAL_LM", **POOL))
    values = model.base_model.pool.values
    drawn = random_space(sum(SPACES), values.shape[-1], seed=0).float()
    spaces = {"pretrained": drawn[: SPACES[0]], "conflicting": drawn[SPACES[0] :], "prompts": values}
    write_left(spaces, folder / FwdPrompt.file, "sefe_plugin.spaces")
    method, gradients = FwdPrompt({**POOL, "fwd_prompt_projection": projection}), Gradients(add_to_grad)
    method.begin(model, [folder / FwdPrompt.file], gradients, Data())
    return stepper(model, lambda: method.on_step_begin(gradients), lambda: method.on_step_end(model))


def load() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(BASE)


def stepper(model, before: Callable[[], None], after: Callable[[], None]) -> Callable[[dict], None]:
    """Return a function that trains one step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)

    def step(inputs: dict) -> None:
        before()
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        after()
        optimizer.zero_grad()

    return step


def measure(steps: int) -> dict[str, float]:
    """Return the median seconds of a step in each way, and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "lora": lora(),
            "pool": fwd_prompt("none", Path(folder)),
            "fwd_prompt": fwd_prompt("conflict", Path(folder)),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        inputs = batch(load().config)
        for number in range(steps + 2):
            for way, step in ways.items():
                began = time.perf_counter()
                step(inputs)
                if number >= 2:
                    seconds[way].append(time.perf_counter() - began)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    pairs = zip(seconds["fwd_prompt"], seconds["pool"], strict=True)
    return {
        **{f"{way}_seconds": value for way, value in medians.items()},
        "projection_over_pool": statistics.median(one / two for one, two in pairs),
        "fwd_prompt_over_lora": medians["fwd_prompt"] / medians["lora"],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    figures = {"steps": options.steps, "torch": torch.__version__, **measure(options.steps)}
    with replacing(options.json) as draft:
        draft.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
