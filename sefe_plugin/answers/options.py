"""Options of a question, however they are marked, and the option that an answer chooses."""

# ruff: noqa: RUF001 - full-width signs are what is read here

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple
from unicodedata import normalize

from sefe_plugin.answers.texts import answer_key, content_key


class Options(NamedTuple):
    """A question and the options that were written in it.

    Attributes:
        stem: The question without them.
        marks: Their marks, in order: "A", "B" and so on, or "1", "2", or "0", "1"; none where no options can be read.
        texts: Their texts, in the same order.
    """

    stem: str
    marks: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


class Mark(NamedTuple):
    """What an answer that names an option consists of.

    Attributes:
        sign: The option's mark, "A" or "1".
        text: What follows it, possibly nothing.
    """

    sign: str
    text: str


_LINE = re.compile(r"\(?([A-Z])[.)]\s*(\S.*)")
_OPEN, _CLOSE = r"[(（\[【]", r"[)）\]】.．:：、]"
_START = r"(?<![A-Za-z0-9])"
_LETTERS, _NUMBERS = "A-ZＡ-Ｚ", "0-9０-９"
_FIRST = re.compile(rf"{_START}[AaＡａ]{_CLOSE}")
#: Opening bracket, mark and closing sign, for each alphabet of marks; 1.5 and 12:30 are no marks.
_MARKS = {
    alphabet: re.compile(rf"({_OPEN}|{_START})({sign})({_CLOSE}){end}")
    for alphabet, sign, end in (
        ("upper", f"[{_LETTERS}]", ""),
        ("lower", "[a-zａ-ｚ]", ""),
        ("number", f"[{_NUMBERS}]{{1,2}}", r"(?!\d)"),
    )
}
_ANSWER = re.compile(rf"{_OPEN}?\s*([A-Za-zＡ-Ｚａ-ｚ]|[{_NUMBERS}]{{1,2}})(?:\s*(?:{_CLOSE}|。)+\s*(.*))?", re.DOTALL)
_LABEL = re.compile(
    r"(?:^|\n|(?<=[.?!。？！]))[ \t]*(?:the )?(?:answer )?"
    r"(?:options?|choices|answers|选项|選項|选择|選擇|選択肢|보기|ตัวเลือก|opciones|optionen|opzioni)[ \t]*[:：]?\s*$",
    re.IGNORECASE,
)
_LONGEST_LABEL = 40
#: Behind these a list of options may start; so it may on a line of its own.
_ENDS = tuple(".?!:。？！：)）\"”'’_")
_MORE = re.compile(r"[.?!]\s+\S+\s+\S|[。？！]\s*\S|[?？]$")
_JOINS = frozenset(("or", "and", "or the", "vs", "vs.", "或", "或者", "和", "与", "还是", "または", "と", "หรือ"))
_BETWEEN = " \u3000\t\r\n,;，；、|/"
_MENTIONS = tuple(
    tuple(re.compile(rf"{_START}{sign}\s?[-–—=>|.．:：)）\]】、]") for sign in pair) for pair in ("AB", "ab")
)


def read_options(stem: str, numbers: bool = False) -> Options:
    r"""Take the options out of a question; none are found where it is not sure what each of them is.

    They are the last block of lines ``A. ...``, ``B. ...``. Where there is none, they are marked in another way, on
    lines or in one line, each mark once and in order: ``(A) ... (B) ...``, ``A、``, ``A．``, ``A:``, ``a)``. A list of
    two starts behind a sentence, a colon or a line.

    Args:
        stem: A question without its response-format line.
        numbers: Whether ``1. ...``, ``2. ...``, or from 0 on, are options too; such a list may as well be what is
            asked about.

    Example:
        >>> read_options("Which?\nA. cat\nB. dog")
        Options(stem='Which?', marks=('A', 'B'), texts=('cat', 'dog'))
        >>> read_options("Which? Options: (a) cat, (b) dog")
        Options(stem='Which?', marks=('A', 'B'), texts=('cat', 'dog'))
        >>> read_options("Which is larger, (A) or (B) in the picture?").texts
        ()
    """
    found = None
    if _FIRST.search(stem):
        found = _on_lines(stem) or _marked("upper", stem) or _marked("lower", stem)
    if found is None and numbers:
        found = _marked("number", stem)
    return found or Options(stem)


def mentions_options(stem: str) -> bool:
    """Tell whether a question seems to have lettered options, even where `read_options` cannot read them."""
    return bool(read_options(stem).texts) or any(all(sign.search(stem) for sign in pair) for pair in _MENTIONS)


def option_lines(options: Iterable[str]) -> list[str]:
    """Write options as lines ``A. ...``, ``B. ...``."""
    return [f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options)]


def option_mark(answer: str) -> Mark | None:
    """Read an answer that may name an option by its mark, such as ``B``, ``b)``, ``（Ｂ）`` or ``B. text``.

    Example:
        >>> option_mark("(b) two"), option_mark("two")
        (Mark(sign='B', text='two'), None)
    """
    if answer[:2].isalpha() and len(answer) > 1:
        return None  # a word
    match = _ANSWER.fullmatch(answer.strip())
    return Mark(_sign(match.group(1)), match.group(2) or "") if match else None


