"""`sefe prepare ucit` and `trigap` on small files in each published shape."""

import argparse
import json
import re
from pathlib import Path

import pytest
from published_files import (
    UCIT_FILES,
    UCIT_QUESTIONS,
    coco,
    pack,
    test_record,
    train_record,
    write_json,
    write_picture,
    write_ucit,
)

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.benchmarks.published.commands import PUBLISHED, add_commands
from sefe_plugin.benchmarks.published.convert import FAULTS_FILE, MANIFEST_FILE, Choice, prepare
from sefe_plugin.benchmarks.trigap import TRIGAP_TABLE
from sefe_plugin.benchmarks.ucit import UCIT_TABLE, captions_in_test_order


TRAIN, TEST = 8, 3


def rows_of(out: Path, task: str, split: str) -> list[dict]:
    return [json.loads(line) for line in (out / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def require_whole(out: Path) -> None:
    images = Path(json.loads((out / MANIFEST_FILE).read_text())["images"])
    for task in UCIT_QUESTIONS:
        train, test = rows_of(out, task, "train"), rows_of(out, task, "test")
        assert [row["id"] for row in train] == [f"t{i}" for i in range(TRAIN)]
        assert [row["question_id"] for row in test] == list(range(TEST))
        assert all((images / row["image"]).is_file() for row in train + test)
        assert all(row["text"] == f"<image>\n{UCIT_QUESTIONS[task][0]}" for row in test)
    assert load_benchmark("ucit").errors({"dataset_dir": str(out)}) == []


def test_as_hide_llava_lays_it_out(tmp_path):
    write_ucit(tmp_path / "in")
    prepare(UCIT_TABLE, tmp_path / "in", tmp_path / "out")
    require_whole(tmp_path / "out")


def test_names_of_other_versions(tmp_path):
    """Folders as MCITlib's later versions and Prism call them, files as v1's configurations do."""
    source = tmp_path / "in"
    write_ucit(source, instructions="")
    renamed = {"Flickr30k": "Flickr30k-cap", "VizWiz": "VizWiz-caption", "CLEVR-Math": "CLEVR"}
    for task, name in renamed.items():
        (source / task).rename(source / name)
    for name in ("train_4w.json", "train_brief_4w.json"):
        for file in source.glob(f"*/{name}"):
            file.rename(file.with_name("train.json"))
    for file in source.glob("*/test_3000.json"):
        file.rename(file.with_name("test.json"))
    for file in source.glob("*/val_coco_type_3000.json"):
        file.rename(file.with_name("test_coco_type.json"))
    datasets = source / "datasets"
    (datasets / "Flickr30k").rename(datasets / "Flickr30k-cap")
    (datasets / "CLEVR").rename(datasets / "CLEVR-Math")
    (datasets / "VizWiz").rename(datasets / "Vizcap")
    prepare(UCIT_TABLE, source, tmp_path / "out")
    require_whole(tmp_path / "out")
    assert rows_of(tmp_path / "out", "Flickr30k", "test")[0]["image"] == "datasets/Flickr30k-cap/val/test_0.jpg"


@pytest.mark.parametrize("inside", ["train", "Flickr30k/train", "."])
def test_archives_of_images(tmp_path, inside):
    """Flickr30k's training images packed, its others not: the images lie in two places then."""
    source = tmp_path / "in"
    write_ucit(source)
    folder = source / "datasets" / "Flickr30k"
    pack(folder / "train", folder / "train.tar.gz", inside)
    prepare(UCIT_TABLE, source, tmp_path / "out")
    require_whole(tmp_path / "out")


def test_images_elsewhere(tmp_path):
    write_ucit(tmp_path / "in")
    (tmp_path / "in" / "datasets").rename(tmp_path / "pictures")
    with pytest.raises(ValueError, match="images of UCIT are missing below") as error:
        prepare(UCIT_TABLE, tmp_path / "in", tmp_path / "out")
    said = str(error.value)
    assert said.count("\n  - ") == 6
    assert (
        "  - VizWiz, such as VizWiz/val/test_0.jpg: VizWiz-Captions train and val images (vizwiz.org), CC BY" in said
    )
    prepare(UCIT_TABLE, tmp_path / "in", tmp_path / "out", images=tmp_path / "pictures")
    require_whole(tmp_path / "out")
    with pytest.raises(ValueError, match="--images must name a folder"):
        prepare(UCIT_TABLE, tmp_path / "in", tmp_path / "out", images=tmp_path / "none")


def test_captions_go_to_their_records_by_the_order_of_the_test_set(tmp_path):
    write_ucit(tmp_path / "in")
    file = tmp_path / "in" / "instructions" / "VizWiz" / "val_coco_type_3000.json"
    content = json.loads(file.read_text())
    content["annotations"].reverse()
    write_json(file, content)
    prepare(UCIT_TABLE, tmp_path / "in", tmp_path / "out", choice=Choice(max_test=2, seed=3))
    rows = rows_of(tmp_path / "out", "VizWiz", "test")
    assert len(rows) == 2
    for row in rows:
        assert row["captions"] == [f"{row['answer']} {k}" for k in (4, 3, 2, 1, 0)]
    assert "captions" not in rows_of(tmp_path / "out", "ArxivQA", "test")[0]


def test_a_file_of_captions_that_is_missing_or_too_short_is_named(tmp_path):
    write_ucit(tmp_path / "in")
    folder = tmp_path / "in" / "instructions"
    (folder / "VizWiz" / "val_coco_type_3000.json").unlink()
    with pytest.raises(ValueError, match=r"  - VizWiz: val_coco_type_3000\.json or val_coco_type\.json or "):
        prepare(UCIT_TABLE, tmp_path / "in", tmp_path / "out")
    records = json.loads((folder / "VizWiz" / "test_3000.json").read_text())
    write_json(folder / "VizWiz" / "val_coco_type.json", coco(records[:-1]))
    with pytest.raises(ValueError, match=r"record 3: has no captions: val_coco_type.json ends before image 3.*2025"):
        prepare(UCIT_TABLE, tmp_path / "in", tmp_path / "out")
    write_json(folder / "VizWiz" / "val_coco_type.json", [1])
    with pytest.raises(ValueError, match=r"val_coco_type\.json is not VizWiz's file of gold answers"):
        prepare(UCIT_TABLE, tmp_path / "in", tmp_path / "out")


def test_captions_of_an_image_without_a_record_are_named(tmp_path):
    write_ucit(tmp_path / "in")
    folder = tmp_path / "in" / "instructions" / "VizWiz"
    records = json.loads((folder / "test_3000.json").read_text())
    write_json(folder / "val_coco_type_3000.json", coco([*records, records[0]]))
    with pytest.raises(ValueError, match=r"it has captions of image 4, and the test set has 3 records"):
        prepare(UCIT_TABLE, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("answers", "is_doubted"),
    [
        ("A can on a table 1.", False),
        (["none", "a can on a table 0"], False),
        ("a train in snow", True),
        ("", False),
        (None, False),
    ],
)
def test_captions_among_which_is_no_answer_are_doubted(tmp_path, answers, is_doubted):
    """One record's answer is enough: the published files may lack others."""
    write_ucit(tmp_path / "in")
    file = tmp_path / "in" / "instructions" / "VizWiz" / "test_3000.json"
    records = json.loads(file.read_text())
    said = []
    golds = captions_in_test_order(
        file.with_name("val_coco_type_3000.json"), [answers, *(None for _ in records[1:])], said.append
    )
    assert golds(1, {})["captions"][0] == "a can on a table 0"
    assert any("no test record's own answer is among the captions" in line for line in said) == is_doubted


def test_the_doubt_is_told(tmp_path):
    write_ucit(tmp_path / "in")
    said = []
    prepare(UCIT_TABLE, tmp_path / "in", tmp_path / "out", say=said.append)
    assert sum("no test record's own answer is among the captions" in line for line in said) == 2


class TestDuplicates:
    @pytest.fixture
    def source(self, tmp_path):
        """ArxivQA with a training record twice, and one whose image is in the test set."""
        write_ucit(tmp_path / "in")
        file = tmp_path / "in" / "instructions" / "ArxivQA" / "train_4w.json"
        records = json.loads(file.read_text())
        records.append(records[2])
        question, answers = UCIT_QUESTIONS["ArxivQA"]
        records.append(train_record(20, "ArxivQA/images/test_1.jpg", question, answers[0]))
        # the same id alone is no duplicate
        records.append(train_record(0, "ArxivQA/images/train_3.jpg", question, answers[1]))
        write_json(file, records)
        return tmp_path / "in"

    def test_they_are_reported_and_kept(self, source, tmp_path):
        said = []
        manifest = prepare(UCIT_TABLE, source, tmp_path / "out", say=said.append)
        assert len(rows_of(tmp_path / "out", "ArxivQA", "train")) == TRAIN + 3
        assert (
            f"ArxivQA train: {TRAIN + 3} records, 1 exact duplicates kept, 1 with an image of the test set kept"
            in said
        )
        assert manifest["duplicates"]["ArxivQA"] == {"test": 0, "train": 1}
        assert manifest["shared_images"] == {task: int(task == "ArxivQA") for task in UCIT_QUESTIONS}

    def test_they_are_dropped_on_request_alone(self, source, tmp_path):
        choice = Choice(drop_duplicates=True, drop_shared=True)
        manifest = prepare(UCIT_TABLE, source, tmp_path / "out", choice=choice)
        ids = [row["id"] for row in rows_of(tmp_path / "out", "ArxivQA", "train")]
        assert ids == [*(f"t{i}" for i in range(TRAIN)), "t0"]
        part = manifest["tasks"]["ArxivQA"]["train"]
        assert (part["chosen"], part["written"]) == (TRAIN + 3, TRAIN + 1)
        assert not (tmp_path / "out" / FAULTS_FILE).exists()


@pytest.mark.parametrize("skip", [False, True])
def test_missing_and_broken_images(tmp_path, skip):
    write_ucit(tmp_path / "in")
    images = tmp_path / "in" / "datasets"
    (images / "IconQA/iconqa_data/iconqa/train/train_2.jpg").unlink()
    cut = images / "VizWiz/val/test_1.jpg"
    cut.write_bytes(cut.read_bytes()[:200])
    if skip:
        prepare(UCIT_TABLE, tmp_path / "in", tmp_path / "out", choice=Choice(skip_broken=True))
        assert [row["id"] for row in rows_of(tmp_path / "out", "IconQA", "train")] == [
            f"t{i}" for i in range(TRAIN) if i != 2
        ]
        captions = {row["question_id"]: row["captions"] for row in rows_of(tmp_path / "out", "VizWiz", "test")}
        assert captions == {i: [f"{UCIT_QUESTIONS['VizWiz'][1][0]} {k}" for k in range(5)] for i in (0, 2)}
    else:
        with pytest.raises(ValueError, match="are missing or broken") as error:
            prepare(UCIT_TABLE, tmp_path / "in", tmp_path / "out")
        assert "IconQA: 1 missing, 0 broken, such as IconQA/iconqa_data/iconqa/train/train_2.jpg" in str(error.value)
        assert "VizWiz: 0 missing, 1 broken" in str(error.value)
        assert "iconqa.github.io" in str(error.value)
    lines = (tmp_path / "out" / FAULTS_FILE).read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines] == [
        ["VizWiz", "VizWiz/val/test_1.jpg"],
        ["IconQA", "IconQA/iconqa_data/iconqa/train/train_2.jpg"],
    ]


def test_the_table_has_the_published_sizes():
    sizes = load_benchmark("ucit").published_sizes()
    assert sum(size.train for size in sizes.values()) == 213_857
    assert sum(size.test for size in sizes.values()) == 18_000
    assert list(sizes) == list(UCIT_FILES)


@pytest.mark.parametrize("names", ["own", "plain"])
def test_trigap(tmp_path, names):
    for task in TRIGAP_TABLE.tasks:
        folder = tmp_path / "in" / "instructions" / task.folders[-1]
        records = {"train": [], "test": []}
        for i in range(3):
            path = f"{task.name}/images/{i}.jpg"
            write_picture(tmp_path / "in" / "datasets" / path, i)
            answer = {"multiple_choice": "B", "number": str(i)}.get(str(task.scorer), f"word {i}")
            records["train"].append(train_record(i, path, "What?", answer))
            records["test"].append(test_record(i, path, "What?", answer))
        if task.name == "DocVQA":
            records["test"][0]["answer"] = ["12", "twelve"]
        for split in ("train", "test"):
            write_json(folder / getattr(task, split)[0 if names == "own" else 1], records[split])
    manifest = prepare(TRIGAP_TABLE, tmp_path / "in", tmp_path / "out")
    assert manifest["shared_images"]["ChemVQA"] == 3
    row = rows_of(tmp_path / "out", "DocVQA", "test")[0]
    assert (row["answer"], row["answers"]) == ("12", ["12", "twelve"])
    assert load_benchmark("trigap").errors({"dataset_dir": str(tmp_path / "out")}) == []


def test_the_command(tmp_path, capsys):
    write_ucit(tmp_path / "in")
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    words = ["prepare", "ucit", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--train-share", "0.5"]
    options = parser.parse_args([*words, "--max-test", "2", "--drop-duplicates", "--drop-shared", "--seed", "7"])
    options.run(options)
    said = capsys.readouterr().out
    assert "IconQA train: 4 records" in said
    assert "note: ArxivQA's questions hold a rationale" in said
    assert said.endswith(f"with `dataset_dir: {tmp_path / 'out'}`\n")
    manifest = json.loads((tmp_path / "out" / MANIFEST_FILE).read_text())
    assert {key: manifest[key] for key in ("max_test", "train_share", "seed", "drop_duplicates", "drop_shared")} == {
        "max_test": 2,
        "train_share": 0.5,
        "seed": 7,
        "drop_duplicates": True,
        "drop_shared": True,
    }
    options = parser.parse_args([*words, "--variant", "asd20"])
    with pytest.raises(ValueError, match="the variant of UCIT must be one of original; got 'asd20'"):
        options.run(options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_benchmark_has_a_table_with_sources(name, tmp_path):
    table = load_benchmark(name).published
    assert table.name == name
    for error in load_benchmark(name).errors({"dataset_dir": str(tmp_path)}):
        assert re.search(rf"sefe prepare {name} SOURCE --out {tmp_path}$", error)
    with pytest.raises(ValueError, match="Hugging Face dataset"):
        prepare(table, tmp_path, tmp_path / "out")
