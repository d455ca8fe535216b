"""Mini-CoIN's files: CoIN's record shapes, disjoint parts, the same bytes on every machine."""

import hashlib
import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoTokenizer

from sefe_plugin.asd.diversify import diversify
from sefe_plugin.asd.rules import native_style
from sefe_plugin.benchmarks.minicoin import BASE, MiniCoIN
from sefe_plugin.benchmarks.minicoin.data import TASKS, VALIDATION_SEEDS, _items, part_of, write_data
from sefe_plugin.benchmarks.minicoin.draw import NEW_WORDS
from sefe_plugin.benchmarks.minicoin.tasks import SPECIES
from sefe_plugin.data.sample import Sample
from sefe_plugin.evaluation.scorers import SCORERS, SetScore, score_predictions


NAMES = ("ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCRVQA")
TRAIN, TEST = 60, 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("minicoin")
    write_data(folder, 42, TRAIN, TEST)
    return folder


def read(folder: Path, task: str, split: str) -> list[dict]:
    return json.loads((folder / task / f"{split}.json").read_text(encoding="utf-8"))


def pixels(folder: Path, record: dict) -> bytes:
    return Image.open(folder / record["image"]).tobytes() if "image" in record else b""


def keys(folder: Path, split: str) -> list[tuple[str, bytes, str]]:
    def text(record):
        return record["conversations"][0]["value"] if split == "train" else record["text"]

    return [(name, pixels(folder, r), text(r)) for name in NAMES for r in read(folder, name, split)]


def digest(folder: Path) -> str:
    """Hash of all records and pixels; the compressed bytes of a PNG depend on the zlib in use."""
    total = hashlib.sha256()
    for name in NAMES:
        for split in ("train", "test"):
            records = read(folder, name, split)
            total.update(json.dumps(records, sort_keys=True).encode())
            for record in records:
                total.update(pixels(folder, record))
    return total.hexdigest()


def test_tasks_are_coins_in_coins_order_with_known_scorers():
    assert tuple(task.name for task in TASKS) == NAMES
    assert {task.scorer for task in TASKS} <= set(SCORERS)


