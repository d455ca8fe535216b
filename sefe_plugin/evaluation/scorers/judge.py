"""Answers rated by a language model behind a server that speaks OpenAI's protocol.

Each rating is kept in a file as soon as it is there, under the request that it answers. So a stopped scoring goes on
where it stopped, and a run that is scored or verified again asks nothing twice.
"""

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sefe_plugin.data.question import question_in_record
from sefe_plugin.evaluation.judging import EXTRA, open_judge
from sefe_plugin.evaluation.scorers.base import Score, Scorer, SetScore, standard_error
from sefe_plugin.evaluation.scorers.golds import golds_of
from sefe_plugin.files import from_home
from sefe_plugin.json_lines import GrowingFile, read_json_lines
from sefe_plugin.openai_client import address_fault
from sefe_plugin.options import option


logger = logging.getLogger(__name__)

_TASK = (
    "Compare the answer to be rated with the right answer above. Judge what it says, not how it is put. Reply with "
    "one whole number alone, from 0 (wrong) to 10 (fully right)."
)
_MOST = 10
_THOUGHTS = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_RATING = re.compile(
    r"(?:(?:the )?(?:rating|score)(?: is|\s*[:=])?\s*)?(\d+(?:\.\d+)?)(?:\s*/\s*10|\s+out of 10)?\.?", re.IGNORECASE
)


@dataclass
class JudgeOptions:
    """Who judges, and where the ratings are kept."""

    model: str | None = option(None, "Name of the judge on its server. Required.")
    base_url: str | None = option(
        None,
        "Address of the server up to /v1; where it is left out, that in OPENAI_BASE_URL, or OpenAI's own. The key "
        "comes from OPENAI_API_KEY alone.",
    )
    file: str | None = option(
        None,
        "File of JSON lines that keeps every rating, so that none is asked for twice. The recipe's path starts from "
        "the folder in which the run is started. Required.",
    )
    workers: int = option(
        8, "Requests under way at once.", rule="a whole number from 1 to 256", holds=lambda value: 1 <= value <= 256
    )


