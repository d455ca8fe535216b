"""Rules that compare the words of an answer with those of one gold answer or of several."""

import re
import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sefe_plugin.answers.distance import similarity
from sefe_plugin.answers.reading import holds_words, said_yes_no
from sefe_plugin.answers.texts import PERIODS, answer_key, count_words
from sefe_plugin.evaluation.captions import rouge_l, words_of
from sefe_plugin.evaluation.scorers.base import RecordScorer, Score
from sefe_plugin.evaluation.scorers.golds import golds_of
from sefe_plugin.evaluation.scorers.lenient import read_phrase
from sefe_plugin.options import option


_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DIGITS = str.maketrans("", "", string.digits)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SHORT_WORDS = 4
_AND = re.compile(r"\s*(?:,|;|\band\b|&)\s*", re.IGNORECASE)


@dataclass
class ExactMatchOptions:
    """What does not count in a comparison; outer blanks never do."""

    ignore_case: bool = option(False, "Whether upper and lower case are the same.")
    ignore_punctuation: bool = option(False, "Whether signs such as commas and periods are left out.")
    ignore_numbers: bool = option(False, "Whether digits are left out.")
    ignore_articles: bool = option(False, "Whether the words a, an and the are left out.")


@dataclass
class RegexOptions:
    """How the answer is taken out of a reply."""

    pattern: str | None = option(
        None,
        "Regular expression (Python's) whose first group, or the whole of what it finds, is the answer: "
        "'answer is (\\w+)'. A reply in which it finds nothing has a wrong format. Required.",
        rule="a regular expression of Python's, such as 'answer is (\\w+)'",
        holds=lambda value: _compiles(value),
    )
    ignore_case: bool = option(True, "Whether upper and lower case are the same, in the pattern and in the answer.")


@dataclass
class AnlsOptions:
    """How unlike the gold answer an answer may be."""

    threshold: float = option(
        0.5,
        "Likeness in [0, 1] below which an answer is worth nothing. 0.5 is ANLS as published; TriGap's official rule "
        "has 0.",
        rule="a number in [0, 1]",
        holds=lambda value: 0 <= value <= 1,
    )


def score_exact_match(prediction: str, record: Mapping, options: ExactMatchOptions) -> Score:
    """Score 1 where the answer equals a gold answer.

    Example:
        >>> score_exact_match("Red", {"answer": "red"}, ExactMatchOptions(ignore_case=True))
        Score(correct=1.0, formatted=True)
    """
    key = _exact(prediction, options)
    return Score(float(bool(key) and any(key == _exact(gold, options) for gold in golds_of(record))), True)


def read_exact_match(prediction: str, record: Mapping, options: ExactMatchOptions) -> float:
    """Give 1 where the answer says a gold answer, also in a sentence.

    Case, punctuation and articles never count here, and digits as the options say.

    Example:
        >>> read_exact_match("The car is red 1.", {"answer": "red 2"}, ExactMatchOptions(ignore_numbers=True))
        1.0
    """
    if not options.ignore_numbers:
        return read_phrase(prediction, record)
    golds = [bare for gold in golds_of(record) if (bare := gold.translate(_DIGITS).strip())]
    return read_phrase(prediction.translate(_DIGITS), {"answer": golds}) if golds else 0.0


def score_contains(prediction: str, record: Mapping) -> Score:
    """Score 1 where the answer has a gold answer as whole words in a row, whatever stands beside them.

    A yes or no must be what the answer says, as `said_yes_no` reads it.

    Example:
        >>> [score_contains(text, {"answer": "no"}).correct for text in ("No, never", "piano bar", "notable")]
        [1.0, 0.0, 0.0]
    """
    held = (
        said_yes_no(prediction) == answer_key(gold)
        if answer_key(gold) in ("yes", "no")
        else holds_words(prediction, gold)
        for gold in golds_of(record)
    )
    return Score(float(any(held)), True)


def score_f1(prediction: str, record: Mapping) -> Score:
    """Score by the F1 of the words that answer and gold answer share, best of the golds (SQuAD).

    Case, punctuation and articles do not count.

    Example:
        >>> round(score_f1("the red car", {"answer": "A car"}).correct, 3)
        0.667
    """
    return Score(max(_f1(_tokens(prediction), _tokens(gold)) for gold in golds_of(record)), True)


def score_anls(prediction: str, record: Mapping, options: AnlsOptions) -> Score:
    """Score by the likeness to the nearest gold answer, 1 - edit distance / longer length; 0 below the threshold.

    Case and outer blanks do not count.

    Example:
        >>> round(score_anls("car", {"answer": "cat"}, AnlsOptions()).correct, 3)
        0.667
        >>> score_anls("yes", {"answer": "no"}, AnlsOptions()).correct
        0.0
    """
    text, golds = prediction.strip().lower(), golds_of(record)
    best = max(similarity(text, gold.strip().lower()) for gold in golds) if text else 0.0
    return Score(best if best >= options.threshold else 0.0, True)


