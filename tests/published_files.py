"""Small files of UCIT, MLLM-DCL and TriGap in their published shapes: JSON, archives, parquet shards."""

import io
import json
import random
import shutil
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image


#: Task -> question of a test record, its possible answers.
UCIT_QUESTIONS = {
    "ImageNet-R": (
        "What is the object in the image?\nAnswer the question using a single word or phrase.",
        ("goldfish", "zebra", "teapot"),
    ),
    "ArxivQA": (
        "Which curve is highest?\nA) red\nB) blue\nRationale:The red one ends above.\n"
        "Answer with the option's letter from the given choices directly.",
        ("A", "B"),
    ),
    "VizWiz": (
        "What is happening in the image?\nGenerate a brief caption for the image.",
        ("a can on a table", "a dog runs"),
    ),
    "IconQA": (
        "Is it round?\n0. no\n1. yes\nAnswer with the option's letter from the given choices directly.",
        ("0", "1"),
    ),
    "CLEVR-Math": ("How many cubes are left?\nAnswer the question using a single word or phrase.", ("3", "4")),
    "Flickr30k": (
        "What is happening in the image?\nGenerate a brief caption for the image.",
        ("two people sit", "a dog runs on the grass"),
    ),
}
#: Task -> training file, test file, folder of images of each split, as HiDe-LLaVA has them.
UCIT_FILES = {
    "ImageNet-R": ("train.json", "test_3000.json", "ImageNet-R/train/n01", "ImageNet-R/test/n01"),
    "ArxivQA": ("train_4w.json", "test_3000.json", "ArxivQA/images", "ArxivQA/images"),
    "VizWiz": ("train.json", "test_3000.json", "VizWiz/train", "VizWiz/val"),
    "IconQA": ("train.json", "test_3000.json", "IconQA/iconqa_data/iconqa/train", "IconQA/iconqa_data/iconqa/val"),
    "CLEVR-Math": ("train_4w.json", "test_3000.json", "CLEVR/images/train", "CLEVR/images/test"),
    "Flickr30k": ("train_brief_4w.json", "test_3000.json", "Flickr30k/train", "Flickr30k/val"),
}
DCL_QUESTIONS = {
    "RS": ("Is there a vineyard? \nAnswer the question using a single word or phrase.", ("yes", "no")),
    "Med": ("is the liver seen?", ("yes", "no", "liver")),
    "AD": ("What is the car doing? Objects are encoded using <c,CAM,[cx,cy]>.", ("Going ahead.", "Turning left.")),
    "Sci": (
        "Which is it?\nA.Eagle\nB.Owl\nAnswer with the option's letter from the given choices directly.",
        ("A", "B"),
    ),
    "Fin": ("What is the trend? A. up B. down", ("A", "B", "Yes")),
}


def write_json(file: Path, content) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def picture(number: int, size: tuple[int, int] = (40, 30)) -> bytes:
    """A JPEG, another one for each number."""
    content = io.BytesIO()
    Image.frombytes("RGB", size, random.Random(number).randbytes(3 * size[0] * size[1])).save(content, "jpeg")
    return content.getvalue()


def write_picture(file: Path, number: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(picture(number))


def train_record(number: int, image: str, question: str, answer: str, id_name: str = "id") -> dict:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {id_name: f"t{number}", "image": image, "conversations": turns}


def test_record(number: int, image: str, question: str, answer: str) -> dict:
    return {"question_id": number, "image": image, "text": question, "answer": answer}


test_record.__test__ = False


def write_ucit(folder: Path, train: int = 8, test: int = 3, instructions: str = "instructions") -> None:
    """UCIT as HiDe-LLaVA lays it out: instructions/<task>/<file>, and images below datasets/."""
    for place, (task, (question, answers)) in enumerate(UCIT_QUESTIONS.items()):
        train_file, test_file, *images = UCIT_FILES[task]
        records = {"train": [], "test": []}
        for split, size, where in (("train", train, images[0]), ("test", test, images[1])):
            for i in range(size):
                path = f"{where}/{split}_{i}.jpg"
                write_picture(folder / "datasets" / path, 100 * place + i + 50 * (split == "test"))
                make = train_record if split == "train" else test_record
                records[split].append(make(i, path, question, answers[i % len(answers)]))
        write_json(folder / instructions / task / train_file, records["train"])
        write_json(folder / instructions / task / test_file, records["test"])
        if task in ("VizWiz", "Flickr30k"):
            write_json(folder / instructions / task / "val_coco_type_3000.json", coco(records["test"]))


def coco(records: list[dict], each: int = 5) -> dict:
    """The captions of a test set as a COCO file: image ids from 1 in test order, no `category_id`."""
    return {
        "images": [{"id": i, "file_name": record["image"]} for i, record in enumerate(records, start=1)],
        "annotations": [
            {"id": each * i + k, "image_id": i, "caption": f"{record['answer']} {k}"}
            for i, record in enumerate(records, start=1)
            for k in range(each)
        ],
        "categories": [],
    }


def dcl_records(task: str, train: int = 6, test: int = 3) -> dict[str, list[dict]]:
    question, answers = DCL_QUESTIONS[task]
    names = {"Sci": ("AI2D_1.jpg", "MapQA_2.jpg")}.get(task, ("1.jpg", "2.jpg"))

    def image(split: str, i: int) -> str:
        return f"images/{names[i % 2].replace('.', f'_{split}{i}.')}"

    return {
        "train": [train_record(i, image("tr", i), question, answers[i % len(answers)]) for i in range(train)],
        "test": [test_record(i, image("te", i), question, answers[i % len(answers)]) for i in range(test)],
    }


def write_dcl(folder: Path, tasks=tuple(DCL_QUESTIONS)) -> None:
    """MLLM-DCL as its page lays it out: <domain>/images, train.json, test.json; Fin's test file misspelled."""
    for task in tasks:
        records = dcl_records(task)
        for split, own in records.items():
            name = "test.sjon" if (task, split) == ("Fin", "test") else f"{split}.json"
            write_json(folder / task / name, own)
            for i, record in enumerate(own):
                write_picture(folder / task / record["image"], i + 50 * (split == "test"))


def pack(folder: Path, archive: Path, inside: str) -> None:
    """Pack a folder into an archive, its files below `inside`, and remove it."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as packed:
        packed.add(folder, inside)
    shutil.rmtree(folder)


def write_shards(folder: Path, task: str, shards: int = 2) -> None:
    """One domain of MLLM-DCL as parquet shards: `images`, a list of {bytes, path}, beside the other fields."""
    (folder / task).mkdir(parents=True, exist_ok=True)
    for split, records in dcl_records(task).items():
        rows = []
        for i, record in enumerate(records):
            content = {"bytes": picture(i + 50 * (split == "test")), "path": Path(record["image"]).name}
            rows.append({key: value for key, value in record.items() if key != "image"} | {"images": [content]})
        for k in range(shards):
            write_shard(folder / task / f"{split}-{k:05d}-of-{shards:05d}.parquet", rows[k::shards])


def write_shard(file: Path, rows: list[dict]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def shard_rows(file: Path) -> list[dict]:
    return pyarrow.parquet.read_table(file).to_pylist()
