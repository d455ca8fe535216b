"""Test sets tried before the start: what no answer could be right for is told by record, and the rest passes."""

import json
import struct
import zlib
from pathlib import Path

import pytest
from llamafactory.hparams import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from PIL import Image
from transformers import HfArgumentParser

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.data import TASKS, write_data
from sefe_plugin.hosts.llamafactory import many_records
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.test_trial import test_set_trial_errors as trial_errors
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe


MESSAGES = {"formatting": "sharegpt", "columns": {"messages": "conversations", "images": "image"}}


@pytest.fixture
def tried(tmp_path):
    """Writes one test set, tries it, and returns what is wrong with it."""

    def run(records, declaration=None, scorer="short_answer", notes=None, limit=None, **keys):
        (tmp_path / "x.json").write_text(json.dumps(records))
        declared = {"columns": {"prompt": "text", "response": "answer", "images": "image"}, **(declaration or {})}
        (tmp_path / "dataset_info.json").write_text(json.dumps({"x": {"file_name": "x.json", **declared}}))
        keys = {
            "model_name_or_path": str(BASE),
            "template": "llava",
            "default_system": "",
            "dataset_dir": str(tmp_path),
            "max_new_tokens": 16,
            **keys,
        }
        parser = HfArgumentParser((ModelArguments, DataArguments, FinetuningArguments, GeneratingArguments))
        one = {"name": "x", "dataset": "x", "scorer": scorer, "max_samples": limit}
        note = [].append if notes is None else notes.append
        return trial_errors([one], *parser.parse_dict(keys), note=note)

    return run


def turns(*values):
    roles = ("human", "gpt") * len(values)
    return {"conversations": [{"from": role, "value": value} for role, value in zip(roles, values, strict=False)]}


def test_the_test_sets_of_minicoin_pass(tmp_path):
    write_data(tmp_path, seed=1000, train_size=1, test_size=4)
    keys = {"model_name_or_path": str(BASE), "template": "llava", "default_system": "", "dataset_dir": str(tmp_path)}
    parser = HfArgumentParser((ModelArguments, DataArguments, FinetuningArguments, GeneratingArguments))
    arguments = parser.parse_dict({**keys, "max_new_tokens": 24, "cutoff_len": 16})
    sets = [
        {"name": task.name, "dataset": f"minicoin_{task.name.lower()}_test", "scorer": task.scorer} for task in TASKS
    ]
    assert trial_errors(sets, *arguments) == []


@pytest.mark.parametrize(
    ("record", "declaration", "expected"),
    [
        (turns("hello", "What color?", "red") | {"answer": "red"}, "swap", "turns must alternate"),
        (turns(None, "red"), MESSAGES, "each turn must be a text; got None"),
        (turns([{"type": "text", "text": "What?"}], "red"), MESSAGES, "each turn must be a text; got [{'type'"),
        ({"text": None, "answer": "red"}, None, "no question may be empty"),
        ({"text": "  ", "answer": "red"}, None, "no question may be empty"),
        ({"conversations": ["What?", "red"], "answer": "red"}, MESSAGES, "LLaMA-Factory cannot read it (TypeError"),
        ({"conversations": None, "answer": "red"}, MESSAGES, "LLaMA-Factory cannot read it (TypeError"),
        ({"text": "What?", "answer": " "}, None, "its gold answer must be a text that is not empty"),
        ({"text": "What?", "answer": 3}, None, "needs a text as 'answer', got 3"),
        ({"text": "Is <image> left of <image>?", "answer": "red", "image": "good.png"}, None, "number of images"),
        ({"text": "What?", "answer": "red", "image": "gone.png"}, None, "gone.png' does not exist in "),
        ({"text": "What?", "answer": "red", "image": "half.jpg"}, None, "half.jpg cannot be read (OSError: image"),
        ({"text": "What?", "answer": "red", "image": "bomb.png"}, None, "bomb.png cannot be read (DecompressionBomb"),
        ({"text": "What? " * 600, "answer": "red"}, None, "`max_new_tokens: 16` that is more than the 512 that"),
        ({"text": "What?", "answer": "ro<s>t"}, None, "make 'rot' of its gold answer 'ro<s>t', which is wrong"),
        ({"text": "What?", "answer": "<think>a</think>b"}, None, "make 'b' of its gold answer '<think>a</think>b'"),
    ],
)  # fmt: skip
def test_a_record_that_no_answer_could_be_right_for_is_named(tried, tmp_path, record, declaration, expected):
    write_pictures(tmp_path)
    good = {"text": "What color?", "answer": "red"}
    if declaration is not None:
        good = {**turns("What color?", "red"), "answer": "red"}
    if declaration == "swap":
        record["conversations"] = record["conversations"][1:]
        declaration = MESSAGES
    assert tried([good, good], declaration) == []
    (error,) = tried([good, record, good], declaration)
    assert error.startswith("`test_dataset`: 1 of 3 records of 'x' cannot be used: record 2: ")
    assert expected in error


def test_a_missing_picture_has_the_remedy_of_a_training_record(tried, tmp_path):
    (error,) = tried([{"text": "What?", "answer": "red", "image": "gone.png"}])
    assert f"does not exist in {tmp_path}. Set `media_dir` to the folder that its paths start from" in error


