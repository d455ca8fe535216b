"""CoIN, the eight-task benchmark of SEFE, in the order and layout of the official repositories.

Expected below `dataset_dir` (default `data/coin`): `annotations/<Task>/train.json` and `annotations/<Task>/test.json`,
and the images where the annotations' relative paths lead, as in `playground/data/CoIN` of the SEFE repository.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sefe_plugin.benchmarks import BenchmarkTask
from sefe_plugin.files import write_json


TASKS = (
    BenchmarkTask("ScienceQA", "multiple_choice"),
    BenchmarkTask("TextVQA", "short_answer"),
    BenchmarkTask("ImageNet", "class_name"),
    BenchmarkTask("GQA", "short_answer"),
    BenchmarkTask("VizWiz", "short_answer"),
    BenchmarkTask("Grounding", "box"),
    BenchmarkTask("VQAv2", "short_answer"),
    BenchmarkTask("OCRVQA", "short_answer"),
)

_ANNOTATIONS = "Hugging Face datasets Zacks-Chen/CoIN (original) or jinpeng0528/CoIN-ASD (rewritten, MIT licence)"

#: Task -> where its images come from.
_IMAGES = {
    "ScienceQA": "ScienceQA (images of the train, val and test splits, scienceqa.github.io)",
    "TextVQA": "TextVQA v0.5.1 train_images (textvqa.org)",
    "ImageNet": "ImageNet ILSVRC2012, 101 synsets (image-net.org, registration needed)",
    "GQA": "GQA images (cs.stanford.edu/people/dorarad/gqa)",
    "VizWiz": "VizWiz-VQA train and val images (vizwiz.org)",
    "Grounding": "COCO train2014 (cocodataset.org)",
    "VQAv2": "COCO train2014 and val2014 (cocodataset.org)",
    "OCRVQA": "OCR-VQA images (ocr-vqa.github.io)",
}


def defaults() -> dict[str, Any]:
    """The keys CoIN brings: its dataset folder."""
    return {"dataset_dir": "data/coin"}


def faults(arguments: Mapping[str, Any]) -> list[str]:
    """Lists which annotation files are missing, what they are and where they come from."""
    root = Path(arguments["dataset_dir"])
    missing = []
    for task in TASKS:
        files = [root / "annotations" / task.name / f"{split}.json" for split in ("train", "test")]
        absent = [str(file) for file in files if not file.is_file()]
        if absent:
            missing.append(
                f"data of {task.name} is missing: {' and '.join(absent)}. Annotations: {_ANNOTATIONS}; "
                f"images: {_IMAGES[task.name]}, below {root} where the annotations' paths lead."
            )
    return missing


def prepare(folder: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the `dataset_info.json` of a run, which points to the annotation files where they lie.

    Args:
        folder: dataset folder of the run.
        arguments: the recipe's keys; `dataset_dir` is CoIN's folder.

    Returns:
        The keys `dataset_dir` and `media_dir` for the run.
    """
    root = Path(arguments["dataset_dir"]).absolute()
    info = {}
    for task in TASKS:
        stem = f"coin_{task.name.lower()}"
        annotations = root / "annotations" / task.name
        answer = "answer_bbox" if task.scorer == "box" else "answer"
        info[f"{stem}_train"] = {
            "file_name": str(annotations / "train.json"),
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "images": "image"},
        }
        info[f"{stem}_test"] = {
            "file_name": str(annotations / "test.json"),
            "columns": {"prompt": "text", "response": answer, "images": "image"},
        }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "dataset_info.json", info)
    return {"dataset_dir": str(folder), "media_dir": arguments.get("media_dir") or str(root)}
