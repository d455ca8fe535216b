"""Scores a trained task's test sets with vLLM, in processes of their own that have the devices to themselves.

Run as `python -m sefe_plugin.hosts.llamafactory.vllm_scoring task.yaml`, which a sequence does after each task. The
answers come from the merged model, or from the base and the stacked adapter where there is no merged one; from the
base alone where the recipe trains nothing. Questions, stop tokens and the number of new tokens are those of `scoring`;
image tokens stay one for each image, because vLLM expands them itself.

This process forms the questions with the host's template, and pictures with the host's resizing, and turns the tokens
of the answers into text. `vllm_engine` generates, in the interpreter that `scoring_python` names, and in this one
where the key is absent. So vLLM can live in an environment of its own.

Every device runs a model of its own on its share of the questions; the host's key `vllm_config` with
`tensor_parallel_size` groups them, and passes any other argument of `vllm.LLM`. The precision is the host's
`infer_dtype`.
"""

import base64
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from sefe_plugin.data.test_sets import read_test_set
from sefe_plugin.evaluation.scorers import scorer_of
from sefe_plugin.files import read_json
from sefe_plugin.hosts.llamafactory import vllm_engine
from sefe_plugin.hosts.llamafactory.watch import end_with_runner
from sefe_plugin.json_lines import json_line, read_json_lines
from sefe_plugin.run.progress import SCORING, ProgressFile


#: Ranks that vLLM reserves room for.
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def score_command(file: Path) -> list[str]:
    """Return the command line that scores the finished task of a `task.yaml`."""
    return [sys.executable, "-P", "-m", "sefe_plugin.hosts.llamafactory.vllm_scoring", str(file)]


