"""vLLM gives the answers that `generate` gives, token for token, but for ties.

Two engines add up numbers in different orders, so their logits differ in the last digits. Where the best two tokens
are closer than that, a tie, either may be taken. An answer counts as a tie if, at the first token that differs, the
model itself finds both tokens within `TIE` of each other.

SEFE_VLLM_PYTHON names an interpreter that holds vLLM, and SEFE_SMOL_MODEL the folder that `sefe smol fetch` made:

    SEFE_VLLM_PYTHON=envs/vllm/bin/python SEFE_SMOL_MODEL=smol/model python -m pytest -s tests/hosts/test_real_vllm.py

The same comparison runs always with a stand-in for vLLM in an interpreter that is not this one.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from llamafactory.hparams import DataArguments, ModelArguments
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.data import TASKS, write_data
from sefe_plugin.hosts.llamafactory.questions import QuestionReader
from sefe_plugin.hosts.llamafactory.vllm_scoring import answers_of, engine_options, greedy_sampling, question_line
from sefe_plugin.hosts.llamafactory.weight_names import keep_own_names


STAND_INS = Path(__file__).parent / "stand_ins"
VLLM = os.environ.get("SEFE_VLLM_PYTHON")
SMOL = os.environ.get("SEFE_SMOL_MODEL")
needs_vllm = pytest.mark.skipif(not VLLM, reason="SEFE_VLLM_PYTHON names no interpreter that holds vLLM")
needs_smol = pytest.mark.skipif(not SMOL, reason="SEFE_SMOL_MODEL names no folder of SmolLM2")

#: Logits that are closer than this are a tie.
TIE = 1e-3
COUNT, NEW_TOKENS = 60, 16


@pytest.fixture
def stand_in(tmp_path, plain_python):
    """An interpreter that holds the stand-in for vLLM: this one, with one more folder and without the plugin."""
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\nexport SEFE_PLUGIN_DISABLE=1\n"
        f'PYTHONPATH={STAND_INS} STAND_IN_LOG={tmp_path}/engines.jsonl exec {plain_python} "$@"\n'
    )
    program.chmod(0o755)
    return str(program)


@dataclass
class Case:
    """A model with questions that it is asked."""

    model: torch.nn.Module
    keys: dict
    reader: QuestionReader
    features: list[dict]
    lines: list[bytes]
    engine: dict
    adapter: str | None


def case(model, records, folder, template, adapter=None) -> Case:
    """Ask `model` the records; `folder` holds their dataset as "asked"."""
    model_args = ModelArguments(
        model_name_or_path=str(model.name_or_path), infer_dtype="float32", vllm_gpu_util=0.15, vllm_enforce_eager=True
    )
    data_args = DataArguments(template=template, dataset_dir=str(folder), default_system="")
    reader, short = QuestionReader(model_args, data_args), QuestionReader(model_args, data_args, expand_images=False)
    features, asked = reader.questions("asked", records), short.questions("asked", records)
    keys = {"do_train": bool(adapter), "finetuning_type": "lora", "output_dir": adapter or "none"}
    longest = max(len(feature["input_ids"]) for feature in features)
    most_images = max(len(feature["images"] or ()) for feature in features)
    engine = engine_options(keys, model_args, most_images, longest + NEW_TOKENS)
    lines = [question_line(feature, short, model_args) for feature in asked]
    return Case(model, keys, reader, features, lines, engine, adapter)


def compare(asked: Case, python: str) -> SimpleNamespace:
    """Return how many answers are the same, and how many differ by a tie; fail where one differs otherwise."""
    sampling = greedy_sampling(asked.reader.stop_token_ids, NEW_TOKENS)
    request = {"engine": asked.engine, "sampling": sampling, "adapter": asked.adapter}
    answers = answers_of(python, request, asked.lines, len(asked.lines))
    collate, counts, gaps = asked.reader.collate(), SimpleNamespace(same=0, ties=0), []
    for feature, answer in zip(asked.features, answers, strict=True):
        batch = collate([feature])
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values") if name in batch}
        with torch.no_grad():
            output = asked.model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                eos_token_id=asked.reader.stop_token_ids,
                pad_token_id=asked.reader.tokenizer.pad_token_id,
            )
        own = output[0, inputs["input_ids"].shape[1] :].tolist()
        if own == answer:
            counts.same += 1
            continue
        assert answer, "no answer at all"
        place = next(i for i, (a, b) in enumerate(zip(own, answer, strict=False)) if a != b)
        prefix = torch.tensor([own[:place]], dtype=torch.long)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], prefix], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            logits = asked.model(**inputs).logits[0, -1]
        gaps.append(float(logits[own[place]] - logits[answer[place]]))
        counts.ties += gaps[-1] < TIE
    print(f"\n{len(answers)} answers: {counts.same} the same, {counts.ties} differ by a tie; gaps {gaps}")
    assert max(gaps, default=0) < TIE, gaps
    return counts


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """The tiny LLaVA of mini-CoIN as a task of a sequence saves it, with questions about pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    write_data(folder, seed=1000, train_size=4, test_size=COUNT)
    stem = f"minicoin_{TASKS[0].name.lower()}_test"
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({"asked": info[stem]}))
    records = json.loads((folder / info[stem]["file_name"]).read_text())[:COUNT]
    for record in records:
        record["image"] = str(folder / record["image"]) if isinstance(record.get("image"), str) else None
    model = LlavaForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32).eval()
    saved = tmp_path_factory.mktemp("saved")
    shutil.copytree(BASE, saved, dirs_exist_ok=True)
    keep_own_names(model)
    model.save_pretrained(saved)
    return LlavaForConditionalGeneration.from_pretrained(saved, dtype=torch.float32).eval(), records, folder


