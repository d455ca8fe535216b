"""Published records, checked and brought into one uniform shape."""

from collections.abc import Mapping

from sefe_plugin.benchmarks.published.tables import PublishedTask


IMAGE_TAG = "<image>"

#: Roles of a conversation, as they are called in published files.
_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


def to_train_row(task: PublishedTask, record: Mapping) -> dict:
    """Check a training record and return it as `id`, `image` (a path, or None) and `conversations`.

    The image tag stands once, in front of the first question, where there is an image, and nowhere else: where the
    official loaders put it. Messages with `role` and `content`, as parquet files have them, are taken as well.

    Raises:
        ValueError: If a field is missing or has another type than published.
    """
    turns = _turns(record)
    image = _image(task, record)
    if not turns or len(turns) % 2:
        given = record.get("conversations", record.get("messages"))
        raise ValueError(f"needs pairs of question and answer as 'conversations', got {str(given)[:200]}")
    cleaned = []
    for (role, value), wanted in zip(turns, ("human", "gpt") * (len(turns) // 2), strict=True):
        if role != wanted or not isinstance(value, str):
            raise ValueError(f"needs a text from {wanted!r} in 'conversations', got {value!r:.200} from {role!r}")
        text = value if role == "gpt" else tagged(value, image is not None and not cleaned)
        cleaned.append({"from": role, "value": text})
    number = record["id"] if "id" in record else record.get("question_id")
    return {"id": str(number), "image": image, "conversations": cleaned}


def to_test_row(task: PublishedTask, record: Mapping, added: Mapping, gold: str) -> dict:
    """Check a test record and return all its fields, `image` and `text` in uniform shape, and what scores need.

    A record without `text` may be a conversation that ends with the answer, which counts
    where the record has no `answer`. Several gold answers in a list become
    `answers`, and the first of them `answer`.

    Args:
        task: The task.
        record: The record as published.
        added: Fields that a file of gold answers adds; the record's own go before them.
        gold: The field that holds the gold answer.

    Raises:
        ValueError: If a field is missing or has another type than published.
    """
    missing = {key: value for key, value in added.items() if key not in record}
    row = {**record, **missing, "image": _image(task, record)}
    if "text" not in row and (turns := _turns(record)):
        row = {key: value for key, value in row.items() if key not in ("conversations", "messages")}
        if [role for role, _ in turns[-2:]] != ["human", "gpt"]:
            raise ValueError(
                "needs a question from 'human' and its answer from 'gpt' at the end of 'conversations', got roles "
                f"{[role for role, _ in turns]}"
            )
        row["text"] = turns[-2][1]
        if row.get("answer") is None:
            row["answer"] = turns[-1][1]
    if isinstance(row.get("answer"), list) and row["answer"]:
        row |= {"answers": row["answer"], "answer": row["answer"][0]}
    for name in ("text", gold):
        if not isinstance(row.get(name), str):
            raise ValueError(f"needs a text as {name!r}, got {str(row.get(name))[:200]}")
    row = task.complete(row)
    return row | {"text": tagged(row["text"], row["image"] is not None)}


def tagged(text: str, has_image: bool) -> str:
    """Return a question with the image tag in front where it has an image, and nowhere else."""
    text = text.replace(IMAGE_TAG, "").strip()
    return f"{IMAGE_TAG}\n{text}" if has_image else text


def _turns(record: Mapping) -> list[tuple[str | None, object]]:
    """Return role and text of each turn of a conversation, in either of its published shapes."""
    turns = record.get("conversations", record.get("messages"))
    if not isinstance(turns, list):
        return []
    found = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise ValueError(f"needs a role and a text in each part of 'conversations', got {str(turn)[:200]}")
        role = turn.get("from", turn.get("role"))
        found.append((_ROLES.get(role, role), turn.get("value", turn.get("content"))))
    return found


def _image(task: PublishedTask, record: Mapping) -> str | None:
    image = record.get("image")
    if not isinstance(image, str) and not (image is None and task.some_without_image):
        raise ValueError(f"needs a path as 'image', got {image!r}")
    return image
