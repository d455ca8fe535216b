"""CoIN's records: read one by one from a JSON array of any length, checked, and written in one uniform shape."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from sefe_plugin.answers.texts import split_options, split_question


IMAGE_TAG = "<image>"
_CHUNK = 1 << 20
_MAX_RECORD = 16 * _CHUNK
_DECODER = json.JSONDecoder()


class _Text:
    """A file's text, read on as it is asked for."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._buffer = ""
        self._start = 0

    def _read_on(self) -> bool:
        chunk = self._stream.read(_CHUNK)
        self._buffer, self._start = self._buffer[self._start :] + chunk, 0
        return bool(chunk)

    def peek(self) -> str:
        """Return the next character that is no blank, without taking it; nothing at the end."""
        while True:
            while self._start < len(self._buffer):
                if not self._buffer[self._start].isspace():
                    return self._buffer[self._start]
                self._start += 1
            if not self._read_on():
                return ""

    def take(self, character: str) -> None:
        """Take the next character, which must be the one named."""
        if self.peek() != character:
            raise ValueError(f"{character!r} expected, got {self.peek()!r}")
        self._start += 1

    def take_object(self) -> dict:
        """Take the next value, which must be an object."""
        if self.peek() != "{":
            raise ValueError(f"an object expected, got {self.peek()!r}")
        while True:
            try:
                value, self._start = _DECODER.raw_decode(self._buffer, self._start)
            except json.JSONDecodeError as error:
                # the object may go on beyond what is read so far
                if len(self._buffer) - self._start > _MAX_RECORD or not self._read_on():
                    raise ValueError(f"no valid JSON, {error.msg}") from error
            else:
                return value


def read_array(file: Path) -> Iterator[dict]:
    """Yields the objects of a JSON array, holding no more than a record and a megabyte of text at a time.

    Raises:
        ValueError: if the file is no array of objects; names the record by its number, from 1.
    """
    number = 0
    with file.open(encoding="utf-8-sig") as stream:
        text = _Text(stream)
        try:
            text.take("[")
            while text.peek() != "]":
                if number:
                    text.take(",")
                number += 1
                yield text.take_object()
            text.take("]")
            text.take("")
        except ValueError as error:
            raise ValueError(f"{file} must be a JSON array of objects; at record {number}: {error}.") from error


def to_train_row(task: str, record: Mapping) -> dict:
    """Checks a training record and returns it as `id`, `image` (a path, or None) and `conversations`.

    The image tag stands once, in front of the first question, where there is an image, and nowhere else: where the
    official loader puts it.

    Raises:
        ValueError: if a field is missing or has another type than published.
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
    """Checks a test record and returns all its fields, `image` and `text` in uniform shape, and what scores need.

    ScienceQA gets `num_choices`, counted from the lines "A. ...", "B. ..." of its text; TextVQA gets `answers` where
    they are known, and where it has no `answer` the most frequent of them.

    Args:
        task: the task's name.
        record: as published.
        answers: question id -> TextVQA's ten answers.

    Raises:
        ValueError: if a field is missing or has another type than published.
    """
    image = _image(task, record)
    added = {}
    if task == "TextVQA" and "answers" not in record and str(record.get("question_id")) in answers:
        added["answers"] = answers[str(record["question_id"])]
        added["answer"] = record.get("answer", Counter(added["answers"]).most_common(1)[0][0])
    if task == "ScienceQA" and "num_choices" not in record and isinstance(record.get("text"), str):
        options = split_options(split_question(record["text"])[1])[1]
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