def score_rouge_l(prediction: str, record: Mapping) -> Score:
    """Score by ROUGE-L as pycocoevalcap has it: the longest common subsequence of words, recall before precision.

    Example:
        >>> round(score_rouge_l("a dog running on grass", {"answer": "A dog runs on the grass."}).correct, 3)
        0.716
    """
    golds = [words_of(gold) for gold in golds_of(record)]
    if not all(golds):
        raise ValueError(f"needs words in each gold answer, got {golds_of(record)!r:.200}")
    return Score(rouge_l(words_of(prediction), golds), True)


def score_names(prediction: str, record: Mapping) -> Score:
    """Score names separated by commas: those that are right, as a share of all that are in answer or gold answer.

    Order, case and outer blanks do not count; a name too many costs as much as one that is missing. Right format: on
    one line, no sentence, and no name of more than 4 words or twice as many as the longest right one.

    Example:
        >>> record = {"answer": "Iowa, Ohio"}
        >>> [score_names(text, record).correct for text in ("ohio,iowa", "Iowa and Ohio.", "Iowa", "Iowa, Ohio, Utah")]
        [1.0, 1.0, 0.5, 0.6666666666666666]
    """
    golds, named = golds_of(record), _names(prediction)
    if not named or "\n" in prediction.strip():
        return Score(0.0, False)
    shares, formatted = [], False
    for gold in map(_names, golds):
        most = max(_SHORT_WORDS, *(2 * count_words(name) for name in gold), 0)
        formatted |= all(count_words(name) <= most for name in named)
        shares.append(len(named & gold) / len(named | gold))
    return Score(max(shares) if formatted else 0.0, formatted)


class RegexScorer(RecordScorer):
    """Takes the answer out of a reply by a pattern of the recipe's, and compares it with the gold answers.

    The gold answer itself need not match the pattern.
    """

    def __init__(self):
        super().__init__(score_regex, "a text that is not empty", alternatives=("answers",), options=RegexOptions())

    def option_faults(self) -> list[str]:
        """Require the pattern."""
        return (
            [] if self.options.pattern else ["`pattern` is required: a regular expression such as 'answer is (\\w+)'."]
        )

    def check(self, record: Mapping) -> None:
        """Require gold answers that are not empty."""
        if not all(map(answer_key, golds_of(record))):
            raise ValueError(
                f"its gold answer must be {self.wanted}, or no answer would be right; got {record!r:.200}"
            )

    def best_answer(self, record: Mapping) -> str:
        """Return the gold answer: what a reply that holds it looks like, only the model's training says."""
        return golds_of(record)[0]


def score_regex(prediction: str, record: Mapping, options: RegexOptions) -> Score:
    r"""Score 1 where what the pattern finds first equals a gold answer, but for a final period.

    Example:
        >>> score_regex("The answer is Red.", {"answer": "red"}, RegexOptions(pattern=r"answer is (\w+)"))
        Score(correct=1.0, formatted=True)
        >>> score_regex("Red.", {"answer": "red"}, RegexOptions(pattern=r"answer is (\w+)"))
        Score(correct=0.0, formatted=False)
    """
    golds = golds_of(record)
    found = re.search(options.pattern, prediction, re.IGNORECASE if options.ignore_case else 0)
    if found is None:
        return Score(0.0, False)
    answer = found.group(1) or "" if found.re.groups else found.group()
    key = answer_key if options.ignore_case else _without_period
    return Score(float(bool(key(answer)) and any(key(answer) == key(gold) for gold in golds)), True)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _without_period(text: str) -> str:
    text = text.strip()
    return text[:-1].rstrip() if text.endswith(PERIODS) else text


def _exact(text: str, options: ExactMatchOptions) -> str:
    if options.ignore_case:
        text = text.casefold()
    if options.ignore_punctuation:
        text = text.translate(_PUNCTUATION)
    if options.ignore_numbers:
        text = text.translate(_DIGITS)
    if options.ignore_articles:
        text = re.sub(r"\b(?:a|an|the)\b", " ", text, flags=re.IGNORECASE)
    return " ".join(text.split()) if options.ignore_articles else text.strip()


def _tokens(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(given: list[str], gold: list[str]) -> float:
    shared = (Counter(given) & Counter(gold)).total()
    return 2 * shared / (len(given) + len(gold)) if shared else 0.0


def _names(text: str) -> frozenset[str]:
    return frozenset(filter(None, map(answer_key, _AND.split(" ".join(text.split())))))
