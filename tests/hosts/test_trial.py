# ruff: noqa: E501 - in its tables a case is a line
"""What the host would refuse, drop or mangle is told before a sequence starts: keys, adapters and training records."""

import json
import shutil
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sefe_plugin.benchmarks.minicoin import BASE, MiniCoIN
from sefe_plugin.cli import main
from sefe_plugin.hosts.llamafactory import many_records, questions, trial_process
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.trial_process import require_trial
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe


LINE = "\nAnswer the question using a single word or phrase."


def talk(*texts, roles=("human", "gpt"), **columns) -> dict:
    messages = [{"from": roles[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"conversations": messages, **columns}


def seen(question="<image>\nWhat is it?" + LINE, image="p.png", answer="red") -> dict:
    return talk(question, answer, image=image)


TALKS = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
PICTURES = {"formatting": "sharegpt", "columns": {"messages": "conversations", "images": "image"}}
OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
SOUND = [talk(f"What is at {i}?" + LINE, ("red", "blue", "green")[i % 3]) for i in range(6)]


def chat(*texts, roles=("user", "assistant")) -> dict:
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What passes here is recorded in no other place."""
    monkeypatch.setattr(trial_process, "HF_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def sequence(tmp_path):
    """Makes a recipe of two tasks, the first of which is sound, with the second's data and keys as given."""

    def make(records=None, entry=None, raw: bytes | None = None, task=None, gold="red", **keys):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), "red").save(folder / "p.png")
        (folder / "a.json").write_text(json.dumps(SOUND))
        (folder / "test.json").write_text(json.dumps([{"text": "What?", "answer": gold}]))
        (folder / "old.json").write_text(json.dumps([{"text": "Which?", "answer": gold}]))
        (folder / "b.json").write_bytes(
            raw if raw is not None else json.dumps(SOUND if records is None else records).encode()
        )
        info = {
            "a": {"file_name": "a.json", **TALKS},
            "b": {"file_name": "b.json", **(TALKS if entry is None else entry)},
            "test": {"file_name": "test.json", "columns": {"prompt": "text", "response": "answer"}},
            "old": {"file_name": "old.json", "columns": {"prompt": "text", "response": "answer"}},
        }
        (folder / "dataset_info.json").write_text(json.dumps(info))
        common = {"test_dataset": "test", "scorer": "short_answer"}
        recipe = {
            "model_name_or_path": str(BASE),
            "template": "llava",
            "default_system": "",
            "cl_method": "reglora",
            "lora_target": "all",
            "dataset_dir": str(folder),
            "cutoff_len": 256,
            "preprocessing_num_workers": 1,
            "max_new_tokens": 12,
            "report_to": "none",
            "output_dir": str(tmp_path / "run"),
            "tasks": [
                {"name": "A", "dataset": "a", **common},
                {"name": "B", "dataset": "b", **common, **(task or {})},
            ],
            **keys,
        }
        return load_recipe(recipe, "mine.yaml", host_keys())

    return make


@pytest.fixture
def errors_of(try_here):
    def errors(recipe) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            require_trial(recipe, print, try_here)
        assert not recipe.output_dir.exists()
        return caught.value.errors

    return errors


