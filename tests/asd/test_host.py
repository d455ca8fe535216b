"""LLaMA-Factory as reader of the files and as author of the texts, in process and behind its own server."""

import asyncio
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from PIL import Image

from sefe_plugin.answers.styles import BRIEF, DETAILED, FORMAT_LINES, SHORT_ANSWER
from sefe_plugin.asd.build import build
from sefe_plugin.asd.dataset import open_dataset
from sefe_plugin.asd.writer.generators import NoReplyError, OpenAIGenerator, UnreadableImageError
from sefe_plugin.asd.writer.templates import Task
from sefe_plugin.benchmarks import minicoin
from sefe_plugin.data.sample import Sample
from sefe_plugin.hosts.llamafactory.chat_generator import ChatGenerator


pytest.importorskip("llamafactory")

BASE = Path(minicoin.__file__).parent / "base"
PLAIN = Task(native_style=SHORT_ANSWER, kind="plain", replies="plain")
COLORS = ("red", "blue", "green", "black", "white", "yellow")
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def chat_config(tmp_path_factory):
    file = tmp_path_factory.mktemp("chat") / "chat.yaml"
    arguments = {"model_name_or_path": str(BASE), "template": "llava", "default_system": "", "max_new_tokens": 24}
    file.write_text(yaml.safe_dump(arguments | {"infer_dtype": "float32"}))
    return file


def write(folder, answers):
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i, answer in enumerate(answers):
        Image.new("RGB", (64, 64), COLORS[i % len(COLORS)]).save(folder / f"{i}.png")
        question = f"<image>\nWhat color is the {('cup', 'key', 'cat')[i % 3]}?\n{FORMAT_LINES[SHORT_ANSWER]}"
        records.append({"images": [f"{i}.png"], "instruction": question, "output": answer})
    (folder / "data.json").write_text(json.dumps(records))
    return open_dataset(str(folder / "data.json"), folder)


def check_that_it_writes(generator, folder):
    """Whatever the model says, a task whose answers are in what it says takes its texts from it."""
    asked = write(folder / "1", COLORS * 4)
    build(asked, folder / "1" / "new.json", 1.0, seed=0, task=PLAIN, generator=generator, max_fallback=1)
    replies = {}
    for line in (folder / "1" / "new.json.journal.jsonl").read_text().splitlines():
        record = json.loads(line)
        replies.setdefault((record["samples"][0], record["style"]), record["reply"])
    assert len(replies) == 12 and {style for _, style in replies} == {BRIEF, DETAILED}
    said = {index: reply.split()[-1] for (index, _), reply in replies.items()}
    dataset = write(folder / "2", [said.get(i, COLORS[i % 6]) for i in range(24)])
    summary = build(dataset, folder / "2" / "new.json", 1.0, seed=0, task=PLAIN, generator=generator)
    assert summary.styles[BRIEF] == summary.styles[DETAILED] == {"model": 6} and summary.asked == 12
    for i, record in enumerate(json.loads((folder / "2" / "new.json").read_text())):
        if record["asd"]["style"] in (BRIEF, DETAILED):
            assert record["output"] == " ".join(replies[i, record["asd"]["style"]].split())


def test_the_host_writes_in_process(chat_config, tmp_path):
    check_that_it_writes(ChatGenerator(chat_config), tmp_path)


def test_a_conversation_with_an_image_that_cannot_be_read_gets_no_reply(chat_config, tmp_path):
    async def ask():
        async with ChatGenerator(chat_config).session() as reply:
            assert await reply(["What is it?", "cat", "Sure?"], ()) == await reply(["What is it?", "cat", "Sure?"], ())
            with pytest.raises(NoReplyError, match="an image cannot be read"):
                await reply(["What is it?"], (tmp_path / "none.png",))
            Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
            content = (tmp_path / "whole.png").read_bytes()
            for broken in (b"no image", content[:2000], content[:40] + b"x" + content[41:]):
                (tmp_path / "broken.png").write_bytes(broken)
                with pytest.raises(UnreadableImageError, match="an image cannot be read"):
                    await reply(["What is it?"], (tmp_path / "whole.png", tmp_path / "broken.png"))

    asyncio.run(ask())


def test_all_of_the_configuration_is_what_replies_depend_on(chat_config):
    options = ChatGenerator(chat_config).options
    assert options.items() >= {"do_sample": False, "max_new_tokens": 24, "template": "llava"}.items()


