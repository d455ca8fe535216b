"""Questions with images, of every family: their tokens without reading every image, and images that are read once."""

import json
from collections.abc import Iterator

import pytest
import torch
from datasets.fingerprint import Hasher
from llamafactory.data.processor import UnsupervisedDatasetProcessor
from llamafactory.hparams import DataArguments, ModelArguments
from PIL import Image
from tiny_families import FAMILIES, write_family
from transformers import AutoModelForImageTextToText, HfArgumentParser

from sefe_plugin.evaluation.generate import generate_answers, generating
from sefe_plugin.evaluation.reading import Reader
from sefe_plugin.evaluation.rolling import rolling_answers
from sefe_plugin.hosts.llamafactory.image_sizes import _sizes, by_size
from sefe_plugin.hosts.llamafactory.questions import QuestionReader


#: Modes and sizes of pictures, in an order in which those of one size do not follow each other.
PICTURES = [
    ("RGB", (64, 64)),
    ("RGB", (200, 100)),
    ("L", (64, 64)),
    ("RGB", (64, 64)),
    ("RGBA", (90, 300)),
    ("RGB", (200, 100)),
    ("RGB", (301, 97)),
    ("RGBA", (90, 300)),
]


@pytest.fixture
def reader_of(tmp_path):
    """Return what makes a reader for a family, and records with pictures of `PICTURES`: one each, and all at once."""

    def make(family: str) -> tuple[QuestionReader, list[dict]]:
        base, data = tmp_path / "base", tmp_path / "data"
        keys = {"model_name_or_path": str(base), "template": write_family(family, base).template}
        keys["default_system"] = ""  # the host keeps that of whoever set one before
        data.mkdir()
        for number, (mode, size) in enumerate(PICTURES):
            color = tuple((40 * number + 17 * band) % 256 for band in range(len(Image.new(mode, (1, 1)).getbands())))
            Image.new(mode, size, color if len(color) > 1 else color[0]).save(data / f"{number}.png")
        names = [f"{number}.png" for number in range(len(PICTURES))]
        asked = [[name] for name in names] + [names]
        records = [
            {"instruction": "<image>" * len(images) + "What is it?", "output": "a dog", "images": images}
            for images in asked
        ]
        (data / "asked.json").write_text(json.dumps(records))
        columns = {"prompt": "instruction", "response": "output", "images": "images"}
        (data / "dataset_info.json").write_text(json.dumps({"asked": {"file_name": "asked.json", "columns": columns}}))
        parser = HfArgumentParser((ModelArguments, DataArguments))
        keys |= {"dataset_dir": str(data), "media_dir": str(data)}
        return QuestionReader(*parser.parse_dict(keys, allow_extra_keys=True)), records

    return make


def plain(reader: QuestionReader, records: list[dict]) -> Iterator[dict]:
    """Yield the features that the host makes with every picture read."""
    encoder = UnsupervisedDatasetProcessor(
        template=reader.template, tokenizer=reader.tokenizer, processor=reader.processor, data_args=reader._data_args
    )
    for record in records:
        row = reader.row("asked", record)
        encoded = encoder.preprocess_dataset({key: [value] for key, value in row.items()})
        yield {key: value for key, (value,) in encoded.items()}


@pytest.mark.parametrize(("family", "cut"), [*((family, False) for family in FAMILIES), ("InternVL3", True)])
def test_questions_of_every_family_are_those_with_every_picture_read(reader_of, family, cut):
    reader, records = reader_of(family)
    if cut:  # in crops, as many as the shape of a picture asks for
        reader.processor.image_processor.crop_to_patches = True
    expected = [*plain(reader, records)]
    assert reader.questions("asked", records) == expected
    lengths = {len(feature["input_ids"]) for feature in expected[:-1]}
    # some give each picture as many tokens
    assert (len(lengths) > 1) == (cut or family not in ("LLaVA-1.5", "InternVL3", "Gemma 3"))


def test_a_picture_that_is_to_be_turned_is_of_another_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    Image.new("RGB", (64, 32)).save(tmp_path / "plain.jpg")
    Image.new("RGB", (64, 32)).save(tmp_path / "turned.jpg", exif=exif)
    one, other = (_sizes([str(tmp_path / f"{name}.jpg")], decode=False) for name in ("plain", "turned"))
    assert None not in (one, other)
    assert one != other


def test_the_model_sees_every_picture_itself(reader_of):
    reader, records = reader_of("LLaVA-1.5")
    batch = reader.collate()(reader.questions("asked", records[:-1]))
    seen = {tuple(picture.flatten().tolist()) for picture in batch["pixel_values"]}
    assert len(seen) == len(PICTURES)


