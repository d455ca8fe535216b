"""CoIN's tasks, and the datasets that stand for them."""

from collections.abc import Callable

from sefe_plugin.benchmarks.base import BenchmarkTask


TASKS = (
    BenchmarkTask("ScienceQA", "multiple_choice", "coin:ScienceQA"),
    BenchmarkTask("TextVQA", "text_vqa", "coin:TextVQA"),
    BenchmarkTask("ImageNet", "class_name", "coin:ImageNet"),
    BenchmarkTask("GQA", "short_answer", "coin:GQA"),
    BenchmarkTask("VizWiz", "short_answer", "coin:VizWiz"),
    BenchmarkTask("Grounding", "box", "coin:Grounding"),
    BenchmarkTask("VQAv2", "short_answer", "coin:VQAv2"),
    BenchmarkTask("OCRVQA", "short_answer", "coin:OCRVQA"),
)

#: Written last by `sefe coin prepare`: a folder without it is not complete.
MANIFEST_FILE = "manifest.json"
MANIFEST_VERSION = 1


def dataset_entries(file_name: Callable[[str, str], str]) -> dict[str, dict]:
    """Return LLaMA-Factory's description of the sixteen datasets.

    Args:
        file_name: Gives the file of a task and a split ("train" or "test").
    """
    entries = {}
    for task in TASKS:
        stem = f"coin_{task.name.lower()}"
        answer = "answer_bbox" if task.scorer == "box" else "answer"
        entries[f"{stem}_train"] = {
            "file_name": file_name(task.name, "train"),
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "images": "image"},
        }
        entries[f"{stem}_test"] = {
            "file_name": file_name(task.name, "test"),
            "columns": {"prompt": "text", "response": answer, "images": "image"},
        }
    return entries
