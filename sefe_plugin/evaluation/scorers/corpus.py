"""Scorers of whole test sets."""

import math
from collections.abc import Mapping, Sequence

from sefe_plugin.evaluation.captions import FIELDS, caption_parts, references_of
from sefe_plugin.evaluation.scorers.base import Scorer, SetScore


class CaptionScorer(Scorer):
    """The mean of BLEU-1 to BLEU-4, ROUGE-L and CIDEr over a whole test set, each in percent.

    CIDEr may exceed 100, and so may the mean. Captions have no format that could be told from content. No single
    answer has a score, because CIDEr weighs words by how rare they are in the whole test set.
    """

    tells_format = False
    alternatives = FIELDS[:-1]

    def check(self, record: Mapping) -> None:
        """Require gold captions that have words."""
        references_of(record)

    def best_answer(self, record: Mapping) -> str:
        """Return the first gold caption."""
        return references_of(record)[0]

    def score(self, predictions: Sequence[str], records: Sequence[Mapping]) -> SetScore:
        """Score all captions together."""
        references = []
        for number, record in enumerate(records):
            try:
                references.append(references_of(record))
            except ValueError as error:
                raise ValueError(f"test record {number}: {error}") from error
        parts = caption_parts(predictions, references)
        return SetScore(math.fsum(parts.values()) / len(parts), None, len(predictions), parts=parts)
