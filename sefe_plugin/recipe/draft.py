"""The text of a recipe that somebody has answered questions for: sections, keys, and why a value is what it is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml


#: Longest line of a recipe.
_WIDTH = 119


@dataclass
class Draft:
    """A recipe in the making.

    Attributes:
        head: Lines of its head, without the signs of a comment.
        sections: Name of a section -> its keys. `tasks` holds a list of mappings.
        notes: Key -> why it has its value; ("tasks", number, key) for a key of a task, from 0.
    """

    head: list[str]
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str | tuple[str, int, str], str] = field(default_factory=dict)

    def keys(self) -> dict[str, Any]:
        """Return all keys of all sections."""
        return {key: value for section in self.sections.values() for key, value in section.items()}

    def text(self) -> str:
        """Return the recipe as YAML.

        Example:
            >>> print(Draft(["Mine."], {"train": {"seed": 42}}, {"seed": "any number"}).text(), end="")
            # Mine.
            <BLANKLINE>
            ### train
            seed: 42  # any number
        """
        lines = [f"# {line}".rstrip() for line in self.head]
        for name, keys in self.sections.items():
            lines += ["", f"### {name}"]
            for key, value in keys.items():
                if key == "tasks":
                    lines += self._tasks(value)
                else:
                    lines += _line(f"{key}: {_scalar(value)}", self.notes.get(key))
        return "\n".join(lines) + "\n"

    def _tasks(self, tasks: Sequence[Mapping[str, Any]]) -> list[str]:
        lines = ["tasks:"]
        for number, task in enumerate(tasks):
            for place, (key, value) in enumerate(task.items()):
                start = "  " if place else "- "
                lines += _line(f"{start}{key}: {_scalar(value)}", self.notes.get(("tasks", number, key)))
        return lines


def _scalar(value: Any) -> str:
    """Write a value as YAML, on one line."""
    if isinstance(value, float):
        return yaml.safe_dump(value).splitlines()[0]
    if isinstance(value, str):
        plain = yaml.safe_dump(value, width=10**9, allow_unicode=True).splitlines()
        # what the writer would put on several lines is written in double quotes
        return plain[0] if plain[1:] in ([], ["..."]) else json.dumps(value)
    return json.dumps(value)


def _line(text: str, note: str | None) -> list[str]:
    """Put a note behind a line, or above it where the line would be too long."""
    if not note:
        return [text]
    if len(text) + len(note) + 4 <= _WIDTH:
        return [f"{text}  # {note}"]
    indent = " " * (len(text) - len(text.removeprefix("- ").lstrip()))
    cut = note if len(note) + len(indent) + 2 <= _WIDTH else note[: _WIDTH - len(indent) - 5] + "..."
    return [f"{indent}# {cut}", text]