def write_pictures(folder):
    Image.effect_noise((64, 64), 50).convert("RGB").save(folder / "good.png")
    Image.effect_noise((64, 64), 50).convert("RGB").save(folder / "half.jpg")
    content = (folder / "half.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(content[: len(content) // 2])
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"IDAT")
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(map(png_chunk, chunks)))


def png_chunk(content):
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def test_many_records_are_counted_and_some_shown(tried):
    (error,) = tried([{"text": "", "answer": "red"}] * 9)
    assert error.startswith("`test_dataset`: 9 of 9 records of 'x' cannot be used: record 1: has no question")
    assert error.count("has no question") == 5
    assert error.endswith("; and 4 more.")


def test_a_template_that_ends_no_answer_is_refused(tried):
    (error,) = tried([{"text": "What?", "answer": "red"}], template="empty")
    assert "`template: empty` teaches no model where an answer ends" in error


def test_a_shorter_limit_of_vllm_counts(tried, monkeypatch):
    record = {"text": "What color is it?", "answer": "red"}
    monkeypatch.syspath_prepend(Path(__file__).parent / "stand_ins")
    assert tried([record], scoring_backend="vllm") == []
    (error,) = tried([record], scoring_backend="vllm", vllm_config='{"max_model_len": 20}')
    assert "that is more than the 20 that it may have" in error


def test_what_a_method_puts_before_a_question_takes_room(tried):
    record, keys = {"text": "What color is it?", "answer": "red"}, {"cl_method": "fwd_prompt", "fwd_prompt_top": 5}
    assert tried([record], fwd_prompt_length=90, **keys) == []
    (error,) = tried([record], fwd_prompt_length=100, **keys)
    assert "with `max_new_tokens: 16` that is more than the 12 that it may have" in error


@pytest.mark.parametrize("key", ["enable_thinking", "default_system", "max_new_tokens", "image_max_pixels"])
def test_no_task_asks_the_questions_of_earlier_ones_in_another_way(key):
    tasks = [{"name": name, "dataset": "d", "test_dataset": "t", "scorer": "yes_no"} for name in "AB"]
    values = {"enable_thinking": False, "default_system": "", "max_new_tokens": 5, "image_max_pixels": 4096}
    tasks[1][key] = values[key]
    recipe = {"model_name_or_path": "owner/name", "template": "llava", "output_dir": "run", "tasks": tasks}
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, "test.yaml", host_keys(), check_data=False)
    rule = f"task 2 (B): `{key}` belongs to the whole sequence. Move it out of the task"
    assert any(error.startswith(rule) for error in caught.value.errors)


def test_of_many_records_some_are_tried_and_others_in_several_processes(tried, monkeypatch):
    records = [{"text": f"What is at {i}?", "answer": "red" if i != 5 else "<think>a</think>b"} for i in range(8)]
    (alone,) = tried(records)
    monkeypatch.setattr(many_records, "_WORTH_PROCESSES", 4)
    monkeypatch.setattr(many_records, "_CHUNK", 2)
    assert tried(records, preprocessing_num_workers=2) == [alone]
    assert "1 of 8 records of 'x' cannot be used: record 6: " in alone
    assert tried(records, trial_samples=4) == []  # records 1, 3, 5 and 7
    assert tried(records, trial_samples=0) == []


LONG = {"text": "What?", "answer": "quadrilateral parallelograms"}


def test_gold_answers_that_would_be_cut_are_doubtful(tried):
    notes = []
    assert tried([{"text": "What?", "answer": "red"}, LONG, LONG], notes=notes) == []
    (note,) = notes
    assert note.startswith("`test_dataset`: 2 of 3 gold answers of 'x' are longer than `max_new_tokens: 16`")
    assert "that of record 2 takes 2" in note and note.endswith("or answers to these records stay incomplete.")
    (error,) = tried([LONG, LONG], notes=notes)
    assert error.startswith("`test_dataset`: 2 of 2 gold answers of 'x' are longer than `max_new_tokens: 16`")
    assert error.endswith("no answer could be right.")
    assert len(notes) == 1
    assert tried([LONG], scorer="none", notes=notes) == []
    assert notes[1].startswith("`test_dataset`: 1 of 1 gold answers of 'x' are longer than")
    assert tried([LONG], notes=notes, max_new_tokens=64) == [] and len(notes) == 2


@pytest.mark.parametrize("declaration", [None, MESSAGES])
def test_without_a_scorer_a_record_needs_a_question_alone(tried, declaration):
    records = [
        {"text": "Describe it."},
        {"text": "Describe it.", "answer": None},
        {"text": "What?", "answer": "a<s>b"},
    ]
    if declaration:
        records = [turns("Describe it."), turns("Describe it.", "A red box.")]
    assert tried(records, declaration, scorer="none") == []
    records[1] = turns("", "red") if declaration else {"text": " "}
    (error,) = tried(records, declaration, scorer="none")
    assert error.startswith(f"`test_dataset`: 1 of {len(records)} records of 'x' cannot be used: record 2: ")


def test_records_that_are_not_answered_are_not_tried(tried):
    assert tried([{"text": "What?", "answer": "red"}, {"text": "", "answer": "red"}], limit=1) == []