RECORDS = {
    # name: (records, entry, what is said of them)
    "more signs than pictures": ([seen("<image><image>\nWhat?")], PICTURES, "as many `<image>` in its text"),
    "a picture without a sign": ([seen("What?")], PICTURES, "got 0 and 1. Mend it"),
    "a sign without pictures": ([talk("<image>\nWhat?", "red")], TALKS, "got 1 and 0"),
    "opens with the assistant": ([talk("Hi!", "What?", "red", roles=("gpt", "human"))], TALKS, "['gpt', 'human', 'gpt']"),
    "ends with a question": ([talk("What?", "red", "And?")], TALKS, "its roles must be 'human' and 'gpt' in turn"),
    "an empty conversation": ([talk()], TALKS, "got []"),
    "no conversation": ([{"conversations": None}], TALKS, "`conversations` must be a list of messages; record 7: got None"),
    "no answer": ([talk("What?", None)], TALKS, "the text of each message must be text; record 7: got None"),
    "an empty answer": ([talk("What?", " ")], TALKS, "its answer must not be empty; record 7: got [' ']"),
    "an empty answer before the last": ([talk("What?", "", "And?", "red")], TALKS, "its answer must not be empty"),
    "plain texts for messages": ([{"conversations": ["hi", "there"]}], TALKS, "`conversations[]` is a mapping in record 1 and text in record 7"),
    "foreign tags": ([talk("What?", "red")], TALKS | {"tags": OPENAI | {"role_tag": "from", "content_tag": "value"}}, "user_tag is now 'user'"),
    "keys of messages of other names": ([], TALKS | {"tags": OPENAI}, "each message must be {'role': ..., 'content': ...}"),
    "a column that is not there": ([], {"formatting": "sharegpt", "columns": {"messages": "conversation"}}, "it has no column 'conversation', which LLaMA-Factory reads as `messages`"),
    "preference data": ([], TALKS | {"ranking": True}, "`ranking: true` marks preference data"),
    "an unknown form": ([], TALKS | {"formatting": "sharegtp"}, "Did you mean `sharegpt`?"),
    "a number of samples in words": ([], TALKS | {"num_samples": "10"}, "`num_samples` must be a whole number of at least 1; got '10'"),
    "no such picture": ([seen(image="gone.png")], PICTURES, "the file 'gone.png' does not exist in"),
    "no such second picture": ([seen("<image><image>\nWhat?", ["p.png", "gone.png"])], PICTURES, "the file 'gone.png'"),
    "a name that is too long": ([seen(image="x" * 9999)], PICTURES, "does not exist in"),
    "a folder for a picture": ([seen(image=".")], PICTURES, "the file '.' does not exist in"),
    "no picture at all": ([seen(image="b.json")], PICTURES, "cannot identify image file"),
    "videos": ([talk("<video>\nWhat?", "red", videos=["v.mp4"])], {**TALKS, "columns": {"messages": "conversations", "videos": "videos"}}, "does not support video input"),
}  # fmt: skip


@pytest.mark.parametrize("case", RECORDS)
def test_records_that_the_host_would_stop_at_drop_or_mangle(sequence, errors_of, case):
    records, entry, message = RECORDS[case]
    first = [seen() for _ in SOUND] if entry is PICTURES else SOUND
    if records and isinstance(records[0].get("image"), list):  # a column has one type
        first = [record | {"image": [record["image"]]} for record in first]
    if case == "videos":
        first = [talk("<video>\nWhat?", "red", videos=["v.mp4"])]
    errors = errors_of(sequence([*first, *records], entry))
    assert len(errors) == 1
    assert errors[0].startswith("task 2 (B): `dataset`: ")
    assert message in errors[0]
    assert not errors[0].endswith("..")


ALPACA = {
    "whole numbers for answers": ({"output": 3}, "its answer (`output`) must be text; LLaMA-Factory would silently leave it out; record 1: got 3"),
    "no answer": ({"output": None}, "record 1: got None"),
    "an empty answer": ({"output": ""}, "its answer must not be empty"),
    "a number for a question": ({"instruction": 3}, "LLaMA-Factory cannot convert it"),
}  # fmt: skip


@pytest.mark.parametrize("case", ALPACA)
def test_records_in_columns(sequence, errors_of, case):
    change, message = ALPACA[case]
    record = {"instruction": "What?", "input": "", "output": "red"} | change
    (error,) = errors_of(sequence([record] * 7, {}))
    assert message in error
    assert "7 of 7 records cannot be trained on, records 1, 2, 3, 4, 5 and 2 more (counted from 1)" in error


