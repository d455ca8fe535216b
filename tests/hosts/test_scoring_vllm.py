"""Scoring with vLLM gives what scoring with the trained model gives.

A stand-in with the signatures of vLLM (`stand_ins/vllm`) answers in its place. So this shows that questions, images,
stop tokens, adapters, shares and files are right; `test_real_vllm` shows that vLLM takes them. The sequence names the
interpreter that holds the stand-in; the other tests have it in their own.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from llamafactory.data import get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments
from same_report import without_times
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoTokenizer

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.data import TASKS, write_data
from sefe_plugin.hosts.llamafactory.host import LlamaFactory
from sefe_plugin.hosts.llamafactory.vllm_scoring import group_devices, score_command
from sefe_plugin.hosts.llamafactory.watch import RUNNER_PID
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.job import base_arguments


STAND_INS = Path(__file__).parent / "stand_ins"
TASK = TASKS[0]
FOLDER = f"1_{TASK.name}"


@pytest.fixture(scope="module")
def with_stand_in(warm):
    """That of processes which find the stand-in, and need not load the host."""
    paths = filter(None, [str(STAND_INS), os.environ.get("PYTHONPATH")])
    return warm | {"PYTHONPATH": os.pathsep.join(paths)}


def run(command, environment, folder, devices=""):
    environment = environment | {"CUDA_VISIBLE_DEVICES": devices, "STAND_IN_LOG": str(folder / "engines.jsonl")}
    command = [shutil.which(command[0], path=environment["PATH"]), *map(str, command[1:])]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, with_stand_in, plain_python) -> Path:
    """Holds `generate` and `vllm`: the same sequence of one task, scored by either."""
    folder = tmp_path_factory.mktemp("backends")
    write_data(folder / "data", seed=1000, train_size=16, test_size=9)
    stem = f"minicoin_{TASK.name.lower()}"
    keys = {
        "model_name_or_path": str(BASE),
        "template": "llava",
        "default_system": "",
        "lora_rank": 4,
        "lora_target": "all",
        "dataset_dir": str(folder / "data"),
        "cutoff_len": 128,
        "preprocessing_num_workers": 1,
        "save_strategy": "no",
        "report_to": "tensorboard",
        "per_device_train_batch_size": 8,
        "learning_rate": 2e-3,
        "num_train_epochs": 2,
        "disable_gradient_checkpointing": True,
        "per_device_eval_batch_size": 4,
        "max_new_tokens": 12,
        "tasks": [
            {"name": TASK.name, "dataset": f"{stem}_train", "test_dataset": f"{stem}_test", "scorer": TASK.scorer}
        ],
    }
    elsewhere = folder / "python"
    log = folder / "elsewhere.jsonl"
    elsewhere.write_text(
        "#!/bin/sh\nexport SEFE_PLUGIN_DISABLE=1\n"
        f'PYTHONPATH={STAND_INS} STAND_IN_LOG={log} exec {plain_python} "$@"\n'
    )
    elsewhere.chmod(0o755)
    for backend, more in (("generate", {}), ("vllm", {"scoring_python": str(elsewhere)})):
        file = folder / f"{backend}.yaml"
        own = {**keys, **more, "scoring_backend": backend, "output_dir": str(folder / backend)}
        file.write_text(yaml.safe_dump(own))
        result = run(["llamafactory-cli", "train", file], with_stand_in, folder)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


def results(task_folder: Path) -> tuple[bytes, bytes]:
    return tuple((task_folder / name).read_bytes() for name in ("scores.json", f"predictions/{TASK.name}.jsonl"))


def scores_in_tensorboard(task_folder: Path) -> list[tuple[int, float]]:
    shown = []
    for place in (task_folder / "runs").iterdir():
        events = EventAccumulator(str(place))
        events.Reload()
        if "test/mfn" in events.Tags()["scalars"]:
            shown += [(event.step, event.value) for event in events.Scalars("test/mfn")]
    (score,) = shown
    assert score[0] > 0
    return shown


def longest_question(folder: Path) -> int:
    """Tokens of the longest question with the four of its image, counted by hand."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    records = json.loads((folder / "data" / TASK.name / "test.json").read_text())
    template = get_template_and_fix_tokenizer(tokenizer, DataArguments(template="llava", default_system=""))
    lengths = []
    for record in records:
        turns = [{"role": "user", "content": record["text"].replace("<image>", "<image>" * 4)}]
        prompt, _ = template.encode_oneturn(tokenizer, [*turns, {"role": "assistant", "content": ""}])
        lengths.append(len(prompt))
    return max(lengths)


