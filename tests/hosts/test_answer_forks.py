"""Test sets answered by several processes of one thread, as one process answers them."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llamafactory.hparams import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from llamafactory.model import load_model, load_tokenizer
from transformers import HfArgumentParser

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.data import TASKS, write_data
from sefe_plugin.hosts.llamafactory import answer_forks, scoring
from sefe_plugin.hosts.llamafactory.answer_forks import count_forks, from_forks
from sefe_plugin.hosts.llamafactory.shares import deal
from sefe_plugin.run.progress import ProgressFile, newest_progress


def numbers_of(*numbers):
    for number in numbers:
        yield [[number, os.getpid()], torch.get_num_threads()]


def endless():
    yield os.getpid()
    time.sleep(600)


def alive(process):
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE  # not every machine's first process reaps
    except psutil.NoSuchProcess:
        return False


def test_what_every_fork_gives_comes_and_each_computes_with_one_thread():
    found = list(from_forks([lambda: numbers_of(1, 2, 3), lambda: numbers_of(), lambda: numbers_of(4)]))
    assert sorted(number for (number, _), _ in found) == [1, 2, 3, 4]
    assert len({process for (_, process), _ in found} - {os.getpid()}) == 2
    assert {threads for _, threads in found} == {1}
    assert [number for (number, _), _ in found if number < 4] == [1, 2, 3]


def test_a_fork_that_fails_says_why_and_ends_the_others(tmp_path, capfd):
    def failing():
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        yield 1
        raise ValueError("the third question has no end")

    answers, processes = from_forks([failing, endless]), []
    with pytest.raises(RuntimeError, match="has failed: ValueError: the third question has no end"):
        for answer in answers:
            processes += [answer] if answer > 1 else []
            (tmp_path / "begun").touch()
    assert "in failing" in capfd.readouterr().err
    assert len(processes) == 1
    assert not alive(processes[0])


def test_one_that_is_killed_is_told():
    with pytest.raises(RuntimeError, match="was ended by SIGKILL, as a system does that runs out of memory"):
        list(from_forks([lambda: iter([os.kill(os.getpid(), signal.SIGKILL)])]))


def test_none_outlives_its_parent_or_the_iterator():
    answers = from_forks([endless])
    process = next(answers)
    assert alive(process)
    answers.close()
    assert not alive(process)
    code = (
        "import os, time\n"
        "from sefe_plugin.hosts.llamafactory.answer_forks import from_forks\n"
        "def endless():\n    yield os.getpid()\n    time.sleep(600)\n"
        "for process in from_forks([endless]):\n    print(process, flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    process = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    limit = time.monotonic() + 20
    while alive(process):
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_how_many_forks_answer(monkeypatch):
    model = torch.nn.Linear(4, 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert [count_forks(model, questions) for questions in (0, 7, 16, 31, 1000)] == [1, 1, 2, 3, 4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert count_forks(model, 1000) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)  # all of them for one process
    assert count_forks(model, 1000) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert count_forks(model.to("meta"), 1000) == 1
    model = torch.nn.Linear(4, 4)
    monkeypatch.setattr(answer_forks, "MOST_BYTES", 4 * (16 + 4) - 1)
    assert count_forks(model, 1000) == 1
    monkeypatch.setattr(answer_forks, "MOST_BYTES", 4 * (16 + 4))
    assert count_forks(model, 1000) == 4


@given(st.lists(st.sampled_from([None, ["a"], ["b"], ["a", "b"], ["c"]]), max_size=30), st.integers(1, 5))
def test_samples_with_the_same_images_go_to_one_part_and_parts_are_even(images, parts):
    dealt = deal(images, parts)
    assert sorted(number for part in dealt for number in part) == list(range(len(images)))
    holders = {}
    for number, part in enumerate(dealt):
        for sample in part:
            holders.setdefault(str(images[sample]), set()).add(number)
    holders.pop("None", None)
    assert all(len(numbers) == 1 for numbers in holders.values())
    largest = max((sum(own == one for own in images) for one in images if one), default=1)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= max(1, largest)


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Scores three small test sets with the tiny LLaVA, by as many processes as are named; returns what is written."""
    data = tmp_path / "data"
    write_data(data, seed=1000, train_size=8, test_size=9)
    tasks = TASKS[:3]
    file = data / tasks[1].name / "test.json"
    records = json.loads(file.read_text())
    for record in records[:4]:  # some without an image, others about the same one
        del record["image"]
        record["text"] = record["text"].removeprefix("<image>\n")
    for record in records[5:]:
        record["image"] = records[4]["image"]
    file.write_text(json.dumps(records))
    keys = {"model_name_or_path": str(BASE), "template": "llava", "default_system": "", "dataset_dir": str(data)}
    keys |= {"lora_rank": 4, "lora_target": "all", "max_new_tokens": 8}
    parser = HfArgumentParser((ModelArguments, DataArguments, FinetuningArguments, GeneratingArguments))
    model_args, data_args, finetuning_args, generating_args = parser.parse_dict(keys)
    torch.manual_seed(0)
    model = load_model(load_tokenizer(model_args)["tokenizer"], model_args, finetuning_args, True)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.01)

    def score(threads, **changes):
        place = tmp_path / f"scored_by_{threads}"
        place.mkdir(exist_ok=True)
        training = {"process_index": 0, "world_size": 1, "per_device_eval_batch_size": 4, "bf16": False, "fp16": False}
        training_args = SimpleNamespace(**training, dataloader_num_workers=0)
        arguments = (model_args, data_args, training_args, finetuning_args, generating_args)
        sets = [
            {"name": task.name, "dataset": f"minicoin_{task.name.lower()}_test", "scorer": task.scorer}
            for task in tasks
        ]
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        scoring.score_test_sets(model, sets, place, arguments, ProgressFile(place))
        phase = newest_progress(place)[-1]
        assert (phase.name, phase.done, phase.total) == ("scoring", 27, 27)
        return {file.name: file.read_bytes() for file in [place / "scores.json", *(place / "predictions").iterdir()]}

    score.data = data
    return score


def test_forks_leave_what_one_process_leaves(scored, monkeypatch):
    made = []
    monkeypatch.setattr(scoring, "from_forks", lambda sources: made.append(len(sources)) or from_forks(sources))
    alone = scored(1)
    assert not made
    assert len(alone) == 4
    assert scored(2) == alone
    assert scored(3) == alone
    assert made == [2, 3]


def test_a_record_that_cannot_be_asked_is_named_by_its_number_in_its_file(scored):
    file = scored.data / TASKS[2].name / "test.json"
    records = json.loads(file.read_text())
    records[7]["text"] = " "
    del records[7]["image"]
    file.write_text(json.dumps(records))
    with pytest.raises(RuntimeError, match=f"minicoin_{TASKS[2].name.lower()}_test, record 8: has no question"):
        scored(2)
