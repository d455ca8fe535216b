r"""What a reader takes a reply for: "**Answer: (B)** because ..." names option B.

The scorers are strict: a reply counts where it has its task's format. These functions read what is there in whatever
format, for the lenient counts that stand beside the strict ones. They never guess: where a reply says several things,
it says nothing.
"""

# ruff: noqa: RUF001 - full-width signs are what is read here

import re
from collections.abc import Sequence

from sefe_plugin.answers.numbers import Quantity, quantities_in, read_quantity
from sefe_plugin.answers.options import Options, named_option
from sefe_plugin.answers.texts import answer_key, content_key


_EMPHASIS = re.compile(r"\*{1,3}|`+|(?<!\w)_{1,2}(?=\w)|(?<=\w)_{1,2}(?!\w)")
_HEADING = re.compile(r"^#+[ \t]*([^\n:]*):?[ \t]*$", re.MULTILINE)
_BOXED = re.compile(r"\\(?:boxed|text|textbf|mathrm)\s*\{([^{}]*)\}")
_LEAD = re.compile(
    r"(?:\b(?:the|my|a)\s+)?(?:\b(?:final|correct|right|best|short)\s+)*\b(?:answer|option|choice|reply)"
    r"(?:\s+(?:is|would be|should be|must be)\b\s*[:：]?|\s*[:：=])\s*",
    re.IGNORECASE,
)
_QUOTES = "\"'“”‘’«»"
_LETTER_AT_START = re.compile(
    r"[(（\[【]?\s*([A-Za-zＡ-Ｚ]|\d{1,2})(?:\s*([)）\]】.．:：,、;])|\s*$|\s+(?=\(|because|since|as\b|-))"
)
_ANOTHER = re.compile(r"(?:\s*(?:or|and|/|,|&)\s*|(?<=[,;])\s*)[(]?[A-HJ-Z]\)?(?![A-Za-z])")
_BARE_LETTER = re.compile(r"([B-HJ-Z])\s+\S")
_LONE_LETTER = re.compile(r"\b([B-HJ-Z]|A(?=\W*$|\s+(?:is|was)\b))(?![\w'’])")
_OPTION = re.compile(r"\(([A-Za-z])\)|\b(?i:option|choice|letter)\s+\(?([A-Z])\b")
_YES_NO = r"\b(yes|no|yeah|yep|yup|nope)\b(?!\.\s?\d)"
_ANY_YES_NO = re.compile(_YES_NO, re.IGNORECASE)
_FIRST_YES_NO = re.compile(rf"{_YES_NO}(?!\s+(?:doubt|question|wonder|and|or)\b)", re.IGNORECASE)
#: A clause that ends with one of the two words, and what stands before that.
_LAST_YES_NO = re.compile(
    rf"(?:^|[.,;:!?(])([^.,;:!?()]*?){_YES_NO}(?=[\"'“”’]*\s*(?:$|[.,;:!)]|\b(?:because|since|as)\b))", re.IGNORECASE
)
_YES = ("yes", "yeah", "yep", "yup")
#: Words beside which a text that holds the gold answer may say something else.
_HEDGES = re.compile(
    r"\b(?:not|no|never|neither|nor|none|or|either|except|without|cannot|unlike|wrong|incorrect)\b|n['’]t\b"
)
#: From here on a reply says why.
_REASON = re.compile(r"(?:\b(?:because|since|as)\b).*", re.IGNORECASE | re.DOTALL)


def unwrapped(reply: str) -> str:
    r"""Take a reply's answer out of emphasis, ``\boxed{}``, quotes and what leads to it.

    Example:
        >>> unwrapped("**Answer:** (B)"), unwrapped("So the final answer is \\boxed{12}."), unwrapped('"red"')
        ('(B)', '12.', 'red')
    """
    text = _BOXED.sub(r"\1", _BOXED.sub(r"\1", reply)).strip().strip("$")
    text = " ".join(_EMPHASIS.sub("", _HEADING.sub(r"\1:", text)).split())
    *_, last = [None, *_LEAD.finditer(text)]
    if last is not None and text[last.end() :].strip():
        text = text[last.end() :].strip()
    if len(text) > 1 and text[0] in _QUOTES and text.rstrip(".")[-1:] in _QUOTES:
        text = text.rstrip(".")[1:-1].strip()
    return text