def test_both_backends_leave_the_same_files(folder):
    assert results(folder / "vllm" / FOLDER) == results(folder / "generate" / FOLDER)
    assert without_times(folder / "vllm" / "report.json") == without_times(folder / "generate" / "report.json")
    assert scores_in_tensorboard(folder / "vllm" / FOLDER) == scores_in_tensorboard(folder / "generate" / FOLDER)
    (engine,) = (json.loads(line) for line in (folder / "elsewhere.jsonl").read_text().splitlines())
    assert engine["model"] == str(folder / "vllm" / FOLDER / "merged")
    assert engine["max_model_len"] == longest_question(folder) + 12
    assert engine["limit_mm_per_prompt"] == {"image": 1}
    assert not engine["enable_lora"]


def test_devices_share_the_questions_and_an_adapter_answers_where_nothing_is_merged(folder, with_stand_in, tmp_path):
    task_folder = tmp_path / "task"
    shutil.copytree(
        folder / "vllm" / FOLDER, task_folder, ignore=shutil.ignore_patterns("merged", "scores.json", "predictions")
    )
    keys = yaml.safe_load((task_folder / "task.yaml").read_text())
    keys |= {"scoring_python": None, "output_dir": str(task_folder), "vllm_config": {"tensor_parallel_size": 2}}
    (task_folder / "task.yaml").write_text(yaml.safe_dump(keys))
    command = ["python", *score_command(task_folder / "task.yaml")[1:]]
    result = run(command, with_stand_in, tmp_path, devices="4,5,6,7")
    assert result.returncode == 0, result.stderr[-3000:]
    assert results(task_folder) == results(folder / "generate" / FOLDER)
    engines = [json.loads(line) for line in (tmp_path / "engines.jsonl").read_text().splitlines()]
    assert sorted(engine["devices"] for engine in engines) == ["4,5", "6,7"]
    for engine in engines:
        assert engine["model"] == str(BASE)
        assert (engine["enable_lora"], engine["max_lora_rank"], engine["tensor_parallel_size"]) == (True, 8, 2)


def test_both_backends_answer_alike_with_the_untouched_base(folder, with_stand_in, tmp_path):
    keys = yaml.safe_load((folder / "vllm" / FOLDER / "task.yaml").read_text())
    dropped = (
        "cl_method",
        "merge_adapter",
        "output_dir",
        "test_sets",
        "scoring_backend",
        "scoring_python",
        "deepspeed",
    )
    common = {key: value for key, value in keys.items() if key not in dropped} | {"score_unseen": True}
    task = Task(TASK.name, keys["dataset"], keys["test_sets"][0]["dataset"], TASK.scorer, {})
    for backend in ("generate", "vllm"):
        run_folder = RunFolder(tmp_path / backend)
        run_folder.base_folder.mkdir(parents=True)
        arguments = base_arguments({**common, "scoring_backend": backend}, [task], run_folder)
        _, *command = LlamaFactory().score_base(run_folder.base_folder / "score.yaml", arguments)
        result = run(["python", *command], with_stand_in | {RUNNER_PID: str(os.getpid())}, tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
    assert results(tmp_path / "vllm/0_base") == results(tmp_path / "generate/0_base")
    (engine,) = (json.loads(line) for line in (tmp_path / "engines.jsonl").read_text().splitlines())
    assert engine["model"] == str(BASE)
    assert not engine.get("enable_lora")


def test_devices_are_grouped_whole():
    assert group_devices([], 1) == [[]]
    assert group_devices(["0", "1", "2"], 1) == [["0"], ["1"], ["2"]]
    assert group_devices(["0", "1", "2"], 2) == [["0", "1"]]
    with pytest.raises(ValueError, match="must be at most the number of visible devices, 1; got 2"):
        group_devices(["0"], 2)