class JudgeScorer(Scorer):
    """Asks a language model how right each answer is, from 0 to 10, and averages; pictures are not sent.

    The judge looks at what an answer says and not at its format, so that format cannot be told from content.
    """

    tells_format = False
    alternatives = ("answers",)
    asks = True
    options = JudgeOptions()

    def option_faults(self) -> list[str]:
        """Require the judge's name, the file of the ratings, and an address without a secret."""
        wanted = {"model": "the name of the judge on its server", "file": "the file that keeps the ratings"}
        faults = [f"`{key}` is required: {what}." for key, what in wanted.items() if not getattr(self.options, key)]
        fault = address_fault(self.options.base_url)
        return [*faults, f"`base_url`: {fault}."] if fault else faults

    def setup_faults(self) -> list[str]:
        """Require the client, and a file that can be written."""
        faults = [] if find_spec("openai") else [f"asking a server needs: pip install 'sefe-plugin[{EXTRA}]'."]
        file = self._file()
        folder = next(parent for parent in file.parents if parent.exists())
        writable = file.is_file() if file.exists() else folder.is_dir()
        if not writable or not os.access(file if file.exists() else folder, os.W_OK):
            faults.append(f"`file` must be a file that can be written; got {self.options.file!r}.")
        return faults

    def settled_options(self) -> dict[str, str]:
        """Make the path of the file absolute."""
        return {"file": str(self._file())}

    def check(self, record: Mapping) -> None:
        """Require a question and gold answers, of which the request consists."""
        judge_request("", record)

    def best_answer(self, record: Mapping) -> str:
        """Return the first gold answer, without asking anybody."""
        return golds_of(record)[0]

    def judge(self, predictions: Sequence[str], records: Sequence[Mapping]) -> list[Score] | None:
        """Return what the judge has said of each answer; None where it has not seen all of them."""
        keys = [_key(self.options.model, request) for request in _requests(predictions, records)]
        kept = self._kept()
        return [Score(kept[key], True) for key in keys] if all(key in kept for key in keys) else None

    def score(self, predictions: Sequence[str], records: Sequence[Mapping]) -> SetScore:
        """Ask for the ratings that are not there yet, and average.

        Raises:
            ValueError: For a bad record, where the server does not answer, or where no reply is a rating.
        """
        requests = _requests(predictions, records)
        ratings = self._ratings(dict.fromkeys(requests))
        scores = [ratings[request] for request in requests]
        return SetScore(100 * math.fsum(scores) / len(scores), None, len(scores), 100 * standard_error(scores))

    def _file(self) -> Path:
        return Path(from_home(self.options.file)).absolute()

    def _kept(self) -> dict[str, float]:
        file = self._file()
        rows = read_json_lines(file) if file.is_file() else ()
        return {row["key"]: rating for row in rows if (rating := parse_rating(row["reply"])) is not None}

    def _ratings(self, requests: Mapping[str, None]) -> dict[str, float]:
        """Return the rating of each request, in [0, 1]; one whose reply is no rating is worth 0, and is not kept."""
        model, kept = self.options.model, self._kept()
        ratings = {request: kept[key] for request in requests if (key := _key(model, request)) in kept}
        missing = [request for request in requests if request not in ratings]
        if not missing:
            return ratings
        ask, unreadable = open_judge(model, self.options.base_url), []
        with GrowingFile(self._file()) as file, ThreadPoolExecutor(self.options.workers) as pool:
            try:
                for request, reply in zip(missing, pool.map(ask, missing), strict=True):
                    rating = parse_rating(reply)
                    ratings[request] = rating or 0.0
                    if rating is None:
                        unreadable.append(reply)
                        continue
                    row = {"key": _key(model, request), "model": model, "request": request, "reply": reply}
                    file.append({**row, "rating": ratings[request]})
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if unreadable:
            self._tell(unreadable, len(ratings))
        return ratings

    def _tell(self, unreadable: Sequence[str], count: int) -> None:
        said = (
            f"{len(unreadable)} of {count} replies of the judge {self.options.model!r} are no rating from 0 to 10, "
            f"such as {unreadable[0]!r:.100}"
        )
        if len(unreadable) == count:
            raise ValueError(f"{said}. Name a judge that replies with the number alone, without thinking first")
        logger.warning("%s. These answers count as 0, and are asked about again at the next scoring.", said)


def judge_request(prediction: str, record: Mapping) -> str:
    """Write what the judge is asked about one answer.

    Raises:
        ValueError: Where the record has no question or no gold answer.
    """
    question = question_in_record(record)
    if not question:
        raise ValueError("needs its question as 'text', 'instruction' or messages, which the judge is to read")
    blocks = {
        "Question": question.replace("<image>", "").strip(),
        "Right answer": " / ".join(golds_of(record)),
        "Answer to be rated": prediction,
        "Your task": _TASK,
    }
    return "\n\n".join(f"[{name}]\n{content}" for name, content in blocks.items())


def parse_rating(reply: str) -> float | None:
    """Read a rating from 0 to 10 as a share; None where the reply is anything but one such number.

    Example:
        >>> [parse_rating(reply) for reply in ("8", "**Rating:** 7.5", "10/10")]
        [0.8, 0.75, 1.0]
        >>> [parse_rating(reply) for reply in ("100", "-5", "Rating (0-10): 8", "none")]
        [None, None, None, None]
    """
    found = _RATING.fullmatch(_THOUGHTS.sub("", reply, count=1).replace("*", "").strip())
    rating = float(found.group(1)) if found else math.inf
    return rating / _MOST if rating <= _MOST else None


def _requests(predictions: Sequence[str], records: Sequence[Mapping]) -> list[str]:
    requests = []
    for number, (prediction, record) in enumerate(zip(predictions, records, strict=True)):
        try:
            requests.append(judge_request(prediction, record))
        except ValueError as error:
            raise ValueError(f"test record {number}: {error}") from error
    return requests


def _key(model: str, request: str) -> str:
    return hashlib.sha256(json.dumps([model, request]).encode()).hexdigest()
