"""The parts of a text: image placeholders, response-format line, lettered options; and the kinds of an answer."""

import re
from collections import Counter
from functools import lru_cache

from sefe_plugin.answers.boxes import parse_box
from sefe_plugin.answers.styles import FORMAT_LINES
from sefe_plugin.answers.text_vqa import normalize_answer


#: Native style of grounding tasks, which answer with a box; it stands in the place of their short answer.
BOX = "box"

_LINES = tuple((style, line, line.removesuffix(".").casefold()) for style, line in FORMAT_LINES.items())
_KEYS = tuple(key for _, _, key in _LINES)
_LONGEST = max(map(len, _KEYS))
_PLACEHOLDERS = ("<image>", "<video>", "<audio>")
_PLACEHOLDER = re.compile("|".join(_PLACEHOLDERS))
_HEAD = re.compile(f"(?:(?:{_PLACEHOLDER.pattern})\\s*)+")
_OPTION = re.compile(r"\(?([A-Z])[.)]\s*(\S.*)")
_LETTER = re.compile(r"\(?([A-Z])(?:\)[.:]?(?:\s.*)?|[.:](?:\s.*)?)?", re.DOTALL)
_NUMBER = re.compile(r"[-+$£€#]?\d[\d.,:/-]*%?")
_SPELLINGS = {"grey": "gray"}


def split_question(text: str) -> tuple[str, str, str | None]:
    r"""Split a user text into image placeholders, the question, and the style its response-format line asks for.

    Placeholders before the question come to the head. So do those after it and after its line, unless there are some
    within the question: these stay there, and placeholders stand for the images in their order.

    Example:
        >>> split_question("<image>\nWhat is it?\nAnswer the question using a single word or phrase.")
        ('<image>\n', 'What is it?', 'short_answer')
    """
    match = _HEAD.match(text)
    head, stem = (match.group(), text[match.end() :]) if match else ("", text)
    stem, tail, style = stem.strip(), "", None
    while True:
        if stem.endswith(_PLACEHOLDERS):
            rest = stem[: stem.rindex("<")].rstrip()
            stem, tail = rest, stem[len(rest) :] + tail
        elif found := _line_at_end(stem):
            style, start = found
            stem = stem[:start].rstrip()
        elif tail:
            return (head, stem + tail, style) if has_placeholder(stem) else (placeholders(tail) + head, stem, style)
        else:
            return head, stem, style


def has_placeholder(text: str) -> bool:
    """Tell whether a text has a media placeholder, which the host would take for one more image."""
    return _PLACEHOLDER.search(text) is not None


def placeholders(text: str) -> str:
    """Return a text's media placeholders, in order, each on a line of its own."""
    return "".join(f"{placeholder}\n" for placeholder in _PLACEHOLDER.findall(text))


def in_words(text: str, before: str = "") -> str:
    r"""Write a text without media placeholders, so that it can be quoted: each becomes its kind and number.

    Lines of placeholders alone are left out.

    Args:
        text: A question, or a part of one.
        before: What stands before it; its placeholders have the first numbers.

    Example:
        >>> in_words("Is <image> newer than <image>?")
        'Is image 1 newer than image 2?'
        >>> in_words("Context: none\n<image>\nIs <image> newer?", before="<image>\n")
        'Context: none\nIs image 3 newer?'
    """
    if not has_placeholder(text):
        return text
    numbers = Counter(_PLACEHOLDER.findall(before))

    def name(match: re.Match) -> str:
        numbers[match.group()] += 1
        return f"{match.group()[1:-1]} {numbers[match.group()]}"

    lines = [(_HEAD.fullmatch(line.lstrip()), _PLACEHOLDER.sub(name, line)) for line in text.split("\n")]
    return "\n".join(words for alone, words in lines if not alone)


def split_options(stem: str) -> tuple[str, tuple[str, ...]]:
    """Take the last block of lines ``A. ...``, ``B. ...`` out of a question.

    Returns:
        The question without the block, and the options' texts; no texts where there are no two such lines, or where
        other lines stand between options, as nobody knows what they belong to.
    """
    # Only line feeds end a line: an option may hold other line separators.
    lines = stem.replace("\r\n", "\n").split("\n")
    found = [_OPTION.fullmatch(line.strip()) for line in lines]
    letters = [match.group(1) if match else "" for match in found]
    for start in reversed(range(len(lines))):
        end = start
        while end < len(lines) and letters[end] == chr(ord("A") + end - start):
            end += 1
        if end > start and chr(ord("A") + end - start) in letters[end:]:
            break
        if end - start >= 2:
            return "\n".join(lines[:start] + lines[end:]), tuple(match.group(2) for match in found[start:end])
    return stem, ()


def option_lines(options: list[str] | tuple[str, ...]) -> list[str]:
    """Write options as lines ``A. ...``, ``B. ...``."""
    return [f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options)]


def option_letter(answer: str) -> str | None:
    """Read the letter of an answer such as ``B``, ``B.``, ``(B)``, ``B. text`` or ``(B) text``; None otherwise."""
    match = _LETTER.fullmatch(answer.strip())
    return match.group(1) if match else None


def answer_key(answer: str) -> str:
    """Normalise an answer for comparison: no outer blanks, not one final period, no case.

    Example:
        >>> answer_key(" Red ."), answer_key("wait...")
        ('red', 'wait..')
    """
    return answer.strip().removesuffix(".").rstrip().casefold()


@lru_cache(maxsize=1 << 16)
def content_key(answer: str) -> str:
    """Normalise an answer so that two spellings of the same content are equal: "2" and "two", "a dog" and "dog".

    Example:
        >>> content_key("Two dogs.") == content_key("the 2 dogs"), content_key("A")
        (True, 'a')
    """
    # Nothing is left of an article alone or of a lone sign.
    return normalize_answer(answer) or answer_key(answer)


@lru_cache(maxsize=1 << 16)
def content_words(answer: str) -> frozenset[str]:
    """Return the words of an answer's content, in which "and" and "&" do not count and "grey" is "gray".

    Example:
        >>> content_words("Black and white.") == content_words("white & black")
        True
        >>> content_words("grey") < content_words("a light gray")
        True
    """
    key = content_key(answer.replace("&", " and "))
    words = {_SPELLINGS.get(word, word) for word in key.split()} - {"and"}
    return frozenset(words or (key,))


def answer_kind(answer: str) -> str:
    """Name the kind of an answer: "yes_no", "number", "box" or "words"."""
    if answer_key(answer) in ("yes", "no"):
        return "yes_no"
    if _NUMBER.fullmatch(answer):
        return "number"
    return BOX if parse_box(answer) else "words"


def _line_at_end(stem: str) -> tuple[str, int] | None:
    """Return the style and the start of a response-format line at the end of a text.

    Case and the final period do not matter where the line starts a line or a sentence: "and answer the question with
    yes or no" is a part of the question.
    """
    bare = stem.removesuffix(".")
    if not bare[-_LONGEST:].casefold().endswith(_KEYS):
        return None
    for style, line, key in _LINES:
        start = len(bare) - len(key)
        if start < 0 or bare[start:].casefold() != key:
            continue
        before = bare[:start].rstrip(" \t")
        if stem.endswith(line) or not before or before[-1] in "\n.?!:":
            return style, start
    return None