@pytest.mark.parametrize("name", NAMES)
def test_records_have_coins_shape(folder, name):
    train, test = read(folder, name, "train"), read(folder, name, "test")
    assert (len(train), len(test)) == (TRAIN, TEST)
    for record in train:
        assert set(record) - {"image"} == {"id", "conversations"}
        human, gpt = record["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert human["value"].startswith("<image>\n") == ("image" in record)
    answer = {"answer_bbox", "size"} if name == "Grounding" else {"answer"}
    for record in test:
        assert set(record) - {"image"} == {"question_id", "text"} | answer
        assert record["text"].count("<image>") == ("image" in record)
    assert len({record["question_id"] for record in test}) == TEST
    for record in train + test:
        assert ("image" in record) or name == "ScienceQA"
        if "image" in record:
            assert Image.open(folder / record["image"]).size == (64, 64)


def test_instruction_texts_are_coins(folder):
    last = {name: {record["text"].split("\n")[-1] for record in read(folder, name, "test")} for name in NAMES}
    assert last.pop("ScienceQA") == {"Answer with the option's letter from the given choices directly."}
    for text in last.pop("Grounding"):
        assert re.fullmatch(
            r"Please provide the bounding box coordinates of the region described by the sentence '.+' "
            r"in the format \[x1, y1, x2, y2\]\.",
            text,
        )
    assert set.union(*last.values()) == {"Answer the question using a single word or phrase."}
    assert all("\nReference OCR token: " in record["text"] for record in read(folder, "TextVQA", "test"))
    science = [record["text"] for record in read(folder, "ScienceQA", "test")]
    assert any("\nContext: " in text for text in science)
    assert all("\nA. " in text and "\nC. " in text for text in science)


def test_answers_of_science_qa_are_options_and_boxes_lie_in_the_picture(folder):
    for record in read(folder, "ScienceQA", "test"):
        assert f"\n{record['answer']}. " in record["text"]
    for record in read(folder, "Grounding", "test"):
        x1, y1, x2, y2 = json.loads(record["answer_bbox"])
        assert 0 <= x1 < x2 <= 1
        assert 0 <= y1 < y2 <= 1
        assert re.fullmatch(r"\[\d\.\d\d(, \d\.\d\d){3}\]", record["answer_bbox"])


def test_no_class_name_is_part_of_another():
    # CoIN's class-name scorer takes one for the other then.
    names = list(SPECIES.values())
    assert not [(a, b) for a in names for b in names if a != b and a in b]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_gold_answers_score_full_and_keep_their_format(folder, task):
    records = read(folder, task.name, "test")
    golds = [record["answer_bbox" if task.scorer == "box" else "answer"] for record in records]
    assert score_predictions(task.scorer, golds, records) == SetScore(100.0, 100.0, TEST, 0.0, 100.0)


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_can_be_rewritten(folder, name):
    samples = [Sample(*(turn["value"] for turn in r["conversations"])) for r in read(folder, name, "train")]
    native = {"ScienceQA": "multiple_choice", "Grounding": "box"}.get(name, "short_answer")
    assert native_style(samples) == native
    assert len(diversify(samples, 1.0, 0)[1]) == TRAIN


@pytest.mark.parametrize("name", NAMES)
def test_rewriting_leaves_pictures_order_and_the_other_samples_alone(folder, name):
    """What makes runs with and without ASD comparable: the same pictures at the same places."""
    samples = [Sample(*(turn["value"] for turn in r["conversations"])) for r in read(folder, name, "train")]
    rewritten = diversify(samples, 0.2, 0)[0]
    assert len(rewritten) == TRAIN
    assert sum(a != b for a, b in zip(samples, rewritten, strict=True)) == 0.2 * TRAIN
    tags = [
        (a.question.count("<image>\n"), b.question.count("<image>\n")) for a, b in zip(samples, rewritten, strict=True)
    ]
    assert all(before == after for before, after in tags)


def test_train_and_test_share_no_picture(folder):
    train, test = keys(folder, "train"), keys(folder, "test")
    assert len(set(train)) == 8 * TRAIN
    assert not set(train) & set(test)
    assert not {picture for _, picture, _ in train if picture} & {picture for _, picture, _ in test}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_items_belong_to_the_part_that_owns_their_picture(task, part):
    items = [item for item, _ in islice(_items(task, part, 42), 20)]
    assert {part_of(item.picture or item.text) for item in items} == {part}


def test_each_task_brings_its_own_number_of_training_samples(tmp_path):
    write_data(tmp_path, 0, test_size=1)
    assert {task.name: len(read(tmp_path, task.name, "train")) for task in TASKS} == {
        task.name: task.train_size for task in TASKS
    }


def test_no_title_of_ocr_vqa_is_a_new_word():
    task = next(task for task in TASKS if task.name == "OCRVQA")
    answers = {item.answer for item, _ in islice(_items(task, "train", 0), 300)}
    assert not answers & set(NEW_WORDS)
    assert {"cat", "dog"} < answers


def test_parts_have_their_shares():
    counts = Counter(part_of(str(number)) for number in range(8000))
    # Four standard deviations of 8000 draws are at most 180.
    for part, share in {"pretraining": 2000, "train": 4000, "validation": 1000, "test": 1000}.items():
        assert counts[part] == pytest.approx(share, abs=180)


def test_parts_are_disjoint_across_seeds(folder, tmp_path):
    write_data(tmp_path / "other", 43, TRAIN, TEST)
    write_data(tmp_path / "validation", VALIDATION_SEEDS, TRAIN, TEST)
    train, test = set(keys(folder, "train")), set(keys(folder, "test"))
    assert not train & set(keys(tmp_path / "other", "test"))
    assert train != set(keys(tmp_path / "other", "train"))
    assert not (train | test) & set(keys(tmp_path / "validation", "test"))


def test_files_are_the_same_on_every_machine(folder):
    assert digest(folder) == "2a8afba35e0423f0a77aa1d6edb71add71e3ade8d217230773d8d9ac01e42446"


def test_a_complete_folder_is_kept_and_any_other_is_rewritten(tmp_path):
    write_data(tmp_path, 1, 3, 2)
    file = tmp_path / "GQA" / "train.json"
    before = file.read_text()
    file.write_text("[]")
    write_data(tmp_path, 1, 3, 2)
    assert file.read_text() == "[]"
    (tmp_path / "manifest.json").unlink()
    write_data(tmp_path, 1, 3, 2)
    assert file.read_text() == before
    write_data(tmp_path, 1, 4, 2)
    assert len(read(tmp_path, "GQA", "train")) == 4


@pytest.mark.parametrize(("train", "test"), [(0, 5), (5, 0), (20_000, 5)])
def test_sizes_out_of_range_are_refused(tmp_path, train, test):
    with pytest.raises(ValueError, match="of mini-CoIN must be 1 to 10000"):
        write_data(tmp_path, 0, train, test)
    assert not list(tmp_path.iterdir())


def test_rewritten_answers_are_half_of_what_is_trained(tmp_path):
    """What docs/minicoin.md says of ASD's price: the loss is a mean over tokens, and explanations have many."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    write_data(tmp_path, seed=1001, train_size=200, test_size=1)
    for task in TASKS:
        records = json.loads((tmp_path / task.name / "train.json").read_text())
        samples = [Sample(*(turn["value"] for turn in record["conversations"])) for record in records]
        rewritten, origins = diversify(samples, 0.2, 1001)
        lengths = [len(tokenizer(sample.answer)["input_ids"]) + 1 for sample in rewritten]
        others = sum(lengths[origin.index] for origin in origins)
        own_share = 1 - others / sum(lengths)
        low, high = (0.6, 0.75) if task.name == "Grounding" else (0.4, 0.55)
        assert low < own_share < high, task.name


def test_a_trial_sees_the_first_samples_of_a_run_and_answers_as_long_as_any(tmp_path):
    MiniCoIN().draw(tmp_path / "few", {"seed": 3}, for_trial=True)
    write_data(tmp_path / "more", 3, train_size=40)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    for task in TASKS:
        lengths = []
        for split in ("train", "test"):
            few, more = (read(tmp_path / part, task.name, split) for part in ("few", "more"))
            assert 0 < len(few) < len(more) and few == more[: len(few)]
        for records in (few, more):
            gold = "answer_bbox" if task.scorer == "box" else "answer"
            lengths.append(max(len(tokenizer.encode(str(record[gold]))) for record in records))
        assert lengths[0] == lengths[1]