def may_be_mark(stem: str, answer: str) -> bool:
    r"""Tell whether nobody knows what an answer is: the mark of an option, or the answer itself.

    So is a letter alone, and the number of a line where the question has a list.

    Args:
        stem: The question without its response-format line; `read_options` finds no letters in it.
        answer: Its answer.

    Example:
        >>> may_be_mark("Which?", "(b)"), may_be_mark("Which?", "x"), may_be_mark("Which?", "2")
        (True, False, False)
        >>> may_be_mark("Which are fruits, or how many?\n1. apple\n2. car\n3. pear", "2")
        True
    """
    mark = option_mark(answer)
    if mark is None or mark.text:
        return False
    return mark.sign in "ABCDEFGHIJ" or chosen_option(read_options(stem, numbers=True), answer) is not None


def chosen_option(options: Options, answer: str) -> int | None:
    """Return the place of the option that an answer names by its mark; None where it names none.

    A text behind the mark must be that of the option.

    Example:
        >>> options = read_options("Which? (A) cat (B) dog")
        >>> chosen_option(options, "B"), chosen_option(options, "B. dog"), chosen_option(options, "B. cat")
        (1, 1, None)
    """
    mark = option_mark(answer)
    if mark is None or mark.sign not in options.marks:
        return None
    place = options.marks.index(mark.sign)
    if not mark.text:
        return place
    text, option = _plain(mark.text), _plain(options.texts[place])
    agrees = text.startswith(option) and not text[len(option) : len(option) + 1].isalnum()
    return place if agrees else None


def named_option(options: Options, answer: str) -> int | None:
    """Return the place of the one option that has an answer as its text; None where there are none or several."""
    key = content_key(answer)
    places = [place for place, text in enumerate(options.texts) if content_key(text) == key]
    return places[0] if len(places) == 1 else None


def _on_lines(stem: str) -> Options | None:
    """Find the last block of lines; lines between options belong to nobody knows what."""
    # Only line feeds end a line: an option may hold other line separators.
    lines = stem.replace("\r\n", "\n").split("\n")
    found = [_LINE.fullmatch(line.strip()) for line in lines]
    letters = [match.group(1) if match else "" for match in found]
    latest = {letter: place for place, letter in enumerate(letters)}
    for start in reversed(range(len(lines))):
        end = start
        while end < len(lines) and letters[end] == chr(ord("A") + end - start):
            end += 1
        following = chr(ord("A") + end - start)
        if end > start and latest.get(following, -1) >= end:
            return None
        if end - start >= 2:
            texts = tuple(match.group(2) for match in found[start:end])
            if following in texts[-1] and re.search(rf"\s\(?{re.escape(following)}[.)]\s+\S", texts[-1]):
                return None  # the last line holds more than one option
            return Options(_joined(lines[:start], lines[end:]), tuple(letters[start:end]), texts)
    return None


def _marked(alphabet: str, stem: str) -> Options | None:
    """Find the one list whose marks all have the same brackets."""
    groups: dict[str, list[re.Match]] = {}
    for match in _MARKS[alphabet].finditer(stem):
        groups.setdefault(normalize("NFKC", match.group(1) + match.group(3)), []).append(match)
    lists = [options for brackets, marks in groups.items() if (options := _in_order(stem, marks, brackets))]
    return lists[0] if len(lists) == 1 else None


def _in_order(stem: str, marks: Sequence[re.Match], brackets: str) -> Options | None:
    signs = tuple(_sign(mark.group(2)) for mark in marks)
    first = int(signs[0] != "0") if signs[0].isdigit() else ord("A")
    wanted = (str(first + i) if signs[0].isdigit() else chr(first + i) for i in range(len(signs)))
    before = stem[: marks[0].start()].rstrip(" \t")
    # "Is (A) or (B) larger?" has no list; three marks in order hardly stand in a sentence.
    behind = len(signs) > 2 or not before or before.endswith(("\n", *_ENDS))
    if len(signs) < 2 or signs != tuple(wanted) or not behind:
        return None
    last, *after = stem[marks[-1].end() :].split("\n")
    # Behind lines "A: ..." of a conversation stands what is asked about it.
    if brackets == ":" and any(line.strip() for line in after):
        return None
    gaps = [stem[one.end() : two.start()] for one, two in pairwise(marks)]
    texts = tuple(text.strip(_BETWEEN) for text in (*gaps, last))
    sure = all(any(map(str.isalnum, text)) and text.casefold() not in _JOINS for text in texts)
    if not sure or any("\n" in text for text in texts) or any(gap.count("\n") > 1 for gap in gaps):
        return None
    # A sentence behind the last option alone does not belong to it.
    if _MORE.search(texts[-1]) and not any(map(_MORE.search, texts[:-1])):
        return None
    return Options(_joined([before.rstrip()] if before.strip() else [], after), signs, texts)


def _joined(before: Sequence[str], after: Sequence[str]) -> str:
    """Return the lines around the options, without a heading of theirs."""
    text = "\n".join(before)
    heading = _LABEL.search(text, max(0, len(text) - _LONGEST_LABEL))
    return "\n".join([*([text[: heading.start()] if heading else text] if before else []), *after])


def _sign(mark: str) -> str:
    return normalize("NFKC", mark).upper()


def _plain(text: str) -> str:
    return answer_key(normalize("NFKC", text))
