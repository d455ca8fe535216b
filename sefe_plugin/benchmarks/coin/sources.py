"""Where CoIN's and CoIN-ASD's published files lie, and where to get those that are missing."""

from pathlib import Path
from typing import NamedTuple

from sefe_plugin.benchmarks.coin.tasks import TASKS


_COIN = "Hugging Face dataset Zacks-Chen/CoIN, CC BY 4.0"
_COIN_ASD = "Hugging Face dataset jinpeng0528/CoIN-ASD, MIT"

#: Where annotations come from, and their licences.
ORIGINS = f"{_COIN}, or {_COIN_ASD}"


class Variant(NamedTuple):
    """One published version of the training data.

    Attributes:
        folders: Folders below the source that may hold the task folders, the first that has the file wins.
        train_files: Names of the training file.
        origin: Where to get it, and its licence.
    """

    folders: tuple[str, ...]
    train_files: tuple[str, ...]
    origin: str


#: original: shared wording; diverse: another wording for each task; 10type: ten wordings for each task;
#: asdX: X % of the original samples in other answer styles. The test files of the asd variants are the original ones.
VARIANTS = {
    "original": Variant(
        ("Instructions_Original", "Instructions_Type1", "annotations", ""), ("train.json", "train_ori.json"), _COIN
    ),
    "diverse": Variant(("Instructions_Diverse", "Instructions_Type2", ""), ("train.json",), _COIN),
    "10type": Variant(("Instructions_10Type", ""), ("train.json",), _COIN),
    **{
        f"asd{share}": Variant(("annotations", ""), (f"train_x{share}.json",), _COIN_ASD)
        for share in (10, 20, 40, 60, 80)
    },
}

#: The official scripts test these tasks on what CoIN publishes as validation data.
_TESTED_ON_VALIDATION = ("TextVQA", "VizWiz", "VQAv2")

#: Task -> where its images come from, and their terms.
IMAGES = {
    "ScienceQA": "ScienceQA (images of the train, val and test splits, scienceqa.github.io), CC BY-NC-SA 4.0",
    "TextVQA": "TextVQA v0.5.1 train_images (textvqa.org), CC BY 4.0",
    "ImageNet": "ImageNet ILSVRC2012, 101 synsets (image-net.org), after registration, for non-commercial research",
    "GQA": "GQA images (cs.stanford.edu/people/dorarad/gqa), CC BY 4.0",
    "VizWiz": "VizWiz-VQA train and val images (vizwiz.org), CC BY 4.0",
    "Grounding": "COCO train2014 (cocodataset.org), images under Flickr's terms of use",
    "VQAv2": "COCO train2014 and val2014 (cocodataset.org), images under Flickr's terms of use",
    "OCRVQA": "OCR-VQA images (ocr-vqa.github.io), book covers, for their terms see there",
}

#: Task -> samples of CoIN's training data. The first four were counted in the published files; the others are the
#: benchmark's statistics and not checked against its files. Together 573,840, where users' logs say about 570,000.
PUBLISHED_TRAIN_SIZES = {
    "ScienceQA": 12_726,
    "TextVQA": 34_602,
    "ImageNet": 129_833,
    "GQA": 72_140,
    "VizWiz": 20_523,
    "Grounding": 55_885,
    "VQAv2": 82_783,
    "OCRVQA": 165_348,
}

#: Test records of each task in SEFE's tables, as their resolution shows; CoIN itself publishes more.
PUBLISHED_TEST_SIZE = 2_000

#: The ten answers of each TextVQA test question, below the image folder or the source.
TEXT_VQA_ANSWERS = Path("TextVQA", "TextVQA_0.5.1_val.json")


class Annotations(NamedTuple):
    """A task's published files."""

    train: Path
    test: Path


def find_annotations(source: Path, variant: str) -> dict[str, Annotations]:
    """Find the training and test files of the eight tasks.

    Args:
        source: CoIN or CoIN-ASD as downloaded, one of CoIN's `Instructions_*` folders, or the official layout with
            `annotations/<Task>`.
        variant: A key of `VARIANTS`.

    Raises:
        ValueError: If the source or any file is missing; names all of them, where they come from and their licence.
    """
    if variant not in VARIANTS:
        raise ValueError(f"the variant must be one of {', '.join(VARIANTS)}; got {variant!r}.")
    if not source.is_dir():
        raise ValueError(f"{source} is no folder. It must hold CoIN's files: {VARIANTS[variant].origin}.")
    found, missing = {}, []
    for task in TASKS:
        tests = ("val.json", "test.json") if task.name in _TESTED_ON_VALIDATION else ("test.json", "test_1.json")
        files = [
            next((file for file in _candidates(source, variant, task.name, names) if file.is_file()), None)
            for names in (VARIANTS[variant].train_files, tests)
        ]
        for file, names in zip(files, (VARIANTS[variant].train_files, tests), strict=True):
            if file is None:
                missing.append(f"  - {task.name}: {' or '.join(names)}")
        found[task.name] = Annotations(*files)
    if missing:
        folders = ", ".join(str(source / folder) for folder in VARIANTS[variant].folders)
        lines = [f"files of CoIN ({variant}) are missing in the task folders below any of {folders}:", *missing]
        raise ValueError("\n".join([*lines, f"They come from: {VARIANTS[variant].origin}."]))
    return found


def _candidates(source: Path, variant: str, task: str, names: tuple[str, ...]) -> list[Path]:
    return [source / folder / task / name for folder in VARIANTS[variant].folders for name in names]
