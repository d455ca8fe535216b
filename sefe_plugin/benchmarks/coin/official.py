"""Accuracy on CoIN's eight tasks exactly as the official scripts compute it, with all that is odd about them.

Source: `llava/eval/CoIN/eval_*.py` and `scripts/Eval/*.sh` of the official SEFE code. The predictions are compared as
they are: the official model scripts have stripped them before.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from sefe_plugin.answers.text_vqa import OFFICIAL_MAX_PERIODS, soft_accuracy, text_vqa_answers


_LETTERS = ["A", "B", "C", "D", "E"]
_THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")


def science_qa(prediction: str, record: Mapping) -> float:
    """Score a letter: "B", "B. ...", or a text with "The answer is B." exactly once.

    Odd: "B.", "(B)", "b" and "The answer is B" at the very end of the text are wrong; any character may stand in the
    place of the last period. (CoIN's own script takes the first single letter of the text, whatever it is.)

    Args:
        prediction: The answer.
        record: "answer", a letter A to E, and "num_choices": a later letter is wrong.
    """
    gold, num_choices = record.get("answer"), record.get("num_choices")
    if gold not in _LETTERS:
        raise ValueError(f"needs a letter A to E as 'answer', got {gold!r}")
    if not isinstance(num_choices, int):
        raise ValueError(f"needs a whole number as 'num_choices', got {num_choices!r}")
    if prediction in _LETTERS:
        letter = prediction
    elif prediction[:1] in _LETTERS and prediction[1:3] == ". ":
        letter = prediction[0]
    else:
        found = _THE_ANSWER_IS.findall(prediction)
        letter = found[0] if len(found) == 1 else ""
    return float(letter == gold and letter in _LETTERS[:num_choices])


def text_vqa(prediction: str, record: Mapping) -> float:
    """Score by the soft accuracy over "answers", ten of them.

    Odd: only the first 32 periods of a text are taken out (a flag stands in the place of the count).
    """
    return soft_accuracy(prediction, text_vqa_answers(record), OFFICIAL_MAX_PERIODS)


def image_net(prediction: str, record: Mapping) -> float:
    """Score 1 where "answer" contains the prediction or the other way round, with case.

    Odd: an empty prediction, and any letter of the gold name, is right.
    """
    gold = _text(record, "answer")
    return float(gold in prediction or prediction in gold)


def gqa(prediction: str, record: Mapping) -> float:
    """Score 1 where the prediction, in lower case and without final periods, equals "answer".

    Odd: "answer" itself is not lowered, and blanks count.
    """
    return float(prediction.rstrip(".").lower() == _text(record, "answer"))


def viz_wiz(prediction: str, record: Mapping) -> float:
    """Score 1 where the prediction equals "answer" but for case.

    Odd: a final period is wrong.
    """
    return float(prediction.upper() == _text(record, "answer").upper())


def ocr_vqa(prediction: str, record: Mapping) -> float:
    """Score 1 where the prediction equals "answer" but for case.

    Odd: a prediction with "Unanswerable" in it is wrong, whatever the gold is; a final period is wrong.
    """
    gold = _text(record, "answer")
    return float("Unanswerable" not in prediction and prediction.lower() == gold.lower())


def grounding(prediction: str, record: Mapping) -> float:
    """Score 1 where the predicted box overlaps "answer_bbox" with an IoU above 0.5.

    Odd: all brackets are taken away, and then the first and the last character of what is left. So
    "[0.76, 0.33, 0.99, 0.65]" is read as .76, 0.33, 0.99, 0.6, "[1.0, ...]" as .0, and a box that ends in "1]" is not
    read at all. Both boxes are in pixels: shares times the longer side of "size".

    Args:
        prediction: The answer.
        record: "answer_bbox", the box as text, and "size", width and height.
    """
    gold = _numbers(_text(record, "answer_bbox"))
    size = record.get("size")
    if gold is None or len(gold) != 4:
        raise ValueError(f"needs four numbers as 'answer_bbox', got {record['answer_bbox']!r}")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int | float) for side in size):
        raise ValueError(f"needs width and height as 'size', got {size!r}")
    box = _numbers(prediction, trim=1)
    if box is None or len(box) != 4:
        return 0.0
    side = max(size)
    x1, y1, x2, y2 = (value * side for value in box)
    u1, v1, u2, v2 = (value * side for value in gold)
    # the order of the arguments decides what becomes of "nan"
    shared = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
    return float(union > 0 and shared / union > 0.5)


#: CoIN's tasks in order, each with its rule.
OFFICIAL: dict[str, Callable[[str, Mapping], float]] = {
    "ScienceQA": science_qa,
    "TextVQA": text_vqa,
    "ImageNet": image_net,
    "GQA": gqa,
    "VizWiz": viz_wiz,
    "Grounding": grounding,
    "VQAv2": viz_wiz,
    "OCRVQA": ocr_vqa,
}

#: Tasks whose script keeps one prediction for each question id, the last.
_LAST_PREDICTION = ("ScienceQA", "GQA")
#: Tasks whose script looks the test record up by question id, and so finds the last.
_LAST_RECORD = ("VizWiz", "Grounding", "VQAv2", "OCRVQA")
#: Tasks whose script divides first and multiplies by 100 afterwards.
_DIVIDE_FIRST = ("ScienceQA", "TextVQA", "GQA")


def official_accuracy(task: str, rows: Sequence[Mapping]) -> float:
    """Compute the accuracy of a test set in percent, equal to the official script's in every bit.

    Odd: where rows share a "question_id", ScienceQA and GQA count only the last of them, and VizWiz, Grounding, VQAv2
    and OCRVQA hold all their predictions against the last one's answer.

    Args:
        task: A name in `OFFICIAL`.
        rows: At least one test record with its "prediction"; "question_id" may be missing.

    Raises:
        ValueError: Where a row lacks what its task needs.

    Example:
        >>> official_accuracy("VizWiz", [{"prediction": "Red", "answer": "red"}, {"prediction": "a.", "answer": "a"}])
        50.0
    """
    ids = [str(row["question_id"]) if "question_id" in row else i for i, row in enumerate(rows)]
    last = dict(zip(ids, rows, strict=True))
    if task in _LAST_PREDICTION:
        ids, rows = list(last), list(last.values())
    records = [last[i] for i in ids] if task in _LAST_RECORD else rows
    scores = [OFFICIAL[task](row["prediction"], record) for row, record in zip(rows, records, strict=True)]
    if task in _DIVIDE_FIRST:
        return 100 * (sum(scores) / len(scores))
    return 100 * sum(scores) / len(scores)


def _text(record: Mapping, name: str) -> str:
    if not isinstance(record.get(name), str):
        raise ValueError(f"needs a text as {name!r}, got {record.get(name)!r}")
    return record[name]


def _numbers(text: str, trim: int = 0) -> list[float] | None:
    """Read numbers between commas, brackets taken out and `trim` characters cut off on both sides."""
    text = text.replace("[", "").replace("]", "")
    try:
        return [float(part) for part in text[trim : len(text) - trim].split(",")]
    except ValueError:
        return None