def said_option(reply: str, options: Options = Options("")) -> str | None:  # noqa: B008 - a tuple
    """Return the mark of the option that a reply names, by its mark or its text; None where it names none or several.

    Args:
        reply: The reply.
        options: The options of the question, as far as they are known.

    Example:
        >>> two = Options("Which?", ("A", "B"), ("a cat", "a dog"))
        >>> [said_option(reply, two) for reply in ("b", "**(B)**", "The answer is (B) because it barks.", "A dog.")]
        ['B', 'B', 'B', 'B']
        >>> said_option("A or B", two) is None
        True
    """
    text = unwrapped(reply)
    marks = options.marks
    if (place := named_option(options, text)) is not None:
        return marks[place]
    start = _LETTER_AT_START.match(text)
    if start and not _ANOTHER.match(text, start.end()):
        sign, behind = _sign(start.group(1)), text[start.end() :]
        if _corrected(behind, sign):
            return None
        return sign if not marks or sign in marks else None
    bare = _BARE_LETTER.match(text)
    if bare and not re.match(r".\s+(?:or|and)\b", text) and (not marks or bare.group(1) in marks):
        return None if _hedged(text) else bare.group(1)
    named = {_sign(one or other) for one, other in _OPTION.findall(text)}
    named = named & {*marks} if marks else named
    if len(named) == 1:
        return None if _hedged(text) else named.pop()
    held = [mark for mark, option in zip(marks, options.texts, strict=True) if says(text, option)]
    return held[0] if len(held) == 1 and not named else None


def said_yes_no(reply: str) -> str | None:
    """Return "yes" or "no" where a reply says one of them; None otherwise.

    It is the first word, or else the last one of a clause that nothing before it turns; "no doubt" is no answer.

    Example:
        >>> said_yes_no("No, it is not."), said_yes_no("**Yes**"), said_yes_no("I would say no.")
        ('no', 'yes', 'no')
        >>> said_yes_no("Not yes"), said_yes_no("There is no doubt that it rose.")
        (None, None)
    """
    text = unwrapped(reply)
    if first := _FIRST_YES_NO.match(text):
        words = [first.group(1)]
    else:
        parts = _LAST_YES_NO.findall(text)
        words = [word for before, word in parts if not _hedged(before) and not _ANY_YES_NO.search(before)]
    found = {word.lower() in _YES for word in words}
    return ("yes" if found.pop() else "no") if len(found) == 1 else None


def said_quantity(reply: str) -> Quantity | None:
    """Return the one number that a reply gives, or the last one behind a sign of equality; None otherwise.

    Example:
        >>> said_quantity("There are three dogs."), said_quantity("3 + 4 = 7"), said_quantity("3 or 4")
        (Quantity(value=3.0, unit='dog'), Quantity(value=7.0, unit=''), None)
        >>> said_quantity("It is not 5.") is None
        True
    """
    text = unwrapped(reply)
    if (whole := read_quantity(text)) is not None:
        return whole
    _, sign, behind = text.rpartition("=")
    said = behind if sign else text
    found = [] if _hedged(said) else quantities_in(said)
    return found[0] if found and len({one.value for one in found}) == 1 else None


def says(text: str, gold: str) -> bool:
    """Tell whether a text says the gold answer: as whole words in a row, and with no word that may turn its meaning.

    Case, punctuation and articles do not matter, and number words are numbers.

    Example:
        >>> says("The car is red.", "red"), says("It is not red.", "red"), says("It is reddish.", "red")
        (True, False, False)
    """
    return holds_words(text, gold) and (not _HEDGES.search(text.lower()) or bool(_HEDGES.search(gold.lower())))


def holds_words(text: str, words: str) -> bool:
    """Tell whether a text has some words in a row, as whole words, whatever is said beside them.

    Example:
        >>> holds_words("No, there is", "no"), holds_words("piano bar", "no"), holds_words("in $1,200", "$1,200")
        (True, False, True)
    """
    found, wanted = content_key(text).split(), content_key(words).split()
    found, wanted = ([_bare(word) for word in part] for part in (found, wanted))
    size = len(wanted)
    return size > 0 and any(found[i : i + size] == wanted for i in range(len(found) - size + 1))


def says_phrase(reply: str, golds: Sequence[str]) -> bool:
    """Tell whether a reader would take a reply for one of the gold answers.

    Example:
        >>> says_phrase("The answer is: red.", ["red"]), says_phrase("Two", ["2"]), says_phrase("blue", ["red"])
        (True, True, False)
    """
    text = unwrapped(reply)
    for gold in golds:
        if answer_key(gold) in ("yes", "no"):
            if said_yes_no(reply) == answer_key(gold):
                return True
        elif content_key(text) == content_key(gold) or says(text, gold):
            return True
    return False


def _hedged(text: str) -> bool:
    """Tell whether a text may turn what it names; why it names that does not matter."""
    return _HEDGES.search(_REASON.sub("", text).lower()) is not None


def _corrected(behind: str, sign: str) -> bool:
    """Tell whether what follows an option's mark takes it back: "A. No, it is B."."""
    others = {_sign(other) for other in _LONE_LETTER.findall(_REASON.sub("", behind))} - {sign}
    return bool(others) and _hedged(behind)


def _sign(letter: str) -> str:
    return chr(ord(letter) - 0xFEE0) if letter > "\uff00" else letter.upper()


def _bare(word: str) -> str:
    """Return a word without the signs around it, or the signs where it has nothing else."""
    return word.strip(".,:;!?'\"()[]") or word
