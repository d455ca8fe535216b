"""Rules for one answer: how right it is, and whether it has the format that its task asks for.

These rules are strict about format and lenient about writing: a right content in a wrong format counts as wrong, so
that accuracy never exceeds the share of right formats and the two kinds of forgetting can be told apart
(`metrics.split_forgetting`). Case, outer blanks and one final period, even after blanks, do not matter. Silence is
never right.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping

from sefe_plugin.answers.boxes import parse_box
from sefe_plugin.answers.text_vqa import soft_accuracy, text_vqa_answers
from sefe_plugin.answers.texts import PERIODS, answer_key, count_words, option_letter
from sefe_plugin.evaluation.scorers.base import Score


_WRONG_FORMAT = Score(0.0, False)
_SHORT_WORDS, _EXPLANATION_WORDS = 4, 6


def score_multiple_choice(prediction: str, record: Mapping) -> Score:
    """Score a lettered choice: ``B``, ``B.``, ``(B)``, ``B)``, each also with a text after it, in upper case.

    A letter beyond the record's "num_choices", where it has that, is a wrong format. Only the letter is compared.

    Example:
        >>> score_multiple_choice("B. Leaves", {"answer": "B"}), score_multiple_choice("Leaves", {"answer": "B"})
        (Score(correct=1.0, formatted=True), Score(correct=0.0, formatted=False))
    """
    gold = option_letter(_field(record, "answer"))
    if gold is None:
        raise ValueError(f"'answer' must be an option's letter, got {record['answer']!r}")
    num_choices = record.get("num_choices", 26)
    if type(num_choices) is not int:
        raise ValueError(f"needs a whole number as 'num_choices', or no such field, got {num_choices!r}")
    letter = option_letter(prediction)
    if letter is None or ord(letter) - ord("A") >= num_choices:
        return _WRONG_FORMAT
    return Score(float(letter == gold), True)


def score_short_answer(prediction: str, record: Mapping) -> Score:
    """Score a word or phrase: it must equal the gold answer.

    Right format: on one line, no box, no lone option letter A to E (unless the gold is one), at most 4 words or twice
    as many as the gold has, and no sentence, i.e. no final period after three or more words. The gold answer itself
    always has the right format.

    Example:
        >>> score_short_answer("Red.", {"answer": "red"}), score_short_answer("blue", {"answer": "red"})
        (Score(correct=1.0, formatted=True), Score(correct=0.0, formatted=True))
        >>> score_short_answer("The car is red.", {"answer": "red"})
        Score(correct=0.0, formatted=False)
    """
    return _score_phrase(prediction, _field(record, "answer"), answer_key)


def score_text_vqa(prediction: str, record: Mapping) -> Score:
    """Score a word or phrase by TextVQA's soft accuracy over the record's ten "answers".

    The format is right where it is right beside one of the ten (`score_short_answer`). A record without "answers" is
    scored by `score_short_answer`.

    Example:
        >>> score_text_vqa("stop", {"answers": ["Stop."] * 3 + ["go"] * 7}).correct > 0.89
        True
        >>> score_text_vqa("stop", {"answer": "Stop."})
        Score(correct=1.0, formatted=True)
    """
    if "answers" not in record:
        return score_short_answer(prediction, record)
    answers = text_vqa_answers(record)
    if not answer_key(prediction):
        return _WRONG_FORMAT
    correct = soft_accuracy(prediction, answers)
    formatted = any(score_short_answer(prediction, {"answer": answer}).formatted for answer in set(answers))
    return Score(float(correct), formatted or correct > 0)


def score_class_name(prediction: str, record: Mapping) -> Score:
    """Score the name of a class: as a short answer, but hyphens, underscores and a leading article do not matter.

    Example:
        >>> score_class_name("a great-white Shark", {"answer": "great white shark"})
        Score(correct=1.0, formatted=True)
    """
    return _score_phrase(prediction, _field(record, "answer"), _class_key)


def score_yes_no(prediction: str, record: Mapping) -> Score:
    """Score a yes or no.

    Example:
        >>> score_yes_no("no", {"answer": "No"}), score_yes_no("No, it is not.", {"answer": "No"})
        (Score(correct=1.0, formatted=True), Score(correct=0.0, formatted=False))
    """
    key, gold = answer_key(prediction), answer_key(_field(record, "answer"))
    if gold not in ("yes", "no"):
        raise ValueError(f"'answer' must be yes or no, got {record['answer']!r}")
    return Score(float(key == gold), True) if key in ("yes", "no") else _WRONG_FORMAT


def score_explanation(prediction: str, record: Mapping) -> Score:
    """Score an explanation in one sentence or more: it must hold the record's "key" words, or equal the gold answer.

    Right format: on one line, with at least 6 words.

    Example:
        >>> record = {"answer": "It rolls down because it is round.", "key": "it is round"}
        >>> score_explanation("Since it is round, the ball rolls.", record)
        Score(correct=1.0, formatted=True)
        >>> score_explanation("It is round.", record)
        Score(correct=0.0, formatted=False)
    """
    gold, text = _field(record, "answer"), prediction.strip()
    if "\n" in text or count_words(text) < _EXPLANATION_WORDS:
        return _WRONG_FORMAT
    if "key" not in record:
        return Score(float(answer_key(text) == answer_key(gold)), True)
    key = r"\W+".join(map(re.escape, re.findall(r"\w+", _field(record, "key"))))
    if not key:
        raise ValueError(f"'key' must hold words, got {record['key']!r}")
    return Score(float(re.search(rf"\b{key}\b", text, re.IGNORECASE) is not None), True)


def _field(record: Mapping, name: str) -> str:
    if not isinstance(record.get(name), str):
        raise ValueError(f"needs a text as {name!r}, got {record.get(name)!r}")
    return record[name]


def _score_phrase(prediction: str, gold: str, key: Callable[[str], str]) -> Score:
    # an accent may be a sign of its own in one text and a part of its letter in the other
    text, gold = (unicodedata.normalize("NFC", words).strip() for words in (prediction, gold))
    if not key(text):
        return _WRONG_FORMAT
    if key(text) == key(gold):
        return Score(1.0, True)
    words = count_words(text)
    sentence = words >= 3 and text.endswith(PERIODS)
    letter = re.fullmatch(r"\(?[A-E]\)?\.?", text) and option_letter(gold) is None
    too_long = words > max(_SHORT_WORDS, 2 * count_words(gold))
    if not words or "\n" in text or sentence or letter or too_long or parse_box(text):
        return _WRONG_FORMAT
    return Score(0.0, True)


def _class_key(name: str) -> str:
    words = re.sub(r"[-_\s]+", " ", answer_key(name)).strip()
    return re.sub(r"^(?:an?|the) ", "", words)
