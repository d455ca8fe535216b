"""One scorer for gold answers of several kinds: each record has the rule of its own gold answer."""

import re
from collections.abc import Mapping

from sefe_plugin.answers.numbers import read_quantity
from sefe_plugin.answers.options import chosen_option, option_mark
from sefe_plugin.answers.reading import said_option
from sefe_plugin.answers.texts import answer_key
from sefe_plugin.data.question import question_in_record
from sefe_plugin.evaluation.scorers.base import Score
from sefe_plugin.evaluation.scorers.golds import golds_of, options_of
from sefe_plugin.evaluation.scorers.lenient import read_phrase, read_yes_no
from sefe_plugin.evaluation.scorers.numeric import NumberOptions, read_number, score_number
from sefe_plugin.evaluation.scorers.rules import score_yes_no
from sefe_plugin.evaluation.scorers.words import score_contains, score_names


_LETTER = re.compile(r"\(?[A-Z]\)?[.:]?", re.IGNORECASE)
_NAMES = re.compile(r"[^\d,]+(?:,[^\d,]+)+")
#: MapQA's questions for several names, of which some have one name as their answer.
_SEVERAL = re.compile(r"\bwhich states\b", re.IGNORECASE)


def kind_of(record: Mapping) -> str:
    """Name the kind of a record's gold answer: "option", "yes_no", "number", "names" or "words".

    Example:
        >>> [kind_of({"answer": gold}) for gold in ("B", "Yes", "3", "Iowa, Ohio", "$1,200", "red")]
        ['option', 'yes_no', 'number', 'names', 'words', 'words']
    """
    golds = golds_of(record)
    if len(golds) > 1:
        return "words"
    gold = golds[0].strip()
    if _LETTER.fullmatch(gold):
        return "option"
    if answer_key(gold) in ("yes", "no"):
        return "yes_no"
    if _NAMES.fullmatch(gold) or _SEVERAL.search(question_in_record(record) or ""):
        return "names"
    quantity = read_quantity(gold)
    return "words" if quantity is None or quantity.unit else "number"


def score_mixed(prediction: str, record: Mapping) -> Score:
    r"""Score an answer by the rule of its gold answer's kind.

    - option: the letter, in upper or lower case, as ``B``, ``B.``, ``(B)``, ``B)`` or with a text after it;
    - yes_no, number and names: as the scorers of these names; of a numbered list in the question also ``2. text``;
    - words: as `contains`, in every format.

    Example:
        >>> [score_mixed(text, {"answer": "B"}).correct for text in ("b", "B) 2", "The answer is B")]
        [1.0, 1.0, 0.0]
        >>> score_mixed("0. no", {"answer": "0", "text": "Is it?\n0. no\n1. yes"}).correct
        1.0
    """
    kind = kind_of(record)
    if kind == "option":
        mark, gold = option_mark(prediction.strip()), option_mark(golds_of(record)[0].strip())
        if mark is None or mark.sign.isdigit():
            return Score(0.0, False)
        return Score(float(mark.sign == gold.sign), True)
    if kind == "number":
        return _number(prediction, record)
    one = {**record, "answer": golds_of(record)[0]}
    if kind == "yes_no":
        return score_yes_no(prediction, one)
    return score_names(prediction, one) if kind == "names" else score_contains(prediction, record)


def read_mixed(prediction: str, record: Mapping) -> float:
    """Give what a reader would for an answer to a gold answer of its kind."""
    kind = kind_of(record)
    if kind == "option":
        return float(said_option(prediction, options_of(record)) == option_mark(golds_of(record)[0].strip()).sign)
    if kind == "yes_no":
        return read_yes_no(prediction, {"answer": golds_of(record)[0]})
    if kind == "number":
        return read_number(prediction, record, NumberOptions())
    return read_phrase(prediction, record) if kind == "words" else 0.0


def _number(prediction: str, record: Mapping) -> Score:
    score, options = score_number(prediction, record, NumberOptions()), options_of(record)
    if score.formatted:
        return score  # 1.5 is a number, and no first option with the text 5
    place = chosen_option(options, prediction.strip())
    return score if place is None else Score(float(options.marks[place] == golds_of(record)[0].strip()), True)