@pytest.fixture(scope="module")
def adapted(llava, tmp_path_factory):
    """The same with an adapter that changes its answers."""
    plain, records, folder = llava
    place = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    base = LlavaForConditionalGeneration.from_pretrained(plain.name_or_path, dtype=torch.float32)
    targets = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    config = LoraConfig(r=8, lora_alpha=32, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(place)
    fresh = LlavaForConditionalGeneration.from_pretrained(plain.name_or_path, dtype=torch.float32)
    model = PeftModel.from_pretrained(fresh, place).merge_and_unload().eval()
    return model, records, folder, str(place)


def test_a_stand_in_in_another_interpreter_answers_as_generate_does(llava, stand_in):
    model, records, folder = llava
    counts = compare(case(model, records[:8], folder, "llava"), stand_in)
    assert counts.same + counts.ties == 8


def test_a_wrong_answer_is_no_tie(llava, tmp_path, stand_in):
    """The comparison itself can fail: here the other engine is asked other questions."""
    model, records, folder = llava
    asked = case(model, records[:8], folder, "llava")
    asked.lines.reverse()
    with pytest.raises(AssertionError):
        compare(asked, stand_in)


@needs_vllm
def test_vllm_answers_about_pictures_as_generate_does(llava):
    model, records, folder = llava
    compare(case(model, records, folder, "llava"), VLLM)


@needs_vllm
def test_vllm_answers_with_an_adapter_as_the_merged_model_does(adapted):
    model, records, folder, adapter = adapted
    compare(case(model, records, folder, "llava", adapter), VLLM)


@needs_vllm
@needs_smol
def test_vllm_answers_as_smollm2_generates(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(SMOL, dtype=torch.float32).eval()
    words = ["river", "lamp", "tiger", "bread", "cloud", "violin", "carpet", "engine", "island", "pepper"]
    asked = [f"What is {3 * n + 2} plus {2 * n + 5}?" for n in range(COUNT // 3)]
    asked += [f"Name one use of a {word} in {place}." for word in words for place in ("a house", "a story")]
    asked += [f"Is {n} an even number? Answer with yes or no." for n in range(COUNT // 3)]
    records = [{"instruction": question, "input": "", "output": "x"} for question in asked]
    (tmp_path / "asked.json").write_text(json.dumps(records))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"asked": {"file_name": "asked.json"}}))
    compare(case(model, records, tmp_path, "smollm2"), VLLM)