def test_a_configuration_may_include_another(chat_config, tmp_path):
    (tmp_path / "short.yaml").write_text(f"include: {chat_config}\nmax_new_tokens: 3\n")
    assert ChatGenerator(tmp_path / "short.yaml").options == ChatGenerator(chat_config).options | {"max_new_tokens": 3}


def test_a_configuration_without_a_model_is_an_error(tmp_path):
    (tmp_path / "chat.yaml").write_text("template: llava")
    with pytest.raises(ValueError, match="with `model_name_or_path`, as for"):
        ChatGenerator(tmp_path / "chat.yaml")


def test_the_host_writes_behind_its_own_server(chat_config, warm, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**warm, "API_HOST": "127.0.0.1", "API_PORT": str(port)}
    command = [shutil.which("python", path=warm["PATH"]), "-m", "llamafactory.cli", "api", str(chat_config)]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            for _ in range(240):
                try:
                    with urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5):
                        break
                except OSError:
                    assert server.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.5)
            url = f"http://127.0.0.1:{port}/v1"
            check_that_it_writes(OpenAIGenerator("base", url, concurrency=2, max_tokens=24), tmp_path)
        finally:
            server.terminate()


def hosted(folder, name, entry):
    """What the host makes of a dataset: aligned prompts, responses and images."""
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    (folder / "dataset_info.json").write_text(json.dumps({name: entry}))
    (attributes,) = get_dataset_list([name], str(folder))
    data_args = DataArguments(dataset_dir=str(folder), dataset=[name], media_dir=str(folder))
    training_args = Seq2SeqTrainingArguments(output_dir=str(folder / "out"), report_to="none", use_cpu=True)
    model_args = ModelArguments(model_name_or_path=str(BASE), cache_dir=str(folder / "cache"))
    return list(_load_single_dataset(attributes, model_args, data_args, training_args))


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_the_host_loads_what_is_built(tmp_path, suffix):
    records = json.loads(((write(tmp_path, COLORS * 10)).records.path).read_text())
    if suffix == ".jsonl":
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    dataset = open_dataset(str(tmp_path / f"data{suffix}"), tmp_path)
    build(dataset, tmp_path / f"new{suffix}", 0.2, seed=0)
    columns = {"prompt": "instruction", "response": "output", "images": "images"}
    new = open_dataset(str(tmp_path / f"new{suffix}"), tmp_path)
    rows = hosted(tmp_path, "mine", {"file_name": f"new{suffix}", "columns": columns})
    assert len(rows) == 60
    for i, row in enumerate(rows):
        expected = new.layout.read(new.record(i))
        assert (row["_prompt"][0]["content"], row["_response"][0]["content"]) == (expected.question, expected.answer)
        assert row["_images"] == [str(tmp_path / f"{i}.png")]


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("split", ["train_ori", "train_x20"])
def test_published_files_load_as_they_are(tmp_path, name, split):
    """The form of the files published as CoIN-ASD: LLaVA records, an image as a path or, in ScienceQA, none."""
    samples = [Sample(*pair) for pair in GOLDEN[name]["samples"]]
    if split == "train_x20":
        rewritten = GOLDEN[name]["rewrites"]
        samples += [Sample(entry["question"], entry["answer"]) for entry in rewritten]
    (tmp_path / "0.jpg").touch()
    records = [
        {
            "question_id" if name != "ScienceQA" else "id": str(i),
            **({"image": "0.jpg"} if "<image>" in sample.question else {}),
            "conversations": [{"from": "human", "value": sample.question}, {"from": "gpt", "value": sample.answer}],
        }
        for i, sample in enumerate(samples)
    ]
    (tmp_path / f"{split}.json").write_text(json.dumps(records, indent=4))
    entry = {"file_name": f"{split}.json", "formatting": "sharegpt", "columns": {"messages": "conversations"}}
    entry["columns"]["images"] = "image"
    rows = hosted(tmp_path, name, entry)
    dataset = open_dataset(name, tmp_path)
    assert list(dataset) == samples
    for row, sample in zip(rows, samples, strict=True):
        assert (row["_prompt"][0]["content"], row["_response"][0]["content"]) == (sample.question, sample.answer)
        assert row["_images"] == ([str(tmp_path / "0.jpg")] if "<image>" in sample.question else None)
