"""Answers questions with vLLM: a script for an interpreter that need hold neither this plugin nor LLaMA-Factory.

Run as `python vllm_engine.py ANSWERS`; `vllm_scoring` starts it. Standard input is JSON lines. The first is the
request: the arguments of `vllm.LLM` as "engine", those of `vllm.SamplingParams` as "sampling", and as "adapter" the
folder of a LoRA or null. Each other line is a question: its tokens as "prompt_token_ids", and its pictures as
"images", PNG files in base64. For each question, in order, the file ANSWERS gets one line, the tokens of its answer.
"""

import base64
import io
import json
import os
import sys
import threading
import time
from itertools import islice
from pathlib import Path


#: Questions whose pictures are in memory at a time.
CHUNK = 1024


def main(answers: str) -> None:
    """Answer what comes from standard input.

    Args:
        answers: the file for the answers.
    """
    _end_with(os.getppid())
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    request = json.loads(sys.stdin.buffer.readline())
    engine, sampling = LLM(**request["engine"]), SamplingParams(**request["sampling"])
    adapter = LoRARequest("task", 1, request["adapter"]) if request["adapter"] else None
    with Path(answers).open("w", encoding="utf-8") as file:
        while lines := list(islice(sys.stdin.buffer, CHUNK)):
            prompts = [_prompt(json.loads(line)) for line in lines]
            for output in engine.generate(prompts, sampling, lora_request=adapter):
                file.write(json.dumps(list(output.outputs[0].token_ids)) + "\n")


def _prompt(question: dict) -> dict:
    from PIL import Image

    prompt = {"prompt_token_ids": question["prompt_token_ids"]}
    if question["images"]:
        files = (io.BytesIO(base64.b64decode(image)) for image in question["images"])
        prompt["multi_modal_data"] = {"image": [Image.open(file).convert("RGB") for file in files]}
    return prompt


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])
