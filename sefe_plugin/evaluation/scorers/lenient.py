"""What a reader would give for an answer in whatever format; the strict rules of the same names stand in `rules`.

Each takes an answer and its test record, and returns a number in [0, 1].
"""

from collections.abc import Mapping

from sefe_plugin.answers.reading import holds_words, said_option, said_yes_no, says_phrase, unwrapped
from sefe_plugin.answers.text_vqa import soft_accuracy
from sefe_plugin.answers.texts import answer_key, option_letter
from sefe_plugin.evaluation.scorers.golds import golds_of, options_of


def read_multiple_choice(prediction: str, record: Mapping) -> float:
    r"""Give 1 where the answer names the right option, by its letter in any form or by its text.

    Example:
        >>> record = {"answer": "B", "text": "Which?\nA. cat\nB. dog"}
        >>> [read_multiple_choice(text, record) for text in ("b", "The answer is (B) because", "a dog", "A")]
        [1.0, 1.0, 1.0, 0.0]
    """
    return float(said_option(prediction, options_of(record)) == option_letter(record["answer"]))


def read_phrase(prediction: str, record: Mapping) -> float:
    """Give 1 where the answer says one of the gold answers, also in a sentence.

    Example:
        >>> read_phrase("**The car is red.**", {"answer": "red"}), read_phrase("It is not red.", {"answer": "red"})
        (1.0, 0.0)
    """
    return float(says_phrase(prediction, golds_of(record)))


def read_text_vqa(prediction: str, record: Mapping) -> float:
    """Give the soft accuracy of the best of the ten answers that the answer says."""
    if "answers" not in record:
        return read_phrase(prediction, record)
    answers = record["answers"]
    said = {answer for answer in {*answers} if answer_key(answer) and says_phrase(prediction, [answer])}
    return max(float(soft_accuracy(text, answers)) for text in (unwrapped(prediction), *said))


def read_class_name(prediction: str, record: Mapping) -> float:
    """Give 1 where the answer says the name of the class, with hyphens or without."""
    plain = {"answer": record["answer"].replace("_", " ").replace("-", " ")}
    return read_phrase(prediction.replace("_", " ").replace("-", " "), plain)


def read_explanation(prediction: str, record: Mapping) -> float:
    """Give 1 where the answer holds the record's "key" words, or says the gold answer, however short it is.

    Example:
        >>> read_explanation("It is round.", {"answer": "It rolls because it is round.", "key": "it is round"})
        1.0
    """
    said = holds_words(prediction, record["key"]) if "key" in record else read_phrase(prediction, record)
    return float(said)


def read_yes_no(prediction: str, record: Mapping) -> float:
    """Give 1 where the answer says the right one of yes and no, also in a sentence.

    Example:
        >>> read_yes_no("No, it is not.", {"answer": "No"}), read_yes_no("Maybe.", {"answer": "No"})
        (1.0, 0.0)
    """
    return float(said_yes_no(prediction) == answer_key(record["answer"]))
