"""UCIT, six tasks (HiDe-LLaVA, arXiv 2503.12941): four with one right answer, two of captions.

`dataset_dir` (default `data/ucit`) is what `sefe prepare ucit` wrote.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks.base import PublishedSize
from sefe_plugin.benchmarks.published.benchmark import PublishedBenchmark
from sefe_plugin.benchmarks.published.tables import GoldFile, Golds, Published, PublishedTask, Variant
from sefe_plugin.data.layout import listed
from sefe_plugin.files import read_json


_TEST_SIZE = 3_000
_COCO = ("val_coco_type_3000.json", "val_coco_type.json", "test_coco_type_3000.json", "test_coco_type.json")


def captions_in_test_order(file: Path, own: Sequence[Any], say: Callable[[str], None]) -> Golds:
    """Read the captions of a COCO file whose image ids are the places in the test set, from 1.

    Copies from before 2025-10-28 lack the last image of VizWiz; its record is then at fault.

    Args:
        file: The file.
        own: The own `answer` of each test record: a text, several, or None.
        say: Told where no record's own answer is among its captions, which may then be of other images.

    Raises:
        ValueError: If it has captions of an image without a record.
    """
    captions: dict[int, list[str]] = {}
    for annotation in read_json(file)["annotations"]:
        captions.setdefault(int(annotation["image_id"]), []).append(str(annotation["caption"]))
    if foreign := captions.keys() - range(1, len(own) + 1):
        raise ValueError(f"it has captions of image {max(foreign)}, and the test set has {len(own)} records")
    answers = {number: texts for number, answer in enumerate(own, start=1) if (texts := _plain(listed(answer)))}
    if answers and not any(texts & _plain(captions.get(number, [])) for number, texts in answers.items()):
        say(
            f"note: no test record's own answer is among the captions that {file} has for it. See whether the file "
            "belongs to this test set, in this order."
        )

    def golds(number: int, record: Mapping) -> dict:
        if number not in captions:
            raise ValueError(
                f"has no captions: {file.name} ends before image {number}. Copies from before 2025-10-28 lack the "
                "last one; download the file again"
            )
        return {"captions": captions[number]}

    return golds


def _plain(texts: Sequence[Any]) -> set[str]:
    """Return texts in lower case, without blanks and periods at their ends, as copies of captions differ in them."""
    return {text.strip(" .\n").lower() for text in texts if isinstance(text, str)} - {""}


def _task(
    name: str,
    scorer: str,
    train_size: int,
    folders: tuple[str, ...],
    train: tuple[str, ...],
    images: str,
    captions: bool = False,
) -> PublishedTask:
    return PublishedTask(
        name,
        scorer,
        "ucit:caption" if captions else "ucit:viz_wiz",  # upper-case equality, CoIN's rule of VizWiz
        (name, *folders),
        train,
        ("test_3000.json", "test.json"),
        images,
        PublishedSize(train_size, _TEST_SIZE),
        asd_by_rule=not captions,
        golds=GoldFile(_COCO, captions_in_test_order) if captions else None,
    )


#: Sizes were counted in the published files. Names differ between HiDe-LLaVA, the versions of MCITlib, and Prism.
UCIT_TABLE = Published(
    "ucit",
    "UCIT",
    (
        _task(
            "ImageNet-R",
            "class_name",
            23_998,
            (),
            ("train.json",),
            "in the Hugging Face dataset HaiyangGuo/UCIT; 200 classes of ImageNet-R, for their terms see there",
        ),
        _task(
            "ArxivQA",
            "multiple_choice",
            40_000,
            (),
            ("train_4w.json", "train.json"),
            "Hugging Face dataset MMInstruction/ArxivQA, CC BY-SA 4.0",
        ),
        _task(
            "VizWiz",
            "caption",
            40_000,
            ("VizWiz-caption", "VizWiz-cap", "Vizcap"),
            ("train.json",),
            "VizWiz-Captions train and val images (vizwiz.org), CC BY 4.0",
            captions=True,
        ),
        _task(
            "IconQA",
            "mixed",
            29_859,
            (),
            ("train.json",),
            "IconQA (iconqa.github.io), CC BY-NC-SA 4.0",
        ),
        _task(
            "CLEVR-Math",
            "number",
            40_000,
            ("CLEVR",),
            ("train_4w.json", "train.json"),
            "Hugging Face dataset dali-does/clevr-math, CC BY 4.0",
        ),
        _task(
            "Flickr30k",
            "caption",
            40_000,
            ("Flickr30k-cap", "Flickr30k-caption"),
            ("train_brief_4w.json", "train.json"),
            "in the Hugging Face dataset HaiyangGuo/UCIT (train.tar.gz, val.tar.gz); Flickr's terms of use",
            captions=True,
        ),
    ),
    {
        "original": Variant(
            ("instructions", "UCIT/instructions", ""),
            "Hugging Face dataset HaiyangGuo/UCIT, or its mirror MLLM-CL/UCIT; 0.12 GB of JSON, and several GB of "
            "images from six places; no licence of its own was found, images follow their sources",
        )
    },
    image_folders=("datasets", "UCIT/datasets", ""),
    notes=(
        "ArxivQA's questions hold a rationale that gives the answer away, and its training and test sets share "
        "images; published runs keep both.",
    ),
)


class UCIT(PublishedBenchmark):
    """UCIT's tasks."""

    published = UCIT_TABLE
