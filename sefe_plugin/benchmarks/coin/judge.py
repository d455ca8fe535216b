"""Knowledge capability (KC): how right answers are by a language model's judgement, whatever their format.

CoIN's second metric beside accuracy. The judge is asked, for each answer, for a rating from 0 to 10 against the gold
answer. The wording of the request is our own; the order of its blocks and the reading of the rating are those of CoIN
(`ETrain/Eval/LLaVA/CoIN/create_prompt.py` and `ETrain/Eval/evaluate_score.py`). CoIN's judge is Qwen1.5-32B-Chat at
temperature 0.7; here it answers greedily, so that a score can be repeated.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sefe_plugin.benchmarks.coin import TASKS
from sefe_plugin.benchmarks.score_file import read_rows
from sefe_plugin.json_lines import GrowingFile


_RULE = (
    "Compare the candidate's answer with the reference answer above and rate how accurate it is. Judge what it says, "
    "not how it is put. The rating is a number from 0 (wrong) to 10 (fully right). Reply with the number alone, on a "
    "single line."
)
_BOX_RULE = (
    "The question asks for a region of an image. A region is written as [x1, y1, x2, y2], its left, upper, right and "
    "lower edge, each as a share of the image between 0 and 1. " + _RULE
)


def judge_request(task: str, row: Mapping) -> str:
    """Write what the judge is asked about one answer.

    The question loses its last line, which says how to answer, except in Grounding, as in CoIN.

    Args:
        task: A task of CoIN.
        row: A test record with its "prediction".

    Raises:
        ValueError: If the record has no text as "text", or none as "answer" ("answer_bbox" for Grounding).
    """
    gold = "answer_bbox" if task == "Grounding" else "answer"
    for name in ("text", gold):
        if not isinstance(row.get(name), str):
            raise ValueError(f"needs a text as {name!r}, got {row.get(name)!r}")
    question = row["text"].replace("<image>", "").strip()
    if task != "Grounding":
        question = question.rpartition("\n")[0].strip() or question
    blocks = {
        "Question": question,
        "Reference answer": row[gold],
        "Candidate's answer": row["prediction"],
        "Your task": _BOX_RULE if task == "Grounding" else _RULE,
    }
    return "\n\n".join(f"[{name}]\n{content}" for name, content in blocks.items())


def parse_rating(reply: str) -> float:
    """Read a rating as CoIN does.

    A number of at most 10 is taken, negative ones too, and a larger one is 0; of "a/b", a whole number a of at most
    10; of any other text with no "/", its first digit from 1 to 9, so that "10 points" is 1; all else is 0.

    Example:
        >>> [parse_rating(reply) for reply in ("7.5", "8/10", "Rating: 6", "10 points", "100", "none")]
        [7.5, 8.0, 6.0, 1.0, 0.0, 0.0]
    """
    try:
        rating = float(reply)
    except ValueError:
        if "/" in reply:
            number = reply.split("/")[0]
            return float(number) if number.isdecimal() and float(number) <= 10 else 0.0
        digit = re.search("[1-9]", reply)
        return float(digit.group()) if digit else 0.0
    return rating if -math.inf < rating <= 10 else 0.0


def knowledge_capability(ratings: Sequence[float]) -> int:
    """Compute KC = round(100 * sum of ratings / (10 * number of ratings)), in percent."""
    return round(sum(ratings) / (10 * len(ratings)) * 100)


def judge_file(
    task: str,
    file: Path,
    out: Path,
    model: str,
    ask: Callable[[str], str],
    workers: int = 8,
    progress: Callable = iter,
) -> int:
    """Have every answer of a file of predictions judged, and compute KC.

    Each row goes to `out` with the "judge", its "reply" and its "rating" as soon as it and all before it are judged;
    a stopped command continues after the last of them.

    Args:
        task: A task of CoIN.
        file: JSONL, one test record with its prediction a row.
        out: JSONL to write.
        model: The judge's name; its ratings are never taken for another's.
        ask: Sends a request to the judge and returns its reply.
        workers: Requests at a time.
        progress: Wraps the iterator over the answers that are still to be judged.

    Returns:
        KC, 0 to 100.

    Raises:
        ValueError: For an unknown task, a bad row, or an `out` that another process writes or that belongs to other
            predictions, another judge or another task.
    """
    if task not in [known.name for known in TASKS]:
        raise ValueError(f"the task must be one of {', '.join(known.name for known in TASKS)}; got {task!r}.")
    rows, requests = [], []
    for number, row in read_rows(file):
        try:
            requests.append(judge_request(task, row))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: a row of {task} {error}.") from error
        rows.append(row)
    if not rows:
        raise ValueError(f"{file} holds no predictions.")
    judge = {"model": model, "task": task}
    with GrowingFile(out) as judged, ThreadPoolExecutor(workers) as pool:
        ratings = _judged_before(judged, rows, judge)
        start = len(ratings)
        try:
            replies: Iterable[str] = pool.map(ask, requests[start:])
            for row, reply in progress(zip(rows[start:], replies, strict=True)):
                ratings.append(parse_rating(reply))
                judged.append({**row, "judge": judge, "reply": reply, "rating": ratings[-1]})
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return knowledge_capability(ratings)


def _judged_before(judged: GrowingFile, rows: Sequence[Mapping], judge: Mapping[str, str]) -> list[float]:
    """Return the ratings that an earlier run with this judge wrote."""
    found = [row for _, row in judged]
    own = [{key: value for key, value in row.items() if key not in ("judge", "reply", "rating")} for row in found]
    if own != list(rows[: len(own)]):
        raise ValueError(f"{judged.path} holds judgements of other predictions; choose another file with --out.")
    if other := next((row for row in found if row.get("judge") != judge), None):
        raise ValueError(
            f"{judged.path} holds judgements by {other.get('judge', 'an unnamed judge')}, not by {judge}; choose "
            "another file with --out."
        )
    return [row["rating"] for row in found]
