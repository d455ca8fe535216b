"""CoIN's tasks, their published files, and where to get those that are missing."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sefe_plugin.answers.options import read_options
from sefe_plugin.answers.text_vqa import text_vqa_answers
from sefe_plugin.answers.texts import split_question
from sefe_plugin.benchmarks.base import PublishedSize
from sefe_plugin.benchmarks.published.tables import GoldFile, Golds, Published, PublishedTask, Variant
from sefe_plugin.files import read_json


_COIN = "Hugging Face dataset Zacks-Chen/CoIN, CC BY 4.0"
_COIN_ASD = "Hugging Face dataset jinpeng0528/CoIN-ASD, MIT"

#: Test records of each task in SEFE's tables, as their resolution shows; CoIN itself publishes more.
PUBLISHED_TEST_SIZE = 2_000

_TEST = ("test.json", "test_1.json")
#: The official scripts test some tasks on what CoIN publishes as validation data.
_VALIDATION = ("val.json", "test.json")
_TRAIN = ("train.json", "train_ori.json")


def _text_vqa_golds(file: Path, own: Sequence[Any], say: Callable[[str], None]) -> Golds:
    """Read TextVQA's ten answers to each test question; the most frequent stands for all where one is wanted."""
    answers = {str(entry["question_id"]): text_vqa_answers(entry) for entry in read_json(file)["data"]}

    def golds(number: int, record: Mapping) -> dict:
        found = record.get("answers") or answers.get(str(record.get("question_id")))
        if found and not (isinstance(found, list) and all(isinstance(answer, str) for answer in found)):
            raise ValueError(f"needs a list of texts as 'answers', got {str(found)[:200]}")
        return {"answers": found, "answer": Counter(found).most_common(1)[0][0]} if found else {}

    return golds


def _with_number_of_choices(row: dict) -> dict:
    """Add `num_choices`, counted from the lines "A. ...", "B. ..." of a question."""
    if "num_choices" in row:
        return row
    options = read_options(split_question(row["text"])[1]).texts
    return {**row, "num_choices": len(options)} if options else row


def _with_size(row: dict) -> dict:
    size = row.get("size")
    if not (isinstance(size, list) and [type(side) for side in size] == [int, int]):
        raise ValueError(f"needs width and height as 'size', got {str(size)[:200]}")
    return row


def _task(
    name: str, scorer: str, train_size: int, images: str, test: tuple[str, ...] = _TEST, **more
) -> PublishedTask:
    size = PublishedSize(train_size, PUBLISHED_TEST_SIZE)
    return PublishedTask(name, scorer, f"coin:{name}", (name,), _TRAIN, test, images, size, **more)


#: original: shared wording; diverse: another wording for each task; 10type: ten wordings for each task;
#: asdX: X % of the original samples in other answer styles. The test files of the asd variants are the original ones.
_VARIANTS = {
    "original": Variant(("Instructions_Original", "Instructions_Type1", "annotations", ""), _COIN),
    "diverse": Variant(("Instructions_Diverse", "Instructions_Type2", ""), _COIN, ("train.json",)),
    "10type": Variant(("Instructions_10Type", ""), _COIN, ("train.json",)),
    **{
        f"asd{share}": Variant(("annotations", ""), _COIN_ASD, (f"train_x{share}.json",))
        for share in (10, 20, 40, 60, 80)
    },
}

#: The first four training sizes were counted in the published files; the others are the benchmark's statistics and not
#: checked against its files. Together 573,840, where users' logs say about 570,000.
COIN = Published(
    "coin",
    "CoIN",
    (
        _task(
            "ScienceQA",
            "multiple_choice",
            12_726,
            "ScienceQA (images of the train, val and test splits, scienceqa.github.io), CC BY-NC-SA 4.0",
            complete=_with_number_of_choices,
            some_without_image=True,
        ),
        _task(
            "TextVQA",
            "text_vqa",
            34_602,
            "TextVQA v0.5.1 train_images (textvqa.org), CC BY 4.0",
            _VALIDATION,
            golds=GoldFile(
                ("TextVQA/TextVQA_0.5.1_val.json",),
                _text_vqa_golds,
                "so TextVQA's test records lack the ten answers of its official score (textvqa.org, CC BY 4.0)",
            ),
        ),
        _task(
            "ImageNet",
            "class_name",
            129_833,
            "ImageNet ILSVRC2012, 101 synsets (image-net.org), after registration, for non-commercial research",
        ),
        _task("GQA", "short_answer", 72_140, "GQA images (cs.stanford.edu/people/dorarad/gqa), CC BY 4.0"),
        _task(
            "VizWiz", "short_answer", 20_523, "VizWiz-VQA train and val images (vizwiz.org), CC BY 4.0", _VALIDATION
        ),
        _task(
            "Grounding",
            "box",
            55_885,
            "COCO train2014 (cocodataset.org), images under Flickr's terms of use",
            complete=_with_size,
        ),
        _task(
            "VQAv2",
            "short_answer",
            82_783,
            "COCO train2014 and val2014 (cocodataset.org), images under Flickr's terms of use",
            _VALIDATION,
        ),
        _task(
            "OCRVQA",
            "short_answer",
            165_348,
            "OCR-VQA images (ocr-vqa.github.io), book covers, for their terms see there",
        ),
    ),
    _VARIANTS,
)

TASKS = tuple(task.benchmark_task() for task in COIN.tasks)
