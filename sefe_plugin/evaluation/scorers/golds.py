"""The gold answers of a test record: one text, or several of which any is right."""

from collections.abc import Mapping

from sefe_plugin.answers.options import Options, read_options
from sefe_plugin.answers.texts import split_question
from sefe_plugin.data.question import question_in_record


#: The field of several gold answers; a list under "answer" is the same.
SEVERAL = "answers"


def golds_of(record: Mapping) -> list[str]:
    """Return the gold answers of a record; numbers become texts.

    Raises:
        ValueError: Where it has none that is a text or a number.

    Example:
        >>> golds_of({"answer": "red"}), golds_of({"answers": ["red", "dark red"]}), golds_of({"answer": 3})
        (['red'], ['red', 'dark red'], ['3'])
    """
    field = SEVERAL if SEVERAL in record else "answer"
    golds = record.get(field)
    golds = golds if isinstance(golds, list) else [golds]
    if not golds or not all(isinstance(gold, str | int | float) and not isinstance(gold, bool) for gold in golds):
        raise ValueError(f"needs a text, or a list of texts, as {field!r}, got {record.get(field)!r:.200}")
    return [*map(as_text, golds)]


def as_text(gold: str | float) -> str:
    """Return a gold answer as a text.

    Example:
        >>> as_text("red"), as_text(3), as_text(2.50)
        ('red', '3', '2.5')
    """
    return gold if isinstance(gold, str) else f"{gold:.15g}"


def options_of(record: Mapping) -> Options:
    r"""Return the options of a record's question: those of a list "choices" or "options", or those in its text.

    Example:
        >>> options_of({"text": "Which?\nA. cat\nB. dog"}).texts, options_of({"choices": ["cat", "dog"]}).marks
        (('cat', 'dog'), ('A', 'B'))
    """
    for field in ("choices", "options"):
        texts = record.get(field)
        if isinstance(texts, list) and 1 < len(texts) <= 26 and all(isinstance(text, str) for text in texts):
            return Options("", tuple(chr(ord("A") + place) for place in range(len(texts))), tuple(texts))
    question = question_in_record(record)
    return read_options(split_question(question)[1], numbers=True) if question else Options("")
