# ruff: noqa: T201 - a dialogue prints
"""Questions at a terminal: each with a reason to ask, and a default; a wrong answer is asked for again."""

from collections.abc import Callable
from typing import TypeVar


T = TypeVar("T")


class Dialogue:
    """Asks one question after the other.

    Args:
        count: How many numbered questions there are.
        takes_defaults: Whether nothing is asked: what no option answers takes its default.
    """

    def __init__(self, count: int, takes_defaults: bool):
        self._count, self._takes_defaults = count, takes_defaults
        self._number = 0

    def head(self, text: str) -> None:
        """Begin the next numbered question with one line that explains it."""
        self._number += 1
        print(f"\n{self._number} of {self._count}  {text}", flush=True)

    def say(self, text: str) -> None:
        """Show what was found."""
        print(f"  {text}", flush=True)

    def ask(self, name: str, read: Callable[[str], T], default: str | None, given: str | None = None) -> T:
        """Return what an answer means.

        Args:
            name: What is asked for; also the name of the option that answers it, without the dashes.
            read: Makes of a text what it means, or raises ValueError with the reason why it cannot.
            default: The answer where nothing is typed; None if there is none.
            given: The answer of the command line; it is not asked for then.

        Raises:
            ValueError: If the answer of the command line, or the default where nothing is asked, is wrong.
            EOFError: If there is nobody to answer.
        """
        if given is not None or self._takes_defaults:
            text = given if given is not None else default
            if text is None:
                raise ValueError(f"`--{name}` is needed: there is no default for it.")
            self.say(f"{name}: {text}")
            try:
                return read(text)
            except ValueError as error:
                raise ValueError(f"`--{name}`: {error}") from error
        while True:
            text = input(f"  {name}{f' [{default}]' if default else ''}: ").strip() or default
            if text is None:
                self.say("There is no default. Please type an answer.")
                continue
            try:
                return read(text)
            except ValueError as error:
                self.say(f"Not taken: {error}")
