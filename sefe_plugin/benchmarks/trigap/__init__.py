"""TriGap, ten tasks (SAME, arXiv 2602.01990; the files as Prism, arXiv 2605.26110, names them).

`dataset_dir` (default `data/trigap`) is what `sefe prepare trigap` wrote. The sizes are those in the names of the
files; where a name tells none, `sefe plan` takes as many as of the others.
"""

from sefe_plugin.benchmarks.base import PublishedSize
from sefe_plugin.benchmarks.published.benchmark import PublishedBenchmark
from sefe_plugin.benchmarks.published.tables import Published, PublishedTask, Variant
from sefe_plugin.evaluation.scorers import Spec


_SIZE = PublishedSize(40_000, 3_000)


def _task(
    name: str, scorer: Spec, train: str, test: str, images: str, folders: tuple[str, ...] = (), rule: str = "viz_wiz"
) -> PublishedTask:
    files = (f"{train}.json", "train.json"), (f"{test}.json", "test.json")
    return PublishedTask(name, scorer, f"trigap:{rule}", (name, *folders), *files, images, _SIZE)


#: Without a threshold, as the official rule has it.
_ANLS = {"name": "anls", "threshold": 0}
_STANDARD, _STANDARD_TEST = "train_standard_4w", "test_standard_3k"
_UNKNOWN = "for source and terms see the Hugging Face dataset JuntaoTang/TriGap"

TRIGAP_TABLE = Published(
    "trigap",
    "TriGap",
    (
        _task("PMCVQA", "multiple_choice", _STANDARD, _STANDARD_TEST, f"PMC-VQA; {_UNKNOWN}", ("PMC-VQA",)),
        _task(
            "DocVQA",
            _ANLS,
            "train_converted_sub",
            "val_converted",
            "DocVQA (docvqa.org), after registration",
            rule="anls",
        ),
        _task("ChartQA", "mixed", f"{_STANDARD}_sub", _STANDARD_TEST, f"ChartQA; {_UNKNOWN}"),
        _task("IconQA", "mixed", "train_sub", "test_3000", "IconQA (iconqa.github.io), CC BY-NC-SA 4.0"),
        _task(
            "InfographicVQA",
            _ANLS,
            "infographicsVQA_train_converted_sub",
            "infographicsVQA_val_converted",
            "InfographicVQA (docvqa.org), after registration",
            ("InfographicsVQA", "infovqa"),
            "anls",
        ),
        _task(
            "ArxivQA",
            "multiple_choice",
            "train_4w_sub",
            "test_3000",
            "Hugging Face dataset MMInstruction/ArxivQA, CC BY-SA 4.0",
        ),
        _task("Roadside", "short_answer", _STANDARD, _STANDARD_TEST, _UNKNOWN),
        _task("ChemVQA", "short_answer", _STANDARD, _STANDARD_TEST, _UNKNOWN),
        _task(
            "FloodNetVQA", "short_answer", f"{_STANDARD}_sub", _STANDARD_TEST, f"FloodNet; {_UNKNOWN}", ("FloodNet",)
        ),
        _task(
            "CLEVR",
            "number",
            "train_4w_sub",
            "test_3000",
            "Hugging Face dataset dali-does/clevr-math, CC BY 4.0",
            ("CLEVR-Math",),
        ),
    ),
    {
        "original": Variant(
            ("instructions", ""),
            "Hugging Face dataset JuntaoTang/TriGap, instructions only; the images come from ten sources",
        )
    },
    image_folders=("datasets", ""),
)


class TriGap(PublishedBenchmark):
    """TriGap's tasks."""

    published = TRIGAP_TABLE
