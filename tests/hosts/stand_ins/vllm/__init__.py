"""A stand-in for vLLM: the signatures of its 0.11 that scoring calls, answered by transformers on the CPU.

It takes LLaVA models only. Each engine leaves a line with its arguments in the file that STAND_IN_LOG names.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    detokenize: bool = True


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)


class LLM:
    def __init__(
        self,
        model: str,
        *,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        max_model_len: int | None = None,
        generation_config: str = "auto",
        limit_mm_per_prompt: dict | None = None,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
    ):
        settings = {key: value for key, value in locals().items() if key != "self"}
        settings["devices"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        with Path(os.environ["STAND_IN_LOG"]).open("a") as log:
            log.write(json.dumps(settings) + "\n")
        self._model = LlavaForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
        self._processor = AutoProcessor.from_pretrained(model)
        self._settings = settings

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        if lora_request is not None:
            assert self._settings["enable_lora"]
            from peft import PeftModel

            self._model = PeftModel.from_pretrained(self._model, lora_request.lora_path)
            self._settings["enable_lora"] = False
        return [self._answer(prompt, sampling_params) for prompt in prompts]

    def _answer(self, prompt, sampling_params):
        assert set(prompt) <= {"prompt_token_ids", "multi_modal_data"}
        assert sampling_params.temperature == 0 and sampling_params.ignore_eos
        ids, more = list(prompt["prompt_token_ids"]), {}
        image_token = self._processor.tokenizer.convert_tokens_to_ids("<image>")
        images = prompt.get("multi_modal_data", {}).get("image", [])
        # like vLLM, which expands what it is given
        assert ids.count(image_token) == len(images)
        if images:
            more = dict(self._processor.image_processor(images=images, return_tensors="pt"))
            side = more["pixel_values"].shape[-1] // self._processor.patch_size
            place = ids.index(image_token)
            ids[place : place + 1] = [image_token] * side**2
        inputs = torch.tensor([ids])
        with torch.no_grad():
            output = self._model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                do_sample=False,
                max_new_tokens=sampling_params.max_tokens,
                eos_token_id=sampling_params.stop_token_ids,
                pad_token_id=0,
                **more,
            )
        tokens = output[0, len(ids) :].tolist()
        return RequestOutput(prompt["prompt_token_ids"], [CompletionOutput(0, "", tokens)])