def test_a_column_that_the_host_expects_without_being_told(sequence, try_here, errors_of):
    (error,) = errors_of(sequence([{"instruction": "What?", "output": "red"}], {}))
    assert "it has no column 'input', which LLaMA-Factory reads as `query`" in error
    assert "`query: null` says that there is none" in error
    entry = {"columns": {"prompt": "instruction", "response": "output"}}
    require_trial(sequence([{"instruction": "What?", "output": "red"}], entry), print, try_here)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([chat([{"type": "text", "text": "What?"}], "red")], "list the pictures in a column of their own"),
        (
            [chat([{"type": "text", "text": "What?"}], [{"type": "text", "text": "red"}])],
            "list the pictures in a column",
        ),
        ([chat("Be brief.", "What?", "red", roles=("system", "user", "assistant"))], "system_tag is now None"),
    ],
    ids=["parts and texts", "parts alone", "a system turn without its tag"],
)
def test_messages_as_openai_has_them(sequence, errors_of, records, message):
    (error,) = errors_of(
        sequence(records, {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": OPENAI})
    )
    assert message in error


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (json.dumps([talk("图表是什么颜色?", "红")], ensure_ascii=False).encode("gbk"), "is not in UTF-8 (byte 50 is no part of it); it looks like GBK"),
        (json.dumps(SOUND).encode("utf-8-sig"), "is in UTF-8 with a byte order mark. Save it in UTF-8 without that mark"),
        (json.dumps(SOUND).encode("utf-16"), "is in UTF-16"),
        (json.dumps(SOUND).encode()[:-9], "at record 6: no valid JSON"),
        (b"[]", "cannot be read by LLaMA-Factory"),
        (b"", "cannot be read by LLaMA-Factory"),
        (json.dumps([talk("What?", "red"), talk("What?", 3)]).encode(), "`conversations[].value` is text in record 1 and a number in record 2"),
    ],
    ids=["GBK", "mark", "UTF-16", "cut", "no records", "empty", "texts and numbers"],
)  # fmt: skip
def test_files_that_the_host_cannot_read(sequence, errors_of, raw, message):
    (error,) = errors_of(sequence(raw=raw))
    assert "b.json" in error
    assert message in error