def score_with_vllm(keys: Mapping[str, Any]) -> None:
    """Answer and score the test sets of a finished task, and write what came of it.

    Args:
        keys: the task's recipe.
    """
    from llamafactory.extras import logging

    from sefe_plugin.benchmarks import official_rule
    from sefe_plugin.evaluation.results import write_predictions, write_scores
    from sefe_plugin.hosts.llamafactory.questions import QuestionReader

    model_args, data_args, finetuning_args, generating_args = _parse(keys)
    reader = QuestionReader(model_args, data_args)
    if way := reader.way_of_asking():
        logging.get_logger().info_rank0(way)
    test_sets = {
        test_set["name"]: (
            test_set["dataset"],
            read_test_set(
                test_set["dataset"],
                data_args.dataset_dir,
                scorer_of(test_set["scorer"]),
                test_set.get("max_samples"),
            ),
        )
        for test_set in finetuning_args.test_sets
    }
    # with the image tokens that vLLM makes of one for each image
    longest = max(
        len(feature["input_ids"]) for test_set in test_sets.values() for feature in reader.questions(*test_set)
    )
    unexpanded = QuestionReader(model_args, data_args, expand_images=False)
    features = [feature for test_set in test_sets.values() for feature in unexpanded.questions(*test_set)]
    most_images = max(len(feature["images"] or ()) for feature in features)
    request = {
        "engine": engine_options(keys, model_args, most_images, longest + generating_args.max_new_tokens),
        "sampling": greedy_sampling(reader.stop_token_ids, generating_args.max_new_tokens),
        "adapter": str(_adapter(keys).absolute()) if _has_adapter(keys) else None,
    }
    progress, count = ProgressFile(Path(keys["output_dir"])), sum(len(records) for _, records in test_sets.values())
    progress.go_on()
    progress.begin(SCORING, count)
    size = (model_args.vllm_config or {}).get("tensor_parallel_size", 1)
    groups = group_devices(_visible_devices(), size)
    python = finetuning_args.scoring_python or sys.executable

    def answer_share(rank: int) -> list[list[int]]:
        share = features[rank :: len(groups)]
        questions = (question_line(feature, unexpanded, model_args) for feature in share)
        return answers_of(python, request, questions, len(share), groups[rank])

    with ThreadPoolExecutor(len(groups)) as pool:
        shares = list(pool.map(answer_share, range(len(groups))))
    progress.count(count)
    replies = (reader.replies.decode(shares[i % len(groups)][i // len(groups)]) for i in range(count))
    output_dir = Path(keys["output_dir"])
    for name, (_, records) in test_sets.items():
        write_predictions(output_dir, name, records, [next(replies) for _ in records], reader.replies.answer)
    write_scores(output_dir, finetuning_args.test_sets, official_rule)
    _tell_trackers(keys, finetuning_args)


def _tell_trackers(keys: Mapping[str, Any], finetuning_args: Any) -> None:
    """Give the scores to the trackers of the task, whose training has ended without them."""
    if keys.get("report_to", "none") in ("none", ["none"], [], None):
        return
    from llamafactory.hparams import TrainingArguments
    from transformers import HfArgumentParser

    from sefe_plugin.hosts.llamafactory.trackers import Trackers

    # nothing is trained here, and the host's checks are for what trains; nor has DeepSpeed been launched
    kept = {key: value for key, value in keys.items() if key != "deepspeed"}
    (training_args,) = HfArgumentParser((TrainingArguments,)).parse_dict(kept, allow_extra_keys=True)
    trackers = Trackers(training_args, finetuning_args, None)
    trackers.begin(None)
    trackers.log_scores()
    trackers.close()


def group_devices(devices: Sequence[str], size: int) -> list[list[str]]:
    """Group devices into those of one model each.

    Args:
        devices: ids of the visible devices; none where vLLM runs on the CPU.
        size: devices of one model.

    Raises:
        ValueError: if there are fewer devices than one model needs.

    Example:
        >>> group_devices(["0", "1", "2", "3", "4"], 2)
        [['0', '1'], ['2', '3']]
    """
    if not devices and size == 1:
        return [[]]
    groups = [list(devices[start : start + size]) for start in range(0, len(devices) - size + 1, size)]
    if not groups:
        raise ValueError(
            f"`vllm_config`: `tensor_parallel_size` must be at most the number of visible devices, {len(devices)}; "
            f"got {size}."
        )
    return groups


def _visible_devices() -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [device for device in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if device.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _parse(keys: Mapping[str, Any]) -> tuple:
    """Return the host's arguments for model, data, fine-tuning and generation; training's do not matter here."""
    from llamafactory.hparams import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
    from transformers import HfArgumentParser

    parser = HfArgumentParser((ModelArguments, DataArguments, FinetuningArguments, GeneratingArguments))
    return parser.parse_dict(dict(keys), allow_extra_keys=True)


def answers_of(
    python: str, request: Mapping[str, Any], questions: Iterable[bytes], count: int, devices: Sequence[str] = ()
) -> list[list[int]]:
    """Have an interpreter answer questions with vLLM.

    Args:
        python: the interpreter.
        request: what `vllm_engine` is asked for.
        questions: lines of `question_line`.
        count: their number.
        devices: ids of the devices that it sees; it sees those of this process where there are none.

    Returns:
        The tokens of the answers, in the order of the questions.

    Raises:
        RuntimeError: if it ends without an answer to each; what it said has gone where this process's output goes.
    """
    # no module beside the script may take the place of one that vLLM imports
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder, "answers.jsonl")
        command = [python, vllm_engine.__file__, str(answers)]
        started = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        # a pipe breaks where it has ended: its status says how
        with started as process, suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json_line(request))
            process.stdin.writelines(questions)
        given = read_json_lines(answers) if process.returncode == 0 else []
    if len(given) != count:
        raise RuntimeError(
            f"vLLM, run by {python}, ended with exit status {process.returncode} and has not answered all {count} "
            "questions. What it said stands above."
        )
    return given


def greedy_sampling(stop_token_ids: Sequence[int], max_new_tokens: int) -> dict[str, Any]:
    """Return the arguments of `vllm.SamplingParams` for greedy answers.

    Args:
        stop_token_ids: tokens that end an answer for the trained model; nothing else ends one.
        max_new_tokens: tokens of the longest answer.
    """
    return {
        "temperature": 0.0,
        "max_tokens": max_new_tokens,
        "stop_token_ids": list(stop_token_ids),
        "ignore_eos": True,
        "detokenize": False,
    }


def question_line(feature: Mapping[str, Any], reader, model_args) -> bytes:
    """Return a question as a line for `vllm_engine`, its pictures as the host resizes them.

    Args:
        feature: of `QuestionReader.questions`, with one image token for each image.
        reader: the reader that made it.
        model_args: the host's arguments of the model.
    """
    images = []
    if feature["images"]:
        images = reader.template.mm_plugin._regularize_images(
            feature["images"],
            image_max_pixels=model_args.image_max_pixels,
            image_min_pixels=model_args.image_min_pixels,
        )["images"]
    return json_line({"prompt_token_ids": feature["input_ids"], "images": list(map(_png, images))})


def _png(image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _model(keys: Mapping[str, Any]) -> Path | None:
    """Return the folder of the whole trained model; None where it is a base, with an adapter or alone."""
    if _is_base(keys):
        return None
    folder = Path(keys["output_dir"])
    if keys["finetuning_type"] == "full":
        return folder
    return folder / "merged" if (folder / "merged").is_dir() else None


def _is_base(keys: Mapping[str, Any]) -> bool:
    """Tell whether the untouched base answers, before the first task; the recipe of a task trains."""
    return not keys["do_train"]


def _has_adapter(keys: Mapping[str, Any]) -> bool:
    """Tell whether the base answers with an adapter."""
    return not _is_base(keys) and _model(keys) is None


def _adapter(keys: Mapping[str, Any]) -> Path:
    """Return the adapters of all tasks so far, or this task's own where they are not stacked."""
    folder = Path(keys["output_dir"])
    return folder / "stacked" if (folder / "stacked").is_dir() else folder


def _lora_rank(adapter: Path) -> int:
    """Return the rank to reserve room for."""
    rank = read_json(adapter / "adapter_config.json")["r"]
    if rank > _LORA_RANKS[-1]:
        raise ValueError(
            f"{adapter} has rank {rank}, and vLLM serves ranks up to {_LORA_RANKS[-1]}. Set `carry: merge` or "
            "`scoring_backend: generate`."
        )
    return next(room for room in _LORA_RANKS if room >= rank)


def engine_options(keys: Mapping[str, Any], model_args, most_images: int, max_model_len: int) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`.

    Args:
        keys: the task's recipe.
        model_args: the host's arguments of the model.
        most_images: images of the question that has most of them.
        max_model_len: tokens of the longest question, image tokens among them, and of its answer.

    Raises:
        ValueError: if vLLM cannot serve the adapter.
    """
    model = _model(keys)
    options = {
        "model": str(model or model_args.model_name_or_path),
        "trust_remote_code": model_args.trust_remote_code,
        "dtype": model_args.infer_dtype,
        "max_model_len": max_model_len,
        "gpu_memory_utilization": model_args.vllm_gpu_util,
        "enforce_eager": model_args.vllm_enforce_eager,
        # the model's own settings may add stop tokens
        "generation_config": "vllm",
    }
    if most_images:
        options["limit_mm_per_prompt"] = {"image": most_images}
    if _has_adapter(keys):
        if model_args.pad_images:
            raise ValueError(
                "`pad_images` with `scoring_backend: vllm` needs a merged model, which holds the padding processor. "
                "Set `carry: merge` or `scoring_backend: generate`."
            )
        options["enable_lora"] = True
        options["max_lora_rank"] = _lora_rank(_adapter(keys))
    return options | (model_args.vllm_config or {})


if __name__ == "__main__":
    end_with_runner()
    score_with_vllm(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")))
