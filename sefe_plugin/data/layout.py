"""Where a record keeps question, answer and images: LLaMA-Factory's dataset entries, in ShareGPT and Alpaca form."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sefe_plugin.data.declarations import DoubledNameError, read_declarations
from sefe_plugin.data.sample import Sample, UnsuitableSampleError


Record = dict[str, Any]

#: Ends of the names of the files whose records can be read.
SUFFIXES = (".json", ".jsonl")
_ALPACA_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
_MESSAGES_COLUMNS = {"messages": "conversations"}
#: Names in messages where `dataset_info.json` has no `tags`.
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}


_OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


@dataclass(frozen=True)
class AlpacaLayout:
    """One column for each part of the turn.

    Attributes:
        columns: Name of the column of `prompt` and `response`, and possibly of `query`, `history` and `images`.
    """

    columns: Mapping[str, str]

    def read(self, record: Record) -> Sample:
        """Take question and answer out of a record.

        Raises:
            UnsuitableSampleError: Where the record is not one turn of one question and one answer.
        """
        prompt, query, response = (self._part(record, name) for name in ("prompt", "query", "response"))
        texts = (prompt, "" if query is None else query, response)
        if self._part(record, "history") or not all(isinstance(text, str) for text in texts):
            raise UnsuitableSampleError(f"the sample is not one question with one answer: {_excerpt(record)}")
        return Sample("\n".join(filter(None, (prompt, query))), response)

    def write(self, record: Record, sample: Sample) -> Record:
        """Return the record with another question and answer; every other column stays as it is."""
        emptied = {self.columns["query"]: ""} if self._part(record, "query") else {}
        turn = {self.columns["prompt"]: sample.question, self.columns["response"]: sample.answer}
        return {**record, **emptied, **turn}

    def images(self, record: Record) -> tuple[Any, ...]:
        """List a record's images as they stand there, possibly none."""
        return listed(self._part(record, "images"))

    def _part(self, record: Record, name: str) -> Any:
        return record.get(self.columns[name]) if name in self.columns else None


@dataclass(frozen=True)
class MessagesLayout:
    """A list of messages, each with a role and a text (ShareGPT, OpenAI).

    Attributes:
        messages: Name of the column with the messages.
        image_column: Name of the column with the images, None without one.
        tags: Keys of a message (`role_tag`, `content_tag`) and names of the roles (`user_tag`, `assistant_tag`, and
            `system_tag` where there is one).
    """

    messages: str
    image_column: str | None
    tags: Mapping[str, str]

    def read(self, record: Record) -> Sample:
        """Take question and answer out of a record.

        Raises:
            UnsuitableSampleError: Where the record is not one turn of one question and one answer.
            ValueError: Where a message has a list of parts in the place of a text.
        """
        first = self._first_turn(record)
        question, answer = (message.get(self.tags["content_tag"]) for message in record[self.messages][first:])
        if isinstance(question, list) or isinstance(answer, list):
            raise ValueError(
                f"a message's {self.tags['content_tag']!r} must be a text, not a list of parts: write <image> where a "
                f"picture belongs, and list the pictures in a column of their own; got {_excerpt(record)}"
            )
        if not isinstance(question, str) or not isinstance(answer, str):
            raise UnsuitableSampleError(f"the sample is not one question with one answer: {_excerpt(record)}")
        return Sample(question, answer)

    def write(self, record: Record, sample: Sample) -> Record:
        """Return the record with another question and answer; everything else stays as it is."""
        first, content = self._first_turn(record), self.tags["content_tag"]
        kept, (user, assistant) = record[self.messages][:first], record[self.messages][first:]
        turn = [{**user, content: sample.question}, {**assistant, content: sample.answer}]
        return {**record, self.messages: [*kept, *turn]}

    def images(self, record: Record) -> tuple[Any, ...]:
        """List a record's images as they stand there, possibly none."""
        return listed(record.get(self.image_column))

    def _first_turn(self, record: Record) -> int:
        messages = record.get(self.messages)
        messages = messages if isinstance(messages, list) and all(isinstance(m, dict) for m in messages) else []
        roles = [message.get(self.tags["role_tag"]) for message in messages]
        first = 1 if "system_tag" in self.tags and roles[:1] == [self.tags["system_tag"]] else 0
        if roles[first:] != [self.tags["user_tag"], self.tags["assistant_tag"]]:
            raise UnsuitableSampleError(f"the sample is not one question with one answer: {_excerpt(record)}")
        return first


Layout = AlpacaLayout | MessagesLayout