def bomb(file: Path, side: int) -> None:
    """Write a PNG of a few hundred bytes whose header says that it is large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_pictures_that_would_take_all_memory(sequence, errors_of, tmp_path, side):
    recipe = sequence([seen(), seen(image="bomb.png")], PICTURES)
    bomb(tmp_path / "data" / "bomb.png", side)
    (error,) = errors_of(recipe)
    assert f"bomb.png' has more than {Image.MAX_IMAGE_PIXELS:,} pixels" in error


@pytest.mark.parametrize("name", ["cut.jpg", "late.png"])
def test_pictures_that_end_too_soon(sequence, errors_of, tmp_path, name):
    recipe = sequence([seen(), seen(image=name)], PICTURES)
    file = tmp_path / "data" / name
    Image.effect_noise((64, 64), 90).convert("RGB").save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (error,) = errors_of(recipe)
    assert f"data/{name}" in error
    assert "1 of 2 records cannot be trained on, record 2 (counted from 1)" in error


def test_pictures_that_are_cut_with_the_text(sequence, errors_of):
    """The model stops where it has fewer places for pictures than pictures."""
    records = [seen("<image>" * 9 + "\nWhat?", ["p.png"] * 9)] + [seen(image=["p.png"])] * 2
    (error,) = errors_of(sequence(records, PICTURES, task={"cutoff_len": 24}))
    assert "1 of 3 records cannot be trained on, record 1 (counted from 1): `cutoff_len: 24` cuts through" in error


def test_files_outside_of_the_media_folder_must_be_allowed(sequence, try_here, errors_of, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (40, 30)).save(other / "q.png")
    names = [str(other / "q.png"), "../other/q.png", "link/q.png"]
    recipe = sequence([seen(), *(seen(image=name) for name in names)], PICTURES)
    (tmp_path / "data" / "link").symlink_to(other)
    (error,) = errors_of(recipe)
    assert "3 of 4 records cannot be trained on, records 2, 3, 4" in error
    assert "lies outside of the media folder" in error
    assert "`media_outside: true`" in error
    require_trial(
        sequence([seen(), *(seen(image=name) for name in names)], PICTURES, media_outside=True), print, try_here
    )
    inside = [seen(image=str(tmp_path / "data" / "p.png"))]
    require_trial(sequence(inside, PICTURES), print, try_here)


KEYS = {
    # name: (keys of the second task, keys of all, what is said)
    "a schedule": ({"lr_scheduler_type": "cosin"}, {}, "task 2 (B): `lr_scheduler_type` cannot be 'cosin': "),
    "its near match": ({"lr_scheduler_type": "cosin"}, {}, "Did you mean `cosine`?"),
    "a schedule without its keys": ({"lr_scheduler_type": "cosine_with_min_lr"}, {}, "`lr_scheduler_type` cannot be 'cosine_with_min_lr'"),
    "an optimizer": ({"optim": "adamw"}, {}, "task 2 (B): `optim` cannot be 'adamw'"),
    "16 bit on a CPU": ({}, {"bf16": True}, "`bf16` cannot be True: LLaMA-Factory says"),
    "half precision on a CPU": ({}, {"fp16": True}, "`fp16` needs a GPU"),
    "a tracker": ({}, {"report_to": "wandbb"}, "`report_to` cannot be"),
    "a template": ({}, {"template": "qwen33"}, "`template` must be a template of LLaMA-Factory; got 'qwen33'. Did you mean `qwen3`?"),
    "the template of another processor": ({}, {"template": "qwen2_vl"}, "`template: qwen2_vl` does not fit the image processor of this model (AttributeError"),
    "a target": ({}, {"lora_target": "q_prj"}, "`lora_target` names 'q_prj', which is no module of the model. Did you mean `q_proj`?"),
    "one target of several": ({}, {"lora_target": "q_prj,v_proj"}, "`lora_target` names 'q_prj'"),
    "a frozen target": ({}, {"lora_target": "q_proj,out_proj"}, "`lora_target` names 'out_proj', which LLaMA-Factory leaves as it is"),
    "an additional target": ({}, {"additional_target": "lm_heed"}, "`additional_target` names 'lm_heed', which is no module of the model. Did you mean `lm_head`?"),
    "tied modules in a stack": ({}, {"carry": "stack", "additional_target": "embed_tokens,lm_head"}, "`carry: stack` cannot keep lm_head"),
    "other matrices in a task": ({"freeze_vision_tower": False}, {}, "task 2 (B): `freeze_vision_tower` makes it adapt other matrices than task 1 (A), such as "),
    "who needs them": ({"freeze_vision_tower": False}, {"carry": "stack"}, "`cl_method: reglora` and `carry: stack` needs the same in every task"),
    "no model": ({}, {"model_name_or_path": "nobody/nothing"}, "`model_name_or_path`: the configuration of nobody/nothing cannot be read"),
    "keys that exclude each other": ({}, {"mask_history": True, "train_on_prompt": True}, "`mask_history` is incompatible with `train_on_prompt`"),
}  # fmt: skip


@pytest.mark.parametrize("case", KEYS)
def test_keys_that_the_host_or_the_model_cannot_have(sequence, errors_of, case):
    task, keys, message = KEYS[case]
    errors = errors_of(sequence(task=task, **keys))
    assert any(message in error for error in errors), errors
    assert not any("\n" in error for error in errors)


def test_a_template_that_does_not_fit_is_all_that_is_said(sequence, errors_of):
    retention = [{"name": "old", "dataset": "old", "scorer": "short_answer"}]
    errors = errors_of(sequence([seen()], PICTURES, template="qwen2_vl", retention_sets=retention))
    assert [error.split(": `template")[0] for error in errors] == ["task 1 (A)", "task 2 (B)"]
    assert all("Choose the template of the model; `sefe new` finds it." in error for error in errors)


def test_a_template_that_fails_at_pictures_alone_is_named(sequence, errors_of, monkeypatch):
    from llamafactory.data.mm_plugin import LlavaPlugin

    host_code = LlavaPlugin.process_messages

    def strange(self, messages, images, *rest):
        if images:
            raise KeyError("grid")
        return host_code(self, messages, images, *rest)

    monkeypatch.setattr(LlavaPlugin, "process_messages", strange)
    (error,) = [error for error in errors_of(sequence([seen()], PICTURES)) if "`dataset`" in error]
    assert "`template: llava` does not fit the image processor of this model (KeyError: 'grid')" in error


def test_tasks_may_adapt_other_matrices_where_nothing_needs_the_same(sequence, try_here):
    require_trial(sequence(task={"freeze_vision_tower": False}, cl_method="lora"), print, try_here)


def test_all_errors_of_all_tasks_come_at_once(sequence, errors_of):
    records = [talk("What?", None), talk("What?", ""), *SOUND]
    errors = errors_of(sequence(records, task={"optim": "adamw"}, lr_scheduler_type="cosin"))
    beginnings = ["`lr_scheduler_type`", "task 2 (B): `optim`", *["task 2 (B): `dataset`: 'b'"] * 2]
    assert len(errors) == 4
    assert all(error.startswith(beginning) for error, beginning in zip(errors, beginnings, strict=True))


@pytest.mark.parametrize(
    ("question", "scorer", "message"),
    [
        ("Which is number {}? (A) Maine (B) Ohio (C) Utah", "multiple_choice", None),
        ("Which is number {}? Options: Maine / Ohio / Utah", "multiple_choice", "only 0 can be"),
        ("Which is number {}? Options: Maine / Ohio / Utah", "short_answer", "letters or numbers that may stand for"),
        ("Which letter is on sign {}?", "class_name", None),
    ],
)
def test_asd_reads_answers_as_the_scorer_of_the_task_does(sequence, errors_of, try_here, question, scorer, message):
    rows = [talk(question.format(i), "ABC"[i % 3]) for i in range(20)]
    recipe = sequence(rows, gold="A", task={"asd_ratio": 0.5, "scorer": scorer})
    if message is None:
        require_trial(recipe, print, try_here)
    else:
        (error,) = errors_of(recipe)
        assert message in error


def test_answer_styles_are_tried_on_what_the_host_aligned(sequence, try_here, errors_of):
    long = [
        talk(f"Describe scene {i}.", f"It is a long report, number {i}, on the state of things.") for i in range(6)
    ]
    require_trial(sequence(long), print, try_here)
    (error,) = errors_of(sequence(long, task={"asd_ratio": 0.5}))
    assert error.startswith("task 2 (B): `asd_ratio` on dataset b: ")
    written = [record | {"asd": {"style": "yes_no"}} for record in SOUND]
    (error,) = errors_of(sequence(written, task={"asd_ratio": 0.5}))
    assert "of other styles already" in error


def test_large_data_is_sampled_and_said_so(sequence, try_here):
    said = []
    records = [*SOUND, talk("What?", None)]
    require_trial(sequence(records, trial_samples=3), said.append, try_here)
    assert said[-1] == "task 2 (B): `dataset`: 3 of 7 records of 'b' were tried, evenly spread (`trial_samples`)."


def test_no_record_is_tried_where_the_recipe_says_so(sequence, try_here):
    said = []
    require_trial(sequence([talk("What?", " ")], trial_samples=0), said.append, try_here)
    assert "task 2 (B): `dataset`: no record of 'b' was tried (`trial_samples: 0`)." in said
    assert said[-1] == "task 2 (B): `test_dataset`: no record of 'test' was tried (`trial_samples: 0`)."


def test_several_processes_find_the_same(sequence, errors_of, monkeypatch):
    monkeypatch.setattr(many_records, "_WORTH_PROCESSES", 4)
    monkeypatch.setattr(many_records, "_CHUNK", 2)
    records = [*SOUND, talk("What?", None), *SOUND, talk("What?", "")]
    alone = errors_of(sequence(records))
    assert errors_of(sequence(records, preprocessing_num_workers=2)) == alone
    assert len(alone) == 2


def test_what_comes_from_elsewhere_is_left_to_the_task(sequence, try_here, tmp_path):
    recipe = sequence()
    info = tmp_path / "data" / "dataset_info.json"
    declared = json.loads(info.read_text())
    declared["b"] = {"hf_hub_url": "owner/name"}
    info.write_text(json.dumps(declared))
    said = []
    require_trial(recipe, said.append, try_here)
    assert said[-1] == "task 2 (B): `dataset`: 'b' is no local file: LLaMA-Factory tries it only when its task starts."


def test_what_passed_is_not_read_again_until_it_changes(sequence, try_here, tmp_path):
    tried = []

    def trial(recipe, tasks):
        tried.append(list(tasks))
        return try_here(recipe, tasks)

    def start(**keys):
        require_trial(sequence([seen() for _ in range(3)], PICTURES, **keys), lambda line: None, trial)

    recipe = sequence([seen() for _ in range(3)], PICTURES)
    for _ in range(2):
        require_trial(recipe, lambda line: None, trial)
    assert tried == [[0, 1]]
    Image.new("RGB", (50, 30)).save(tmp_path / "data" / "p.png")
    require_trial(recipe, lambda line: None, trial)
    assert tried[1:] == [[1]]
    (tmp_path / "data" / "a.json").write_text(json.dumps(SOUND[:-1]))
    require_trial(recipe, lambda line: None, trial)
    assert tried[2:] == [[0]]
    (tmp_path / "data" / "b.json").write_text(json.dumps([seen(image="gone.png")]))
    for _ in range(2):  # what does not pass is tried again
        with pytest.raises(RecipeError, match=r"gone\.png"):
            require_trial(recipe, lambda line: None, trial)
    assert tried[3:] == [[1], [1]]


def test_a_picture_of_a_test_set_that_has_gone_is_missed(sequence, try_here, errors_of, tmp_path):
    recipe, data = sequence(), tmp_path / "data"
    info = json.loads((data / "dataset_info.json").read_text())
    info["test"]["columns"]["images"] = "image"
    (data / "dataset_info.json").write_text(json.dumps(info))
    (data / "test.json").write_text(json.dumps([{"text": "What?", "answer": "red", "image": "p.png"}]))
    require_trial(recipe, print, try_here)
    (data / "p.png").unlink()
    first, second = errors_of(recipe)
    assert first.startswith("task 1 (A): `test_dataset`: ") and second.startswith("task 2 (B): `test_dataset`: ")
    assert "the file 'p.png' does not exist" in first


LONG = talk("What is it?" + LINE, "red " * 400)


@pytest.mark.parametrize(
    ("records", "keys", "said"),
    [
        ([*SOUND, talk("  ", "red")], {}, "1 of 7 records have no question: 7 (counted from 1)."),
        ([*SOUND, LONG], {}, "1 of 7 records are longer than `cutoff_len: 256`, which cuts their answers, so that"),
        ([talk("What? " * 400, "red"), *SOUND], {}, "1 of 7 records are longer than `cutoff_len: 256`, which cuts their questions: 1 (co"),
        ([LONG] * 9, {}, "not learned: 1, 2, 3, 4, 5 and 4 more (counted from 1)."),
        (SOUND[:3], {"asd_ratio": 0.1}, "`asd_ratio: 0.1` of the 3 records of 'b' "),
    ],
    ids=["no question", "a long answer", "a long question", "many", "no rewrite"],
)  # fmt: skip
def test_what_is_seldom_meant_is_said_and_trained(sequence, try_here, records, keys, said):
    for _ in range(2):  # and said again when nothing is tried anew
        lines = []
        require_trial(sequence(records, task=keys), lines.append, try_here)
        assert sum(said in line for line in lines) == 1
        assert sum("counted from 1" in line or "rewrites none" in line for line in lines) == 1


def test_a_part_for_validation_that_leaves_nothing_is_refused(sequence, errors_of):
    (error,) = errors_of(sequence(SOUND[:4], task={"val_size": 0.99}))
    assert error.startswith("task 2 (B): `val_size: 0.99` of the 4 records of 'b' (")


def test_a_process_of_its_own_says_the_same(sequence, errors_of, capfd, warm, monkeypatch):
    recipe = sequence([talk("What?", None), *SOUND], task={"optim": "adamw"})
    here = errors_of(recipe)
    capfd.readouterr()  # what this process says, if it is the first test that loads a tokenizer
    for name, value in warm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "executable", shutil.which("python", path=warm["PATH"]))
    with pytest.raises(RecipeError) as caught:
        require_trial(recipe, print)
    assert caught.value.errors == here
    assert "WARNING" not in capfd.readouterr().err


def test_a_trial_that_fails_itself_is_told_with_its_last_lines(sequence, monkeypatch):
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "0")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RecipeError, match="ended with exit status 1 before it was done"):
        require_trial(sequence(), print)


@pytest.mark.parametrize("broken", [False, True])
def test_a_plan_refuses_what_a_training_refuses(sequence, errors_of, tmp_path, capsys, broken, monkeypatch):
    import yaml

    recipe = sequence([talk("What?", None if broken else "red"), *SOUND])
    file = tmp_path / "mine.yaml"
    tasks = [
        {"name": t.name, "dataset": t.dataset, "test_dataset": t.test_dataset, "scorer": t.scorer}
        for t in recipe.tasks
    ]
    file.write_text(yaml.safe_dump({**recipe.arguments, "tasks": tasks}))
    assert main(["plan", str(file), "--gpus", "1"]) == int(broken)
    printed = capsys.readouterr()
    if broken:
        assert [f"  - {error}" for error in errors_of(recipe)] == printed.err.strip().splitlines()[-1:]
    else:
        assert "measured" in printed.out


def test_general_data_is_tried_as_well_but_not_rewritten(sequence, errors_of, try_here, tmp_path):
    captions = [talk("Describe it.", f"A long and winding caption, number {i}.") for i in range(20)]
    mix = [{"dataset": "general", "share": 0.5}]

    def with_general(records):
        recipe = sequence()
        info = tmp_path / "data" / "dataset_info.json"
        info.write_text(json.dumps(json.loads(info.read_text()) | {"general": {"file_name": "g.json", **TALKS}}))
        (tmp_path / "data" / "g.json").write_text(json.dumps(records))
        return replace(recipe, arguments={**recipe.arguments, "mix": mix, "asd_ratio": 0.2})

    require_trial(with_general(captions), print, try_here)
    found = errors_of(with_general([*captions, talk("What?", " ")]))
    assert [error.split(": ")[:2] for error in found] == [
        [f"task {i + 1} ({name})", "`mix`"] for i, name in enumerate("AB")
    ]
    assert "'general'" in found[0] and "its answer must not be empty" in found[0]


def test_a_task_without_scores_and_one_without_a_test_set_are_tried(sequence, try_here, errors_of):
    untested = {"test_dataset": None, "scorer": None}
    said = []
    require_trial(sequence(task=untested), said.append, try_here)
    require_trial(sequence(task={"scorer": "none"}, asd_ratio=0.2), said.append, try_here)
    assert len(said) == 2 and all("Trying the keys and the data of A, B in" in line for line in said)
    assert "A, B in LLaMA-Factory before the start." in said[0]
    (error,) = errors_of(sequence([talk("What?", " ")], task=untested))
    assert error.startswith("task 2 (B): `dataset`: ")
    # whose letters nobody can read, without a scorer that could
    letters = [talk(f"Which is {i}?", "ABC"[i % 3]) for i in range(6)]
    for task in (untested, {"scorer": "none"}):
        (error,) = errors_of(sequence(letters, task=task, asd_ratio=0.2))
        assert "6 of 6 answers are letters or numbers that may stand for options" in error


def test_tasks_that_were_tried_before_are_named(sequence, try_here, tmp_path):
    recipe, said = sequence(), []
    require_trial(recipe, said.append, try_here)
    (tmp_path / "data" / "b.json").write_text(json.dumps([*SOUND, *SOUND]))
    require_trial(recipe, said.append, try_here)
    assert said[0].endswith("the data of A, B in LLaMA-Factory before the start.")
    assert said[1].endswith("the data of B in LLaMA-Factory before the start (A: tried before).")


def test_what_is_doubtful_is_said_and_is_no_error(sequence, try_here):
    said = []
    require_trial(sequence(task={"test_dataset": "b"}), said.append, try_here)
    warning = "Warning: task B: `test_dataset`: 'b' is the training data of B. So it tests what was memorised; name other data."
    assert [line == warning for line in said] == [True, False]


@pytest.fixture
def drawn(tmp_path):
    """Makes a recipe of mini-CoIN, whose data is drawn by rule."""

    def make(**keys):
        recipe = {
            "benchmark": "minicoin",
            "cutoff_len": 256,
            "preprocessing_num_workers": 1,
            "max_new_tokens": 24,
            "report_to": "none",
            "output_dir": str(tmp_path / "run"),
            **keys,
        }
        return load_recipe(recipe, "mine.yaml", host_keys())

    return make


def test_data_that_is_drawn_is_tried_as_other_data_is(drawn, errors_of, try_here):
    said = []
    require_trial(drawn(), said.append, try_here)
    assert len(said) == 1 and said[0].startswith("Trying the keys and the data of ScienceQA, TextVQA, ")
    (error,) = errors_of(drawn(max_new_tokens=4))
    assert error.startswith(
        "task 6 (Grounding): `test_dataset`: 20 of 20 gold answers of 'minicoin_grounding_test' are longer"
    )
    found = errors_of(drawn(cutoff_len=6))
    assert [error.split(":")[0] for error in found] == [
        f"task {i + 1} ({task.name})" for i, task in enumerate(drawn().tasks)
    ]
    assert (
        "`dataset`: 'minicoin_textvqa_train' (TextVQA/train.json): 32 of 32 records cannot be trained on" in found[1]
    )


def test_the_number_of_drawn_records_is_that_of_the_run(drawn, try_here):
    said = []
    require_trial(drawn(asd_ratio=0.01, val_size=100, cl_method="lora"), said.append, try_here)
    assert len(said) == 1


def test_what_was_drawn_and_passed_is_not_drawn_again(drawn, monkeypatch):
    tried, draws, draw = [], [], MiniCoIN.draw

    def count(self, folder, arguments, for_trial=False):
        draws.append((arguments.get("seed"), for_trial))
        draw(self, folder, arguments, for_trial)

    def trial(recipe, tasks):
        tried.append(list(tasks))
        folder = Path(recipe.arguments["dataset_dir"])
        names = json.loads((folder / "dataset_info.json").read_text())
        assert all({task.dataset, task.test_dataset} <= names.keys() for task in recipe.tasks)
        media = [str(folder / "GQA" / "images" / "train_00000.png")]
        assert Path(media[0]).is_file()
        return {
            "errors": [],
            "notes": [],
            "tasks": {str(i): {"errors": [], "notes": [], "media": media} for i in tasks},
        }

    monkeypatch.setattr(MiniCoIN, "draw", count)
    for keys in ({}, {}, {"seed": 7}, {"seed": 7}):
        require_trial(drawn(**keys), lambda line: None, trial)
    assert tried == [list(range(8))] * 2
    assert draws == [(None, True), (7, True)]
    other = [{"name": "GQA", "dataset": "minicoin_gqa_test"}]
    said = []
    require_trial(drawn(task_keys=other), said.append, trial)
    assert tried[2:] == [[3]] and said[0] == (
        "Warning: task GQA: `test_dataset`: 'minicoin_gqa_test' is the training data of GQA. So it tests what was "
        "memorised; name other data."
    )


def test_one_tokenizer_asks_the_test_sets_of_all_tasks(sequence, try_here, monkeypatch):
    monkeypatch.setattr(questions, "load_tokenizer", lambda model_args: pytest.fail("it was loaded for one reader"))
    require_trial(sequence(), print, try_here)
