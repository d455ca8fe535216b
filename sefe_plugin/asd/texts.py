"""The parts of a text: image placeholders, response-format line, lettered options; and the kinds of an answer."""

import re

from sefe_plugin.asd.boxes import parse_box
from sefe_plugin.asd.styles import FORMAT_LINES


#: Native style of grounding tasks, which answer with a box; it stands in the place of their short answer.
BOX = "box"

_LINES = tuple(FORMAT_LINES.values())
_STYLE_OF_LINE = {line: style for style, line in FORMAT_LINES.items()}
_PLACEHOLDERS = ("<image>", "<video>", "<audio>")
_HEAD = re.compile(f"(?:(?:{'|'.join(_PLACEHOLDERS)})\\s*)+")
_OPTION = re.compile(r"\(?([A-Z])[.)]\s*(\S.*)")
_LETTER = re.compile(r"\(?([A-Z])\)?(?:[.:](?:\s.*)?)?", re.DOTALL)
_NUMBER = re.compile(r"[-+$£€#]?\d[\d.,:/-]*%?")


def split_question(text: str) -> tuple[str, str, str | None]:
    r"""Split a user text into image placeholders, the question, and the style its response-format line asks for.

    Example:
        >>> split_question("<image>\nWhat is it?\nAnswer the question using a single word or phrase.")
        ('<image>\n', 'What is it?', 'short_answer')
    """
    match = _HEAD.match(text)
    head, stem = (match.group(), text[match.end() :]) if match else ("", text)
    stem, style = stem.strip(), None
    while stem.endswith(_PLACEHOLDERS):
        start = stem.rindex("<")
        head, stem = f"{stem[start:]}\n{head}", stem[:start].rstrip()
    while stem.endswith(_LINES):
        line = next(line for line in _LINES if stem.endswith(line))
        style = _STYLE_OF_LINE[line]
        stem = stem[: -len(line)].rstrip()
    return head, stem, style


def split_options(stem: str) -> tuple[str, tuple[str, ...]]:
    """Take the last block of lines ``A. ...``, ``B. ...`` out of a question.

    Returns:
        The question without the block, and the options' texts; no texts where there are no two such lines.
    """
    lines = stem.splitlines()
    for start in reversed(range(len(lines))):
        options = []
        for line in lines[start:]:
            match = _OPTION.fullmatch(line.strip())
            if match is None or ord(match.group(1)) != ord("A") + len(options):
                break
            options.append(match.group(2))
        if len(options) >= 2:
            return "\n".join(lines[:start] + lines[start + len(options) :]), tuple(options)
    return stem, ()


def option_lines(options: list[str] | tuple[str, ...]) -> list[str]:
    """Write options as lines ``A. ...``, ``B. ...``."""
    return [f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options)]


def option_letter(answer: str) -> str | None:
    """Read the letter of an answer such as ``B``, ``B.``, ``(B)`` or ``B. text``; None for anything else."""
    match = _LETTER.fullmatch(answer.strip())
    return match.group(1) if match else None


def answer_key(answer: str) -> str:
    """Normalise an answer for comparison: no outer blanks, no final period, no case."""
    return answer.strip().rstrip(".").casefold()


def answer_kind(answer: str) -> str:
    """Name the kind of an answer: "yes_no", "number", "box" or "words"."""
    if answer_key(answer) in ("yes", "no"):
        return "yes_no"
    if _NUMBER.fullmatch(answer):
        return "number"
    return BOX if parse_box(answer) else "words"
