"""Measure how many questions of test sets are answered in a second, in fixed batches and in a batch that stays full.

    python tests/benchmarks/bench_scoring.py --json FILE                                   # mini-CoIN's tiny LLaVA
    python tests/benchmarks/bench_scoring.py --smollm2 models/SmolLM2-135M-Instruct --json FILE   # and SmolLM2
    python tests/benchmarks/bench_scoring.py --shared 4 --json FILE   # and a LLaVA with 576 tokens for each image

Both ways answer all test sets of mini-CoIN, or of `styles`, with the batch size, length and LoRA adapter of the
recipes, from the records to the text. "fixed" is plain `generate` on each batch, ordered by length in its test set,
with the adapter beside its base, by all threads; "rolling" is what a sequence does: a small model answers in as many
processes as there are threads. They take turns. OMP_NUM_THREADS=1 measures one process alone. A sequence has its
threads wait with OMP_WAIT_POLICY=PASSIVE, and on a free machine with GOMP_SPINCOUNT=10000 beside it. The adapter is
random and small, so the answers are nearly those of the base; the folder of a trained model, such as the `merged` of a
task, measures that. Every answer of both ways is compared: what differs is printed and counted.

`--shared N` adds a small random LLaVA with as many tokens for an image as LLaVA-1.5, which is asked N questions about
each image, as CoIN's test sets do: GQA has some 30 for each image, OCR-VQA 5.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from llamafactory.hparams import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from llamafactory.model import load_model, load_tokenizer
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    HfArgumentParser,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from sefe_plugin.benchmarks import minicoin
from sefe_plugin.benchmarks.minicoin import data as minicoin_data
from sefe_plugin.benchmarks.styles import data as styles_data
from sefe_plugin.evaluation.generate import generate_answers, generating
from sefe_plugin.evaluation.merged import merged_where_exact
from sefe_plugin.files import read_json, replacing
from sefe_plugin.hosts.llamafactory.questions import QuestionReader
from sefe_plugin.hosts.llamafactory.scoring import answers_of
from sefe_plugin.hosts.llamafactory.shares import Share, order_by_length, share_batches


Answers = dict[tuple[int, int], str]
_STD = 1e-3


def write_llava(folder: Path) -> None:
    """Write a random LLaVA with 576 tokens for each image, as LLaVA-1.5 has, and a small language model."""
    tokenizer = AutoTokenizer.from_pretrained(minicoin.BASE)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 8}
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        text_config=LlamaConfig(**text, vocab_size=len(tokenizer), **ids),
        vision_config=CLIPVisionConfig(**vision, image_size=336, patch_size=14),
        image_token_index=tokenizer.image_token_id,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    parts = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    LlavaProcessor(CLIPImageProcessor(**size), tokenizer, **parts).save_pretrained(folder)


class Scoring:
    """All test sets of a benchmark, and a model with an adapter.

    Args:
        keys: The host's, of model, data and generation.
        sets: Name of each dataset -> its file.
        size: Questions of a batch.
        count: Questions of each test set; None for all.
        shared: Questions that are asked about one image; the image of the first takes the place of the others'.
    """

    def __init__(
        self, keys: Mapping[str, Any], sets: Mapping[str, Path], size: int, count: int | None, shared: int = 1
    ):
        lora = {"finetuning_type": "lora", "lora_rank": 16, "lora_alpha": 32, "lora_target": "all"}
        parser = HfArgumentParser((ModelArguments, DataArguments, FinetuningArguments, GeneratingArguments))
        model_args, data_args, finetuning_args, generating_args = parser.parse_dict({**keys, **lora})
        self._reader = QuestionReader(model_args, data_args)
        self._model = load_model(load_tokenizer(model_args)["tokenizer"], model_args, finetuning_args, True)
        for name, parameter in self._model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=_STD)
        self._records = {name: read_json(file)[:count] for name, file in sets.items()}
        for records in self._records.values() if shared > 1 else ():
            shown = [record for record in records if "image" in record]
            for number, record in enumerate(shown):
                record["image"] = shown[number - number % shared]["image"]
        self._size = size
        self._limits = {
            "max_new_tokens": generating_args.max_new_tokens,
            "eos_token_id": self._reader.stop_token_ids,
            "pad_token_id": self._reader.tokenizer.pad_token_id,
        }

    def fixed(self) -> Answers:
        """Answer batch by batch."""
        found = {}
        for keys, batch in self._batches():
            replies = generate_answers(self._model, [batch], self._reader.replies.decode, **self._limits)
            found |= dict(zip(keys, replies, strict=True))
        return found

    def rolling(self) -> Answers:
        """Answer as a sequence does."""
        sets = [Share({"name": name, "dataset": name}, records, 0, 1) for name, records in self._records.items()]
        training_args = SimpleNamespace(world_size=1, per_device_eval_batch_size=self._size, dataloader_num_workers=0)
        with merged_where_exact(self._model), generating(self._model):
            answers = answers_of(self._model, sets, self._reader, training_args, self._limits, in_parts=False)
            return {tuple(place): answer for place, answer in answers}

    def _batches(self) -> Iterator[tuple[list[tuple[int, int]], dict]]:
        collate = self._reader.collate()
        for number, (name, records) in enumerate(self._records.items()):
            features = self._reader.questions(name, records)
            for batch in share_batches(order_by_length(features), 0, 1, self._size):
                yield [(number, index) for index in batch], collate([features[index] for index in batch])


def measure(scoring: Scoring, rounds: int) -> dict[str, Any]:
    """Return answers per second of both ways, medians over rounds, and the answers that differ."""
    ways: dict[str, Callable[[], Answers]] = {"fixed": scoring.fixed, "rolling": scoring.rolling}
    wall: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    answers: dict[str, Answers] = {}
    for _ in range(rounds):
        for way, answer in ways.items():
            began, began_cpu = time.perf_counter(), _cpu_seconds()
            answers[way] = answer()
            wall[way].append(time.perf_counter() - began)
            cpu[way].append(_cpu_seconds() - began_cpu)
            print(f"{way}: {len(answers[way]) / wall[way][-1]:.1f} a second", flush=True)
    differing = [
        (one, answers["rolling"][key]) for key, one in answers["fixed"].items() if one != answers["rolling"][key]
    ]
    for one, other in differing:
        print(f"differs: {one!r} {other!r}")
    count = len(answers["fixed"])
    return {
        "answers": count,
        "differing": len(differing),
        **{f"{way}_per_second": count / statistics.median(times) for way, times in wall.items()},
        **{f"{way}_per_cpu_second": count / statistics.median(times) for way, times in cpu.items()},
        "gain": _gain(wall),
        "gain_cpu": _gain(cpu),
    }


def _cpu_seconds() -> float:
    """Seconds of this process and of those that it has started and that have ended."""
    return sum(os.times()[:4])


def _gain(seconds: Mapping[str, Sequence[float]]) -> float:
    return statistics.median(one / two for one, two in zip(seconds["fixed"], seconds["rolling"], strict=True))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct, or of one trained further")
    parser.add_argument("--llava", type=Path, default=minicoin.BASE, help="folder of a tiny LLaVA")
    parser.add_argument("--shared", type=int, help="questions about each image of a LLaVA with 576 tokens for it")
    parser.add_argument("--count", type=int, help="questions of each test set; all if left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    figures: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    figures |= {name: os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "minicoin")
        minicoin_data.write_data(place, 42, train_size=8)
        keys = {"model_name_or_path": str(options.llava), "template": "llava", "default_system": ""}
        keys |= {"dataset_dir": str(place), "max_new_tokens": 24}
        sets = {f"minicoin_{task.name.lower()}_test": place / task.name / "test.json" for task in minicoin_data.TASKS}
        figures["minicoin"] = measure(Scoring(keys, sets, 40, options.count), options.rounds)
        if options.shared:
            write_llava(Path(folder, "llava"))
            keys["model_name_or_path"] = str(Path(folder, "llava"))
            scoring = Scoring(keys, sets, 16, options.count, options.shared)
            figures[f"{options.shared}_about_an_image"] = measure(scoring, options.rounds)
        if options.smollm2:
            place = Path(folder, "styles")
            styles_data.write_data(place, 42, train_size=8)
            keys = {"model_name_or_path": str(options.smollm2), "template": "smollm2", "default_system": ""}
            keys |= {"dataset_dir": str(place), "max_new_tokens": 32}
            sets = {f"styles_{task.name.lower()}_test": place / task.name / "test.json" for task in styles_data.TASKS}
            figures["styles"] = measure(Scoring(keys, sets, 20, options.count), options.rounds)
    with replacing(options.json) as draft:
        draft.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
