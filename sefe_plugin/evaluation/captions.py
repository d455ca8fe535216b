"""Captions scored without Java: BLEU-1 to BLEU-4, ROUGE-L and CIDEr over a whole test set.

The formulas are those of pycocoevalcap, which papers report; METEOR, which needs Java, is not among them. Words are
what ``[a-z0-9']+`` finds in lower case, where pycocoevalcap has the Penn Treebank's tokenizer: on plain captions both
are the same, and contractions and hyphens differ a little.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from sefe_plugin.answers.distance import common_length


#: Fields of a test record that may hold gold captions, the first that is there.
FIELDS = ("captions", "answers", "references", "answer")

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_LONGEST = 4
#: As in pycocoevalcap: what keeps a share without matches from being nothing, and one without n-grams from failing.
_TINY, _SMALL = 1e-15, 1e-9
_BETA, _SIGMA = 1.2, 6.0

Ngrams = Counter[tuple[str, ...]]


def references_of(record: Mapping) -> list[str]:
    """Return the gold captions of a test record: one text, or a list of them.

    Raises:
        ValueError: Where it has none.

    Example:
        >>> references_of({"answer": "a dog"}), references_of({"captions": ["a dog", "one dog"]})
        (['a dog'], ['a dog', 'one dog'])
    """
    field = next((name for name in FIELDS if name in record), FIELDS[-1])
    texts = record.get(field)
    texts = texts if isinstance(texts, list) else [texts]
    if not texts or not all(isinstance(text, str) and words_of(text) for text in texts):
        raise ValueError(
            f"needs a caption with words, or a list of them, as {field!r}, got {record.get(field)!r:.200}"
        )
    return texts


def words_of(text: str) -> list[str]:
    """Split a text into words in lower case, without punctuation.

    Example:
        >>> words_of("A dog's ball, red.")
        ['a', "dog's", 'ball', 'red']
    """
    return _WORD.findall(text.lower())


def caption_parts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compute the six metrics over a whole test set, in percent; CIDEr may exceed 100.

    Args:
        predictions: One caption for each image.
        references: The gold captions of each image, at least one each.

    Example:
        >>> parts = caption_parts(["a red car", "two dogs"], [["a red car"], ["two dogs", "a pair of dogs"]])
        >>> round(parts["BLEU-1"]), round(parts["ROUGE-L"])
        (100, 100)
    """
    given = [words_of(text) for text in predictions]
    golds = [[words_of(text) for text in texts] for texts in references]
    bleu = bleu_scores(given, golds)
    rouge = math.fsum(rouge_l(*pair) for pair in zip(given, golds, strict=True)) / len(given)
    values = {f"BLEU-{n}": score for n, score in enumerate(bleu, start=1)}
    values |= {"ROUGE-L": rouge, "CIDEr": cider_score(given, golds)}
    return {name: 100 * value for name, value in values.items()}


def bleu_scores(given: Sequence[Sequence[str]], golds: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """Compute corpus-level BLEU-1 to BLEU-4, in [0, 1], with the reference whose length is nearest.

    Args:
        given: The words of each caption.
        golds: Those of the gold captions of each.
    """
    matched, possible = [0] * _LONGEST, [0] * _LONGEST
    length = wanted = 0
    for words, references in zip(given, golds, strict=True):
        length += len(words)
        wanted += min((abs(len(reference) - len(words)), len(reference)) for reference in references)[1]
        for n in range(1, _LONGEST + 1):
            own, most = _ngrams(words, n), Counter()
            for reference in references:
                most |= _ngrams(reference, n)
            matched[n - 1] += (own & most).total()
            possible[n - 1] += max(0, len(words) - n + 1)
    ratio = (length + _TINY) / (wanted + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(_LONGEST):
        product *= (matched[n] + _TINY) / (possible[n] + _SMALL)
        scores.append(product ** (1 / (n + 1)) * brevity)
    return scores


def rouge_l(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute ROUGE-L of one caption, in [0, 1]: the best precision and the best recall over its references.

    Args:
        words: The words of the caption.
        references: Those of each gold caption.

    Example:
        >>> rouge_l(["a", "dog"], [["a", "dog"]]), rouge_l([], [["a", "dog"]])
        (1.0, 0.0)
    """
    shared = [common_length(words, reference) for reference in references]
    if not words or not any(shared):
        return 0.0
    precision = max(shared) / len(words)
    recall = max(count / len(reference) for count, reference in zip(shared, references, strict=True) if reference)
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def cider_score(given: Sequence[Sequence[str]], golds: Sequence[Sequence[Sequence[str]]]) -> float:
    """Compute CIDEr over a corpus, in [0, 10]: likeness of n-grams, each weighed by how rare it is among the images.

    Args:
        given: The words of each caption.
        golds: Those of the gold captions of each.
    """
    frequency: Ngrams = Counter()
    for references in golds:
        frequency.update({ngram for words in references for n in _SIZES for ngram in _ngrams(words, n)})
    images = math.log(len(golds))
    scores = []
    for words, references in zip(given, golds, strict=True):
        own = _vectors(words, frequency, images)
        likeness = [_likeness(own, _vectors(reference, frequency, images)) for reference in references]
        scores.append(10 * math.fsum(likeness) / len(references))
    return math.fsum(scores) / len(scores)


_SIZES = range(1, _LONGEST + 1)


def _ngrams(words: Sequence[str], n: int) -> Ngrams:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _vectors(words: Sequence[str], frequency: Ngrams, images: float) -> tuple[list[dict], int]:
    """Return for each n the weights of a caption's n-grams, and the number of its pairs of words."""
    weights = [
        {ngram: count * (images - math.log(max(1, frequency[ngram]))) for ngram, count in _ngrams(words, n).items()}
        for n in _SIZES
    ]
    return weights, max(0, len(words) - 1)


def _likeness(own: tuple[list[dict], int], gold: tuple[list[dict], int]) -> float:
    """Return the mean over n of the clipped cosine, less where the lengths differ."""
    distance = own[1] - gold[1]
    cosines = []
    for mine, theirs in zip(own[0], gold[0], strict=True):
        norms = math.hypot(*mine.values()) * math.hypot(*theirs.values())
        shared = math.fsum(
            min(weight, theirs[ngram]) * theirs[ngram] for ngram, weight in mine.items() if ngram in theirs
        )
        cosines.append(shared / norms if norms else 0.0)
    return math.fsum(cosines) / len(cosines) * math.exp(-(distance**2) / (2 * _SIGMA**2))
