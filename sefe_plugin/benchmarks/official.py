"""Official rules that several benchmarks share: UCIT, MLLM-DCL and TriGap, with all that is odd about them.

Example: ``official_accuracy("ai2d", [{"prediction": "notable", "answer": "no"}])`` is 100.0, because the rule of
MLLM-DCL's RS finds "no" within "notable". The clean scorer `contains` counts it as wrong.

Sources: `llava/eval/CoIN/eval_{deepseek_r1,ai2d,pvqa,sci,finvis,caption}.py` of MCITlib, and
`backbone/shared/eval/eval_ucit.py` of Prism. The predictions are compared as they are: the official model scripts have
stripped them before.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

from sefe_plugin.answers.distance import similarity
from sefe_plugin.benchmarks.captions import caption_score
from sefe_plugin.benchmarks.coin.official import viz_wiz
from sefe_plugin.data.layout import listed
from sefe_plugin.data.question import question_in_record


#: The first part of the file name of a Sci image -> the answer must equal the gold answer. All others are MapQA's.
_EQUAL = ("AI2D", "TQA", "VQA", "SciVerse")
_STATES = "Which states"
_UNANSWERABLE = "Unanswerable"


def ai2d(prediction: str, record: Mapping) -> float:
    """Score 1 where the prediction contains "answer", without case (RS and AD of MLLM-DCL).

    Odd: of a prediction with blanks, one of ``" g"``, ``"g "``, ``"g."`` and ``"g,"`` must be a part, so that "piano
    bar" is a right "no"; of one without, the gold answer itself, so that "notable" is one too. A gold answer of
    several words keeps its final period, and the prediction must have it.
    """
    gold = _text(record, "answer").lower()
    if _UNANSWERABLE in prediction:
        return 0.0
    prediction = prediction.lower()
    if " " in gold:
        return float(gold in prediction)
    gold = gold.replace(".", "")
    if " " in prediction:
        return float(any(part in prediction for part in (f" {gold}", f"{gold} ", f"{gold}.", f"{gold},")))
    return float(gold in prediction)


def pvqa(prediction: str, record: Mapping) -> float:
    """Score 1 where the prediction contains "answer", without case (Med of MLLM-DCL).

    Odd: "not seen" is a right "no", and every prediction is right where the gold answer is empty.
    """
    gold = _text(record, "answer").lower()
    return float(_UNANSWERABLE not in prediction and gold in prediction.lower())


def sci(prediction: str, record: Mapping) -> float:
    """Score by the file name of the image (Sci of MLLM-DCL).

    AI2D, TQA, VQA and SciVerse: 1 where the prediction equals "answer" but for case. All others, which are MapQA's:
    for a question with "Which states" the share of the gold answer's states that are among the prediction's; else 1
    where the prediction contains "answer".

    Odd: states are what stands between commas, blanks and all, so "ohio, iowa" is worth nothing beside "iowa, ohio";
    states too many cost nothing; a final period is wrong.

    Args:
        prediction: The answer.
        record: "answer"; "image" or "images", a path or several; and the question, as "prompt" or as test records have
            it.
    """
    gold = _text(record, "answer").lower()
    images = listed(record.get("image")) or listed(record.get("images"))
    if not images or not isinstance(images[0], str):
        raise ValueError(f"needs the path of its image as 'image', whose name tells the rule, got {images!r}")
    kind = sci_kind(images[0])
    question = record.get("prompt", question_in_record(record))
    if kind not in _EQUAL and not isinstance(question, str):
        raise ValueError(f"needs its question as 'text', which tells the rule, got {question!r}")
    if _UNANSWERABLE in prediction:
        return 0.0
    prediction = prediction.lower()
    if kind in _EQUAL:
        return float(prediction == gold)
    if _STATES in question:
        states, named = gold.split(","), prediction.split(",")
        return sum(state in named for state in states) / len(states)
    return float(gold in prediction)


def sci_kind(image: str) -> str:
    """Return what selects the rule of a Sci image.

    Example:
        >>> sci_kind("images/AI2D_12.png")
        'AI2D'
    """
    return PurePosixPath(image).name.split("_")[0]


def finvis(prediction: str, record: Mapping) -> float:
    """Score 1 where the prediction without blanks and periods equals "answer", without case (Fin of MLLM-DCL).

    Odd: "N o." is a right "No". The gold answer keeps its blanks and periods.
    """
    gold = _text(record, "answer").lower()
    return float(_UNANSWERABLE not in prediction and prediction.lower().replace(" ", "").replace(".", "") == gold)


def anls(prediction: str, record: Mapping) -> float:
    """Score by the likeness to the nearest gold answer, 1 - edit distance / longer length (DocVQA of TriGap).

    Odd: nothing is cut off below 0.5, so that "no" beside "not" is worth 0.67; ANLS as published is 0 there.

    Args:
        prediction: The answer.
        record: "answer" or "answers", a text or several.
    """
    golds = record.get("answers", record.get("answer"))
    golds = golds if isinstance(golds, list) else [golds]
    if not golds or not all(isinstance(gold, str) for gold in golds):
        raise ValueError(f"needs a text or several as 'answer', got {golds!r}")
    return max(similarity(prediction.strip().lower(), gold.strip().lower()) for gold in golds)


#: Rules of one answer.
RULES: dict[str, Callable[[str, Mapping], float]] = {
    "viz_wiz": viz_wiz,
    "ai2d": ai2d,
    "pvqa": pvqa,
    "sci": sci,
    "finvis": finvis,
    "anls": anls,
}

#: The rule of whole test sets: UCIT's captions.
CAPTION = "caption"

#: All names of rules.
OFFICIAL_RULES = (*RULES, CAPTION)


def official_accuracy(rule: str, rows: Sequence[Mapping]) -> float:
    """Compute the accuracy of a test set in percent; that of captions may exceed 100.

    Odd: the scripts find the gold answer by its id, and so the last of those that share one. Each prediction counts.
    Captions have no ids there: the order alone says whose they are. Here each row holds its own gold answers.

    Args:
        rule: One of `OFFICIAL_RULES`.
        rows: At least one test record with its "prediction"; "question_id" may be missing.

    Raises:
        ValueError: Where a row lacks what its rule needs, or this machine what "caption" needs.

    Example:
        >>> official_accuracy("sci", [{"prediction": "a", "answer": "A", "image": "Sci/images/AI2D_1.png"}])
        100.0
    """
    if rule == CAPTION:
        return caption_score(rows)
    last = {str(row["question_id"]): row for row in rows if "question_id" in row}
    golds = [last[str(row["question_id"])] if "question_id" in row else row for row in rows]
    scores = [RULES[rule](row["prediction"], gold) for row, gold in zip(rows, golds, strict=True)]
    return 100 * sum(scores) / len(scores)


def _text(record: Mapping, name: str) -> str:
    if not isinstance(record.get(name), str):
        raise ValueError(f"needs a text as {name!r}, got {record.get(name)!r}")
    return record[name]
