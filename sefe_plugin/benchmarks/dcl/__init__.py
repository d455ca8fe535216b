"""MLLM-DCL, five domains one after the other (MLLM-CL, arXiv 2506.05453).

`dataset_dir` (default `data/dcl`) is what `sefe prepare dcl` wrote.
"""

from sefe_plugin.benchmarks.base import PublishedSize
from sefe_plugin.benchmarks.published.benchmark import PublishedBenchmark
from sefe_plugin.benchmarks.published.tables import Published, PublishedTask, Variant
from sefe_plugin.benchmarks.published.unpack import is_unnamed


#: What the official scripts put at the end of test questions.
MED_ENDING = "Answer the question with a single word (or phrase)."
FIN_YES_NO_ENDING = "Only answer with yes or no directly."
FIN_LETTER_ENDING = "Answer with the given letter directly, e.g., A, B, C, D."


def with_med_ending(row: dict) -> dict:
    """Add the official ending to a test question of Med.

    Example:
        >>> with_med_ending({"text": "is the liver seen?"})["text"]
        'is the liver seen? Answer the question with a single word (or phrase).'
    """
    return {**row, "text": _ended(row["text"], MED_ENDING)}


def with_fin_ending(row: dict) -> dict:
    """Add the official ending to a test question of Fin, which depends on the gold answer: yes or no, or a letter.

    Example:
        >>> with_fin_ending({"text": "Did it rise?", "answer": "Yes"})["text"]
        'Did it rise? Only answer with yes or no directly.'
    """
    ending = FIN_YES_NO_ENDING if row["answer"] in ("Yes", "No") else FIN_LETTER_ENDING
    return {**row, "text": _ended(row["text"], ending)}


def with_own_image_name(row: dict) -> dict:
    """Check that a Sci image has the name that it was published with, since that selects the official rule.

    Example:
        >>> with_own_image_name({"image": "images/TQA_1.png"})
        {'image': 'images/TQA_1.png'}

    Raises:
        ValueError: If it has none, as a picture without a path in its parquet shard.
    """
    if is_unnamed(row["image"]):
        raise ValueError(
            f"needs an image with a name of its own, such as TQA_1.png, which selects the official rule; got "
            f"{row['image']!r}, a name that was made for a picture without one"
        )
    return row


def _ended(text: str, ending: str) -> str:
    text = text.rstrip()
    return text if text.endswith(ending) else f"{text} {ending}"


def _task(
    name: str, scorer: str, rule: str, sizes: tuple[int, int], folders: tuple[str, ...], images: str, **more
) -> PublishedTask:
    train, test = ("train.json",), ("test.json", "test.sjon")  # the misspelled name is Fin's in the published page
    where = f"{images}; in the Hugging Face dataset MLLM-CL/MLLM-CL ({name}.tar.gz) or MLLM-CL/DCL"
    return PublishedTask(
        name, scorer, f"dcl:{rule}", (name, *folders), train, test, where, PublishedSize(*sizes), **more
    )


#: Sizes are those of the paper's statistics, and were not checked against the files.
DCL_TABLE = Published(
    "dcl",
    "MLLM-DCL",
    (
        _task("RS", "contains", "ai2d", (60_000, 10_000), (), "RSVQA"),
        _task("Med", "contains", "pvqa", (22_800, 9_800), (), "PathVQA", complete=with_med_ending),
        _task("AD", "contains", "ai2d", (60_000, 10_000), (), "DriveLM, CC BY-NC-SA 4.0; six views in one image"),
        _task(
            "Sci", "mixed", "sci", (33_400, 8_200), (), "AI2D, SciVerse, MapQA and TQA", complete=with_own_image_name
        ),
        _task("Fin", "mixed", "finvis", (60_000, 10_000), (), "StockQA", complete=with_fin_ending),
    ),
    {
        "original": Variant(
            ("Domain_data", ""),
            "Hugging Face dataset MLLM-CL/DCL (151 parquet shards, 67.9 GB), or MLLM-CL/MLLM-CL (RS, Med, AD, Sci and "
            "Fin .tar.gz), apache-2.0; images follow their sources",
        )
    },
    image_folders=("Domain_data", ""),
    images_by_task=True,
    notes=(
        "test questions of Med and Fin get the endings of the official scripts; that of Fin depends on the gold "
        "answer, yes or no against a letter. Training questions are as published.",
        "images keep their names: what stands before the first _ in Sci's selects the official rule; a test record "
        "whose image has another name is at fault.",
    ),
)


class DCL(PublishedBenchmark):
    """MLLM-DCL's tasks."""

    published = DCL_TABLE
