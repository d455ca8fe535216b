"""One question with one answer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One single-turn instruction sample, whatever host it comes from.

    Attributes:
        question: The whole user text: it may start with ``<image>`` and ends with its response-format line, if any.
        answer: The whole answer.
    """

    question: str
    answer: str


class UnsuitableSampleError(ValueError):
    """No rule can rewrite this sample."""
