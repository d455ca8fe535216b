"""CoIN's records, checked and brought into one uniform shape."""

from collections import Counter
from collections.abc import Mapping

from sefe_plugin.answers.options import read_options
from sefe_plugin.answers.texts import split_question


IMAGE_TAG = "<image>"


def to_train_row(task: str, record: Mapping) -> dict:
    """Check a training record and return it as `id`, `image` (a path, or None) and `conversations`.

    The image tag stands once, in front of the first question, where there is an image, and nowhere else: where the
    official loader puts it.

    Raises:
        ValueError: If a field is missing or has another type than published.
    """
    turns = record.get("conversations")
    image = _image(task, record)
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise ValueError(f"needs pairs of question and answer as 'conversations', got {str(turns)[:200]}")
    cleaned = []
    for turn, role in zip(turns, ("human", "gpt") * (len(turns) // 2), strict=True):
        if not isinstance(turn, dict) or turn.get("from") != role or not isinstance(turn.get("value"), str):
            raise ValueError(f"needs a text from {role!r} in 'conversations', got {str(turn)[:200]}")
        value = turn["value"] if role == "gpt" else _tagged(turn["value"], image is not None and not cleaned)
        cleaned.append({"from": role, "value": value})
    number = record["id"] if "id" in record else record.get("question_id")
    return {"id": str(number), "image": image, "conversations": cleaned}


def to_test_row(task: str, record: Mapping, answers: Mapping[str, list[str]]) -> dict:
    """Check a test record and return all its fields, `image` and `text` in uniform shape, and what scores need.

    ScienceQA gets `num_choices`, counted from the lines "A. ...", "B. ..." of its text; TextVQA gets `answers` where
    they are known, and where it has no `answer` the most frequent of them.

    Args:
        task: The task's name.
        record: The record as published.
        answers: Question id -> TextVQA's ten answers.

    Raises:
        ValueError: If a field is missing or has another type than published.
    """
    image = _image(task, record)
    added = {}
    if task == "TextVQA" and "answers" not in record and str(record.get("question_id")) in answers:
        added["answers"] = answers[str(record["question_id"])]
        added["answer"] = record.get("answer", Counter(added["answers"]).most_common(1)[0][0])
    if task == "ScienceQA" and "num_choices" not in record and isinstance(record.get("text"), str):
        options = read_options(split_question(record["text"])[1]).texts
        added |= {"num_choices": len(options)} if options else {}
    row = {**record, **added, "image": image}
    for name in ("text", "answer_bbox" if task == "Grounding" else "answer"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"needs a text as {name!r}, got {str(row.get(name))[:200]}")
    size = row.get("size")
    if task == "Grounding" and not (isinstance(size, list) and [type(side) for side in size] == [int, int]):
        raise ValueError(f"needs width and height as 'size', got {str(size)[:200]}")
    return row | {"text": _tagged(row["text"], image is not None)}


def _image(task: str, record: Mapping) -> str | None:
    image = record.get("image")
    if not isinstance(image, str) and not (image is None and task == "ScienceQA"):
        raise ValueError(f"needs a path as 'image' (only ScienceQA has questions without one), got {image!r}")
    return image


def _tagged(text: str, has_image: bool) -> str:
    text = text.replace(IMAGE_TAG, "").strip()
    return f"{IMAGE_TAG}\n{text}" if has_image else text