def layout_of(name: str, entry: Mapping[str, Any]) -> Layout:
    """Read the layout from an entry of LLaMA-Factory's `dataset_info.json`.

    Args:
        name: Name of the dataset, for messages.
        entry: The entry. As in LLaMA-Factory, where it has `columns` those it does not name do not exist, and where
            it has `tags` so it is with these.

    Raises:
        ValueError: For preference data and unknown formattings, where a needed column or tag is not named, and where
            something else than a name stands there.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"dataset {name}: its entry must be a mapping with `file_name`, got {entry!r:.200}")
    formatting = entry.get("formatting", "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai") or entry.get("ranking"):
        raise ValueError(
            f"dataset {name}: ASD rewrites supervised samples, `formatting` alpaca, sharegpt or openai without "
            f"`ranking`; got {formatting!r} and ranking {entry.get('ranking', False)}"
        )
    default = _ALPACA_COLUMNS if formatting == "alpaca" else _MESSAGES_COLUMNS
    columns, tags = entry.get("columns", default), entry.get("tags", TAGS)
    for key, names in (("columns", columns), ("tags", tags)):
        if not isinstance(names, Mapping) or not all(isinstance(value, str | None) for value in names.values()):
            raise ValueError(f"dataset {name}: `{key}` must be a mapping from names to names, got {names!r:.200}")
    columns, tags = ({key: value for key, value in names.items() if value} for names in (columns, tags))
    if missing := [part for part in default if part not in columns and part != "query"]:
        raise ValueError(f"dataset {name}: `columns` must name {' and '.join(missing)}, got {columns}")
    if formatting == "alpaca":
        return AlpacaLayout(columns)
    if missing := [tag for tag in TAGS if tag not in tags and tag != "system_tag"]:
        raise ValueError(f"dataset {name}: `tags` must name {' and '.join(missing)}, got {tags}")
    return MessagesLayout(columns["messages"], columns.get("images"), tags)


def entry_of(layout: Layout) -> dict[str, Any]:
    """Return an entry of `dataset_info.json` for a layout, without the name of the file: what `layout_of` reads.

    Example:
        >>> entry_of(AlpacaLayout({"prompt": "text", "response": "answer"}))
        {'columns': {'prompt': 'text', 'response': 'answer'}}
    """
    if isinstance(layout, AlpacaLayout):
        return {"columns": dict(layout.columns)}
    images = {"images": layout.image_column} if layout.image_column else {}
    tags = {} if layout.tags == TAGS else {"tags": dict(layout.tags)}
    return {"formatting": "sharegpt", "columns": {"messages": layout.messages, **images}, **tags}


def layout_like(record: Record) -> Layout:
    """Recognise the layout of a file without an entry by one of its records; images lie in `images` or `image`.

    Raises:
        ValueError: Where the record has none of the usual columns.
    """
    images = next(({"images": column} for column in ("images", "image") if column in record), {})
    for column in ("conversations", "messages"):
        messages = record.get(column)
        if isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages):
            tags = _OPENAI_TAGS if any("role" in message for message in messages) else TAGS
            return MessagesLayout(column, images.get("images"), tags)
    if {"instruction", "output"} <= record.keys():
        return AlpacaLayout({**_ALPACA_COLUMNS, **images})
    raise ValueError(
        "the file's records have neither a list of mappings as `conversations` or `messages` nor `instruction` and "
        f"`output`, but {sorted(record)}; describe the columns in dataset_info.json and name the dataset instead of "
        "the file"
    )


def find_dataset(name: str, folder: Path) -> tuple[Path, Layout | None]:
    """Find a dataset's file and layout.

    Args:
        name: A dataset of `dataset_info.json`, or the path of a file.
        folder: Folder of `dataset_info.json`, LLaMA-Factory's `dataset_dir`.

    Returns:
        The file, and the layout; None where the records have to show it.

    Raises:
        ValueError: Where there is no such dataset, or it is not one local JSON or JSON lines file.
    """
    if Path(name).suffix in SUFFIXES:
        return Path(name), None
    info = folder / "dataset_info.json"
    if not info.is_file():
        raise ValueError(f"{info} does not exist; name its folder with --dataset-dir, or a .json or .jsonl file")
    entries = read_info(info)
    if name not in entries:
        raise ValueError(f"{info} has no dataset {name!r}; it has {', '.join(entries) or 'none'}")
    layout = layout_of(name, entries[name])
    file_name = entries[name].get("file_name", "")
    file = folder / file_name if isinstance(file_name, str) else None
    if file is None or file.suffix not in SUFFIXES or not os.path.isfile(file):  # noqa: PTH113 - never fails
        raise ValueError(
            f"dataset {name}: `file_name` in {info} must be one .json or .jsonl file that exists, got {file_name!r}"
        )
    return file, layout


def read_info(info: Path) -> dict[str, Any]:
    """Read a `dataset_info.json`.

    Raises:
        ValueError: If it is no mapping in JSON and UTF-8, or names something in it twice.
    """
    try:
        entries = read_declarations(info)
    except UnicodeDecodeError as error:
        raise ValueError(f"{info} must be in UTF-8; byte {error.start} is not. Save it in UTF-8.") from error
    except DoubledNameError as error:
        raise ValueError(f"{info} {error}.") from error
    except ValueError as error:
        raise ValueError(f"{info} must be valid JSON: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{info} must be a mapping from names to datasets, got {str(entries)[:200]!r}")
    return entries


def listed(images: Any) -> tuple[Any, ...]:
    """Return what a column of images holds as a tuple: one image, a list of them, or nothing."""
    return tuple(images) if isinstance(images, list) else (images,) if images else ()


def _excerpt(record: Record) -> str:
    text = repr(record)
    return text if len(text) <= 200 else text[:200] + "..."
