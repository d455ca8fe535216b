"""A model's reply, read leniently and believed only where it fits what was asked.

A reply is data: it gives texts for the entries that were asked about and nothing else.
"""

import re
from collections.abc import Iterator, Mapping
from string import ascii_uppercase
from typing import Any


try:
    import json_repair
    from pydantic import BaseModel, Field, ValidationError
except ImportError as error:
    raise ImportError("reading a model's replies needs: pip install 'sefe-plugin[asd]'") from error

from sefe_plugin.answers.styles import EXPLANATIONS, SHORT_ANSWER, YES_NO
from sefe_plugin.answers.texts import answer_key, content_key, count_words
from sefe_plugin.asd.assembly import Texts, distractors_needed
from sefe_plugin.asd.items import Item
from sefe_plugin.asd.writer.questions import Entry


_LONGEST = {SHORT_ANSWER: 10} | dict.fromkeys(EXPLANATIONS, 200)
#: A reply about 12 entries has 25.
_MOST_BRACKETS = 250
_SHORTEST = dict.fromkeys(EXPLANATIONS, 3)
#: Media placeholders and special tokens of chat templates, which a tokenizer would not read as text.
_MARKUP = re.compile(r"<\|?/?[\w:-]+/?\|?>|\[/?INST\]")
#: Bullets and numbers before the texts of a list, and letters.
_MARK = re.compile(r"^(?:(?:[-*•\u2013]|\(?\d+[.)])\s+)+(?=\S)")
_LETTER = re.compile(r"^\(?([A-Za-z])[.)]\s+(?=\S)")
_THOUGHTS = re.compile(r".*</think>", re.DOTALL)


class _Echo(BaseModel):
    index: int
    question: str


class _Distractor(_Echo):
    distractor: str

    def texts(self) -> list[str]:
        return [self.distractor]


class _Distractors(_Echo):
    distractors: list[str] = Field(min_length=3)

    def texts(self) -> list[str]:
        return self.distractors


class _Text(_Echo):
    text: str

    def texts(self) -> list[str]:
        return [self.text]


def read_json_reply(reply: str, entries: Mapping[int, Entry]) -> tuple[dict[int, Texts], list[str]]:
    """Read a reply that should be a JSON list with one object for each entry.

    Code fences, talk around the list, comments, missing and trailing commas and a missing end are forgiven. An object
    counts where its index is asked for, its question is the entry's, and its texts are fit to be used; the first one
    of an index counts.

    Args:
        reply: The reply.
        entries: What was asked, by index.

    Returns:
        The texts found by index, and for each other entry one line that says what is wrong with it.
    """
    schema = _schema(next(iter(entries.values())))
    found: dict[int, Texts] = {}
    faults = dict.fromkeys(entries, "is missing, or its index is not a number of an entry")
    for candidate in _objects(reply):
        try:
            parsed = schema.model_validate(candidate)
        except ValidationError as error:
            index = candidate["index"]
            if index in faults:
                names = sorted({str(fault["loc"][0]) for fault in error.errors()})
                faults[index] = f"lacks {', '.join(names)}, or has the wrong form there"
            continue
        if parsed.index not in faults:
            continue
        entry = entries[parsed.index]
        if _letters(parsed.question) != _letters(entry.question):
            faults[parsed.index] = "does not repeat its question"
            continue
        texts, fault = _usable(parsed.texts(), entry)
        if fault:
            faults[parsed.index] = fault
        else:
            found[parsed.index] = texts
            del faults[parsed.index]
    return found, [f"- entry {index}: {fault}" for index, fault in faults.items()]


def read_plain_reply(reply: str, entries: Mapping[int, Entry]) -> tuple[dict[int, Texts], list[str]]:
    """Read a reply that is the text itself, or one wrong answer a line, for a single entry.

    Marks of a list and lines that introduce one, which end in a colon, are no part of the wrong answers. As nothing is
    repeated in a reply, an explanation must hold the right answer.

    Args:
        reply: The reply.
        entries: The one entry, by index.

    Returns:
        As `read_json_reply`.
    """
    ((index, entry),) = entries.items()
    reply = _THOUGHTS.sub("", reply).strip()
    texts, fault = _usable(_listed(reply) if distractors_needed(*_asked(entry)) else [reply], entry)
    if not fault and entry.style in EXPLANATIONS and answer_key(entry.item.gold) not in texts.answer.casefold():
        fault = "does not hold the right answer"
    return ({}, [f"- {fault}"]) if fault else ({index: texts}, [])


def _schema(entry: Entry) -> type[_Echo]:
    if distractors_needed(*_asked(entry)):
        return _Distractor if entry.style == YES_NO else _Distractors
    return _Text


def _asked(entry: Entry) -> tuple[Item, str, bool]:
    return entry.item, entry.style, entry.truth


def _objects(reply: str) -> Iterator[dict[str, Any]]:
    """Yield all objects with an index, however deep; what follows the last closed one is cut off as unfinished."""
    text = _THOUGHTS.sub("", reply)
    if text.count("{") + text.count("[") > _MOST_BRACKETS:
        return  # the parser takes minutes for what is nested deep
    start, end = text.find("{"), text.rfind("}")
    try:
        pending = [json_repair.loads(f"[{text[start : end + 1]}]")] if 0 <= start < end else []
    except (RecursionError, ValueError):  # nothing that was asked for is nested hundreds of levels deep
        return
    while pending:
        value = pending.pop(0)
        if isinstance(value, dict) and isinstance(value.get("index"), int | str):
            yield value
        elif isinstance(value, dict | list):
            pending.extend(value.values() if isinstance(value, dict) else value)


def _listed(reply: str) -> list[str]:
    """Return the lines of a list without their bullets, numbers or letters, and without introductions."""
    lines = [line.strip() for line in reply.splitlines()]
    lines = [_MARK.sub("", line) for line in lines if not line.endswith(":")]
    letters = "".join(match.group(1) for match in map(_LETTER.match, lines) if match)
    # A letter alone may be an initial: "A. Smith".
    if len(letters) > 1 and ascii_uppercase.startswith(letters.upper()):
        lines = [_LETTER.sub("", line) for line in lines]
    return lines


def _usable(texts: list[str], entry: Entry) -> tuple[Texts, str]:
    """Return the texts with plain blanks, and what is wrong with them, "" where nothing is."""
    texts = [" ".join(text.split()) for text in texts]
    if any(_MARKUP.search(text) or not text.isprintable() for text in texts):
        return Texts(), "has markup or control characters in a text"
    count = distractors_needed(*_asked(entry))
    if count:
        distinct: dict[str, str] = {}
        for text in filter(None, texts):
            distinct.setdefault(content_key(text), text)
        distinct.pop(content_key(entry.item.gold), None)
        wrong = list(distinct.values())[:count]
        longest = 5 * len(entry.item.gold) + 100
        if len(wrong) < count or any(len(text) > longest for text in wrong):
            return (
                Texts(),
                f"needs {count} short wrong answers that differ from the right one and from one another",
            )
        return Texts(tuple(wrong)), ""
    words = count_words(texts[0])
    if not _SHORTEST.get(entry.style, 1) <= words <= _LONGEST[entry.style]:
        return Texts(), f"must have {_SHORTEST.get(entry.style, 1)} to {_LONGEST[entry.style]} words, has {words}"
    return Texts(answer=texts[0]), ""


def _letters(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