def counted(template, monkeypatch) -> list[int]:
    """Note how many pictures a template's plugin processes at a time."""
    read, whole = [], template.mm_plugin._get_mm_inputs
    monkeypatch.setattr(
        template.mm_plugin, "_get_mm_inputs", lambda images, *more: read.append(len(images)) or whole(images, *more)
    )
    return read


@pytest.mark.parametrize("decode", [False, True])
def test_a_picture_of_a_known_size_is_not_processed(reader_of, monkeypatch, decode):
    reader, records = reader_of("LLaVA-NeXT")
    read = counted(reader.template, monkeypatch)
    plugin = by_size(reader.template, decode).mm_plugin
    for record in records:
        images = reader.row("asked", record)["_images"]
        plugin.process_messages([{"role": "user", "content": record["instruction"]}], images, [], [], reader.processor)
    assert read == [1] * len(set(PICTURES)) + [len(PICTURES)]


def test_what_the_host_takes_out_of_it_is_there_the_next_time(reader_of):
    reader, records = reader_of("LLaVA-NeXT")
    plugin = by_size(reader.template).mm_plugin
    images = reader.row("asked", records[1])["_images"]
    first = plugin._get_mm_inputs(images, [], [], reader.processor)
    names = set(first)
    first.clear()
    assert set(plugin._get_mm_inputs(images, [], [], reader.processor)) == names != set()


def test_what_is_known_is_no_part_of_its_name(reader_of):
    """`datasets` names a cache by the function that it maps with, and would find none again."""
    reader, records = reader_of("LLaVA-NeXT")
    template = by_size(reader.template, decode=True)
    before = Hasher.hash(template.mm_plugin.process_messages)
    template.mm_plugin._get_mm_inputs(reader.row("asked", records[1])["_images"], [], [], reader.processor)
    assert Hasher.hash(template.mm_plugin.process_messages) == before
    assert Hasher.hash(reader.template.mm_plugin.process_messages) != before


def test_a_file_that_is_no_picture_is_the_hosts_to_refuse(reader_of, tmp_path):
    reader, records = reader_of("LLaVA-1.5")
    (tmp_path / "data" / "0.png").write_text("no picture")
    with pytest.raises(Exception, match="cannot identify image file"):
        reader.question("asked", records[0])


def test_half_a_picture_of_a_known_size_is_found_where_all_are_decoded(reader_of, tmp_path):
    reader, records = reader_of("LLaVA-1.5")
    plugin = by_size(reader.template, decode=True).mm_plugin
    whole, half = (reader.row("asked", records[number])["_images"] for number in (1, 5))  # of one size
    plugin._get_mm_inputs(whole, [], [], reader.processor)
    plugin._get_mm_inputs(half, [], [], reader.processor)
    file = tmp_path / "data" / "5.png"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(OSError, match=r"truncated|broken"):
        plugin._get_mm_inputs(half, [], [], reader.processor)


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_about_one_picture_are_answered_as_one_by_one(reader_of, monkeypatch, tmp_path, family):
    reader, _ = reader_of(family)
    words = ["small", "large", "left", "right", "red", "square", "that one"]
    records = [
        {"instruction": f"<image>{'What is it? ' * 10}The {word} object? {word * 4}", "images": [f"{number}.png"]}
        for number in (0, 1, 4)
        for word in words
    ]
    questions, collate = reader.questions("asked", records), reader.collate()
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base").eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.3)  # as they are made, all questions have nearly one answer
    read, parts = [], Reader._read_parts
    monkeypatch.setattr(Reader, "_read_parts", lambda *given, **more: read.append(1) or parts(*given, **more))
    limits = {
        "max_new_tokens": 6,
        "eos_token_id": reader.stop_token_ids,
        "pad_token_id": reader.tokenizer.pad_token_id,
    }

    def decode(tokens: list[int]) -> str:
        end = next((place for place, token in enumerate(tokens) if token in reader.stop_token_ids), None)
        return " ".join(map(str, tokens[:end]))

    alone = [generate_answers(model, [collate([question])], decode, **limits)[0] for question in questions]
    batches = [(list(range(i, i + 7)), collate(questions[i : i + 7])) for i in range(0, len(questions), 7)]
    with generating(model):
        together = dict(rolling_answers(model, batches, decode, **limits))
    assert len(set(alone)) > 2 or family == "Gemma 3"  # whose random model repeats the last token
    assert [together[number] for number in range(len(questions))] == alone
    assert len(read) == (3 if family in ("LLaVA-1.5", "LLaVA-NeXT", "InternVL3") else 0)
