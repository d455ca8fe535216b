"""How processes share test sets, also where each of them holds a part of the model."""

import json
import os
import subprocess
import sysconfig
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from llamafactory.data import get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from llamafactory.model import load_tokenizer
from transformers import HfArgumentParser
from transformers.integrations.deepspeed import is_deepspeed_available

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.data import TASKS, write_data
from sefe_plugin.hosts.llamafactory.scoring import score_test_sets
from sefe_plugin.hosts.llamafactory.shares import share_batches
from sefe_plugin.run.progress import ProgressFile, newest_progress


CLI = Path(sysconfig.get_paths()["scripts"]) / "llamafactory-cli"
ZERO3 = Path(__file__).parents[1] / "deepspeed" / "zero3.json"
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("SEFE_")} | {
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PATH": f"{CLI.parent}{os.pathsep}{os.environ['PATH']}",  # the host starts `torchrun` by name
}


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 7))
def test_all_processes_run_equally_many_batches_and_share_all_samples(count, world, size):
    order = list(range(count))[::-1]
    shares = [share_batches(order, rank, world, size) for rank in range(world)]
    assert len({len(batches) for batches in shares}) == 1
    assert {index for batches in shares for batch in batches for index in batch} == set(order)
    places, dealt = {sample: place for place, sample in enumerate(order)}, []
    for rank, batches in enumerate(shares):
        for batch in batches:
            assert 1 <= len(batch) <= size
            assert [places[sample] for sample in batch] == [*range(places[batch[0]], places[batch[0]] + len(batch))]
        dealt += [sample for batch in batches for sample in batch if rank == 0 or sample != order[0]]
        assert len(dealt) == sum(len(order[process::world]) for process in range(rank + 1))
    assert sorted(dealt) == sorted(order)
    # no batch more than the largest share needs
    assert len(shares[0]) == -(-len(order[::world]) // size)


def test_no_samples_make_no_batches():
    assert [share_batches([], rank, 2, 4) for rank in (0, 1)] == [[], []]


class Parrot(torch.nn.Module):
    """Stands for a model that has learned one reply; keeps the questions that it is asked."""

    device = torch.device("cpu")

    def __init__(self, reply):
        super().__init__()
        self.reply, self.asked = torch.tensor(reply), []
        self.rope_deltas = None  # as a model that keeps positions of its own, it is asked by plain `generate`

    def generate(self, input_ids, attention_mask, **more):
        self.asked += [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        return torch.cat([input_ids, self.reply.expand(len(input_ids), -1)], dim=1)


@pytest.mark.parametrize(
    ("template", "thinking"), [("llava", True), *product(("deepseekr1", "qwen3"), (True, False, None))]
)
def test_an_answer_without_a_thought_is_scored_as_it_was_trained(tmp_path, template, thinking):
    question = "What color is the cube that stands to the left of the green one?"
    (tmp_path / "x.json").write_text(json.dumps([{"text": question, "answer": "red"}] * 3))
    columns = {"prompt": "text", "response": "answer"}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"x": {"file_name": "x.json", "columns": columns}}))
    keys = {"model_name_or_path": str(BASE), "template": template, "dataset_dir": str(tmp_path), "cutoff_len": 16}
    parser = HfArgumentParser((ModelArguments, DataArguments, FinetuningArguments, GeneratingArguments))
    model_args, data_args, finetuning_args, generating_args = parser.parse_dict({**keys, "enable_thinking": thinking})
    # the prompt and the reply as the host trains them
    tokenizer = load_tokenizer(model_args)["tokenizer"]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "red"}]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    ((prompt, reply),) = template.encode_multiturn(tokenizer, turns)
    model = Parrot(reply)
    training_args = SimpleNamespace(
        process_index=0, world_size=1, per_device_eval_batch_size=2, dataloader_num_workers=0, bf16=False, fp16=False
    )
    test_sets = [{"name": "A", "dataset": "x", "scorer": "short_answer"}]
    arguments = (model_args, data_args, training_args, finetuning_args, generating_args)
    progress = ProgressFile(tmp_path)
    score_test_sets(model, test_sets, tmp_path, arguments, progress)
    phase = newest_progress(tmp_path)[-1]
    assert (phase.name, phase.done, phase.total) == ("scoring", 3, 3)
    assert json.loads((tmp_path / "scores.json").read_text())["A"]["accuracy"] == 100
    assert model.asked == [prompt] * 3
    assert len(prompt) > 16  # a question is not cut
    rows = [json.loads(line) for line in (tmp_path / "predictions" / "A.jsonl").read_text().splitlines()]
    raw = {"raw_prediction": "<think>\n\n</think>\n\n red"} if thinking and keys["template"] != "llava" else {}
    assert rows == [{"text": question, "answer": "red", "prediction": "red", **raw}] * 3
    # answers with thoughts beside them are known again
    score_test_sets(None, test_sets, tmp_path, arguments, progress)


@pytest.mark.slow
@pytest.mark.skipif(not is_deepspeed_available(), reason="needs deepspeed")
def test_a_model_in_parts_answers_like_a_whole_one(tmp_path):
    """Shares of three and two samples make two batches and one; one of the processes has none of the single sample.

    Three samples, the shortest, have no image: one process has a batch without any while the other has one with.
    The learning rate is 0, so that both runs score the same model.
    """
    sizes = (5, 1)
    data = tmp_path / "data"
    write_data(data, seed=1000, train_size=8, test_size=max(sizes))
    for task, size in zip(TASKS, sizes, strict=False):
        file = data / task.name / "test.json"
        records = json.loads(file.read_text())[:size]
        for record in records[:3] if size > 3 else ():
            del record["image"]
            record["text"] = record["text"].removeprefix("<image>\n")
        file.write_text(json.dumps(records))
    tasks = TASKS[: len(sizes)]
    keys = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(BASE),
        "template": "llava",
        "default_system": "",
        "finetuning_type": "lora",
        "lora_rank": 4,
        "lora_target": "all",
        "dataset": f"minicoin_{tasks[0].name.lower()}_train",
        "dataset_dir": str(data),
        "cutoff_len": 256,
        "preprocessing_num_workers": 1,
        "save_strategy": "no",
        "report_to": "none",
        "per_device_train_batch_size": 4,
        "learning_rate": 0.0,
        "max_steps": 1,
        "disable_gradient_checkpointing": True,
        "per_device_eval_batch_size": 2,
        "dataloader_num_workers": 1,
        "max_new_tokens": 8,
        "test_sets": [
            {"name": task.name, "dataset": f"minicoin_{task.name.lower()}_test", "scorer": task.scorer}
            for task in tasks
        ],
    }
    runs = {
        "whole": ({}, {}),
        "parts": (
            {"deepspeed": str(ZERO3)},
            {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "DS_ACCELERATOR": "cpu"},
        ),
    }
    for name, (more, environment) in runs.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**keys, **more, "output_dir": str(tmp_path / name)}))
        # a process that waits for others in vain is stopped by the time limit
        result = subprocess.run(
            [str(CLI), "train", str(file)], capture_output=True, text=True, env=ENVIRONMENT | environment, timeout=400
        )
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    files = ["scores.json", *(f"predictions/{task.name}.jsonl" for task in tasks)]
    for file in files:
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    assert [len((tmp_path / "parts" / file).read_text().splitlines()) for file in files[1:]] == list(sizes)
