"""Answers rated by a language model behind a server that speaks OpenAI's protocol.

Each rating is kept in a file as soon as it is there, under the request that it answers. So a stopped scoring goes on
where it stopped, and a run that is scored or verified again asks nothing twice.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sefe_plugin.data.question import question_in_record
from sefe_plugin.evaluation.scorers.base import Score, Scorer, SetScore, standard_error
from sefe_plugin.evaluation.scorers.golds import golds_of
from sefe_plugin.json_lines import GrowingFile, read_json_lines
from sefe_plugin.openai_client import NoReplyError, NoTextError, OpenAIClient
from sefe_plugin.options import option


_SYSTEM = "You are a careful examiner who compares answers with their solutions."
_TASK = (
    "Compare the answer to be rated with the right answer above. Judge what it says, not how it is put. Reply with "
    "one whole number alone, from 0 (wrong) to 10 (fully right)."
)
_MOST = 10
_MAX_TOKENS = 20
_NUMBER = re.compile(r"(?<![\d.])\d+(?:\.\d+)?")


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
        None, "File of JSON lines that keeps every rating, so that none is asked for twice. Required."
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
        """Require the judge's name and the file of the ratings."""
        wanted = {"model": "the name of the judge on its server", "file": "the file that keeps the ratings"}
        return [f"`{key}` is required: {what}." for key, what in wanted.items() if not getattr(self.options, key)]

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
            ValueError: For a bad record, or where the server does not answer.
        """
        requests = _requests(predictions, records)
        ratings = self._ratings(dict.fromkeys(requests))
        scores = [ratings[request] for request in requests]
        return SetScore(100 * math.fsum(scores) / len(scores), None, len(scores), 100 * standard_error(scores))

    def _kept(self) -> dict[str, float]:
        file = Path(self.options.file)
        return {row["key"]: row["rating"] for row in read_json_lines(file)} if file.is_file() else {}

    def _ratings(self, requests: Mapping[str, None]) -> dict[str, float]:
        """Return the rating of each request, in [0, 1]."""
        model, kept = self.options.model, self._kept()
        ratings = {request: kept[key] for request in requests if (key := _key(model, request)) in kept}
        missing = [request for request in requests if request not in ratings]
        if not missing:
            return ratings
        ask = open_judge(model, self.options.base_url)
        with GrowingFile(Path(self.options.file)) as file, ThreadPoolExecutor(self.options.workers) as pool:
            try:
                for request, reply in zip(missing, pool.map(ask, missing), strict=True):
                    ratings[request] = parse_rating(reply)
                    row = {"key": _key(model, request), "model": model, "request": request, "reply": reply}
                    file.append({**row, "rating": ratings[request]})
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return ratings


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


def parse_rating(reply: str) -> float:
    """Read a rating from 0 to 10 as a share; a reply without one, or with a larger number, is worth 0.

    Example:
        >>> [parse_rating(reply) for reply in ("8", "Rating: 7.5", "10/10", "100", "none")]
        [0.8, 0.75, 1.0, 0.0, 0.0]
    """
    found = _NUMBER.search(reply)
    rating = float(found.group()) if found else 0.0
    return rating / _MOST if rating <= _MOST else 0.0


def open_judge(model: str, base_url: str | None) -> Callable[[str], str]:
    """Connect to the judge's server.

    Returns:
        A function that sends a request and returns the reply; nothing where the judge gave no text.

    Raises:
        ValueError: If the client is not installed, or the address holds a secret.
    """
    try:
        client = OpenAIClient(model, base_url, extra="judge", temperature=0.0, max_tokens=_MAX_TOKENS)
    except ImportError as error:
        raise ValueError(str(error)) from error
    send = client.asker()

    def ask(request: str) -> str:
        try:
            return send([{"role": "system", "content": _SYSTEM}, {"role": "user", "content": request}])
        except NoTextError:
            return ""
        except (NoReplyError, ConnectionError) as error:
            raise ValueError(f"the judge {model!r} at {client.address} does not answer: {error}") from error

    return ask


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
