"""TextVQA's soft accuracy: ten annotators, each a vote, and answers compared in a normal form.

The rule is that of the VQA challenge in the form of M4C (`llava/eval/m4c_evaluator.py` of the official code).
"""

import re
from collections.abc import Mapping, Sequence


#: Annotators of one question.
NUM_ANSWERS = 10

#: The official code passes `re.UNICODE` where the number of replacements belongs.
OFFICIAL_MAX_PERIODS = int(re.UNICODE)

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_DIGITS)}}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
_PERIOD = re.compile(r"\.(?!\d)")

# the contractions that are recognised without their apostrophe
_SIMPLE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
    it'd it'll ma'am might've mightn't must've mustn't needn't not've o'clock oughtn't shan't should've shouldn't
    somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's
    they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's
    where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
# double contractions, recognised with one of their two apostrophes
_WITH_HAVE = """
    couldn't hadn't he'd it'd mightn't she'd shouldn't somebody'd someone'd something'd there'd they'd we'd who'd
    wouldn't you'd
"""


def _contractions() -> dict[str, str]:
    table = {word.replace("'", ""): word for word in _SIMPLE.split()}
    for word in _WITH_HAVE.split():
        table[word.replace("'", "") + "'ve"] = table[word + "ve"] = word + "'ve"
    table |= dict.fromkeys(("yall'll", "y'allll"), "y'all'll")
    table |= dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've")
    table["'ows'at"] = "'ow's'at"
    # the one entry that takes an apostrophe away
    table["somebody'd"] = "somebodyd"
    return table


_CONTRACTIONS = _contractions()


def normalize_answer(text: str, max_periods: int = 0) -> str:
    """Bring an answer into the normal form in which answers are compared.

    In this order: lower case; no commas and question marks; ``'s`` a word of its own; other punctuation marks taken
    out (where the text has one beside a blank) or replaced by a blank (where it has none); no periods except before a
    digit; number words up to ten, and "none", as digits; no articles; contractions with their apostrophes.

    Args:
        text: The answer.
        max_periods: Periods to take out at most; 0 for all.

    Example:
        >>> normalize_answer("The Queen's two-door cars dont stop.")
        "queen 's 2 door cars don't stop"
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ")
    spaced = text
    for mark in _PUNCTUATION:
        text = text.replace(mark, "" if f"{mark} " in spaced or f" {mark}" in spaced else " ")
    text = _PERIOD.sub("", text, count=max_periods)
    words = (_NUMBERS.get(word, word) for word in text.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def soft_accuracy(prediction: str, answers: Sequence[str], max_periods: int = 0) -> float:
    """Score a prediction by the mean over the annotators of min(1, equal answers among the nine others / 3).

    A prediction that no annotator gave scores 0.

    Args:
        prediction: The answer to score.
        answers: The ten annotators' answers.
        max_periods: As in `normalize_answer`.

    Returns:
        In [0, 1], with the rounding of the official sum.

    Example:
        >>> round(soft_accuracy("Nokia.", ["nokia"] * 3 + ["phone"] * 7), 12)
        0.9
    """
    prediction = normalize_answer(prediction, max_periods)
    hits = [normalize_answer(answer, max_periods) == prediction for answer in answers]
    if not any(hits):
        return 0.0
    # the order of the terms decides the last bit
    return sum([min(1, (sum(hits) - hit) / 3) for hit in hits]) / len(hits)


def text_vqa_answers(record: Mapping) -> list[str]:
    """Return the ten answers of a TextVQA record.

    Raises:
        ValueError: Where "answers" is not a list of ten texts.
    """
    answers = record.get("answers")
    if not isinstance(answers, list) or len(answers) != NUM_ANSWERS or not all(isinstance(a, str) for a in answers):
        raise ValueError(f"needs a list of {NUM_ANSWERS} texts as 'answers', got {answers!r}")
    return answers
