"""UCIT's official score of captions: the mean of seven metrics, by pycocoevalcap and its two Java programs.

BLEU-1 to BLEU-4, METEOR, ROUGE-L and CIDEr, each times 100. CIDEr may exceed 100, and so may the mean. Without Java
the clean scorer `caption` has the six that are not METEOR (`sefe_plugin.evaluation.captions`).
"""

import io
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec

from sefe_plugin.evaluation.captions import references_of


_PACKAGE = "pycocoevalcap"


def caption_faults() -> list[str]:
    """List what this machine lacks for the official score of captions, one sentence each, with how to get it."""
    faults = []
    if find_spec(_PACKAGE) is None:
        faults.append(f"The official score of captions needs {_PACKAGE}: pip install 'sefe-plugin[captions]'.")
    if shutil.which("java") is None:
        faults.append(
            "The official score of captions needs Java, for METEOR and the tokenizer: apt-get install "
            "default-jre-headless, or any Java of version 8 or later on the PATH."
        )
    return faults


def caption_metrics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compute the seven metrics over a whole test set, in percent.

    Args:
        predictions: One caption for each image.
        references: The gold captions of each image.

    Raises:
        ValueError: Without the package or Java, or where a program of theirs fails.
    """
    if faults := caption_faults():
        raise ValueError(" ".join(faults))
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    try:
        with redirect_stdout(io.StringIO()):  # BLEU prints its lengths
            golds = _tokenized(tokenizer, references)
            given = _tokenized(tokenizer, [[prediction] for prediction in predictions])
            bleu = Bleu(4).compute_score(golds, given)[0]
            others = [scorer.compute_score(golds, given)[0] for scorer in (Meteor(), Rouge(), Cider())]
    except (OSError, AssertionError) as error:
        raise ValueError(f"{_PACKAGE} could not score the captions: {error!r}. Try: java -version") from error
    names = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
    return {name: 100 * float(value) for name, value in zip(names, (*bleu, *others), strict=True)}


def caption_score(rows: Sequence[Mapping]) -> float:
    """Compute the mean of the seven metrics, in percent.

    Args:
        rows: Test records with their "prediction", and with gold captions as `references_of` reads them.

    Raises:
        ValueError: As in `caption_metrics`, or where a row has no gold captions.
    """
    references = [references_of(row) for row in rows]
    metrics = caption_metrics([row["prediction"] for row in rows], references)
    return math.fsum(metrics.values()) / len(metrics)


def _tokenized(tokenizer, texts: Sequence[Sequence[str]]) -> dict[int, list[str]]:
    """Let the package's tokenizer split texts; it reads lines, so every text is made one line that UTF-8 can hold."""
    lines = {
        number: [{"caption": " ".join(text.encode(errors="replace").decode().split())} for text in group]
        for number, group in enumerate(texts)
    }
    tokens = tokenizer.tokenize(lines)
    if {number: len(group) for number, group in tokens.items()} != {n: len(group) for n, group in lines.items()}:
        raise OSError("its tokenizer returned another number of captions than it got")
    return tokens
