"""The prompts and task descriptions of ASD: text files that ship with the package and that users may edit."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from string import Template
from typing import Any

import yaml

from sefe_plugin.answers.styles import BRIEF, DETAILED, EXPLANATIONS, MULTIPLE_CHOICE, SHORT_ANSWER, YES_NO
from sefe_plugin.answers.texts import BOX
from sefe_plugin.asd.rules import other_styles


#: Kind of a task, which is a folder of prompts, by its own style where its description names none.
_KINDS = {
    YES_NO: "question",
    SHORT_ANSWER: "question",
    MULTIPLE_CHOICE: "choice",
    BOX: "region",
    BRIEF: "description",
    DETAILED: "description",
}
_KIND_NAMES = {
    "kind": "the name of a folder of prompts",
    "per_image": "true or false",
    "columns": "a mapping from names in the prompt to columns",
}
_CHOICES = {"boxes": ("image", "square", "pixels"), "replies": ("json", "plain")}


@dataclass(frozen=True)
class Task:
    """What the prompts have to know of a task.

    Attributes:
        native_style: Its own style; None has it recognised from the samples.
        kind: Folder of its prompts; None follows from the style.
        per_image: Whether one request asks about all samples of one image.
        boxes: What boxes are shares of, "image" or "square", the image padded to a square; or "pixels" of the image.
        columns: More columns of the data for a prompt's entries: name in the prompt -> column.
        replies: "json", or "plain" for a reply that is the text itself.

    Raises:
        ValueError: For values that do not exist.
    """

    native_style: str | None = None
    kind: str | None = None
    per_image: bool = False
    boxes: str = "image"
    columns: Mapping[str, str] = field(default_factory=dict)
    replies: str = "json"

    def __post_init__(self):
        for name, kind in {"kind": str | None, "per_image": bool, "columns": Mapping}.items():
            if not isinstance(vars(self)[name], kind):
                raise ValueError(f"`{name}` must be {_KIND_NAMES[name]}, got {vars(self)[name]!r}")
        if not all(isinstance(part, str) for pair in self.columns.items() for part in pair):
            raise ValueError(f"`columns` must be {_KIND_NAMES['columns']}, got {self.columns!r}")
        for name, known in _CHOICES.items():
            if vars(self)[name] not in known:
                raise ValueError(f"`{name}` must be one of {known}, got {vars(self)[name]!r}")
        if self.native_style is not None:
            other_styles(self.native_style)
        if self.replies == "plain" and self.per_image:
            raise ValueError("`replies: plain` holds one entry, so `per_image` must be false")

    def resolved(self, native_style: str) -> "Task":
        """Fill in what follows from the task's own style."""
        return replace(self, native_style=native_style, kind=self.kind or _KINDS[native_style])


def load_task(name: str | None, folder: Path) -> Task:
    """Load a task's description from `tasks.yaml`.

    Args:
        name: The task's name there; None describes nothing, so that all is recognised.
        folder: The folder of the prompts.

    Raises:
        ValueError: Where the task or a key is not known, or its keys are no mapping.
    """
    if name is None:
        return Task()
    file = folder / "tasks.yaml"
    try:
        tasks = yaml.safe_load(_text(file)) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file} must be valid YAML: {error}") from error
    if not isinstance(tasks, dict):
        raise ValueError(f"{file} must hold one line `NAME: {{...}}` for each task, got {str(tasks)[:200]!r}")
    if name not in tasks:
        raise ValueError(f"{file} describes no task {name!r}, only {', '.join(map(str, tasks))}; add a line for it")
    if not isinstance(tasks[name], dict):
        raise ValueError(
            f"{file}: task {name} needs its keys in braces, such as `{name}: {{native_style: short_answer}}`, or "
            f"`{name}: {{}}` to have all recognised; got {tasks[name]!r}"
        )
    known = [option.name for option in fields(Task)]
    if unknown := sorted(map(str, tasks[name].keys() - set(known))):
        raise ValueError(f"{file}: task {name} has unknown keys {unknown}; known are {known}")
    try:
        return Task(**tasks[name])
    except ValueError as error:
        raise ValueError(f"{file}: task {name}: {error}") from error


class Prompts:
    """The prompts for one kind of task, one for each style that a model writes.

    Args:
        folder: The folder of all prompts.
        task: The description, resolved.

    Raises:
        ValueError: Where the kind has no folder, a prompt has an unknown field, or a task of explanations lacks a
            prompt for one of the other styles, which no rule can write.
    """

    def __init__(self, folder: Path, task: Task):
        kind = folder / task.kind
        if not kind.is_dir():
            known = sorted(path.name for path in folder.iterdir() if path.is_dir())
            raise ValueError(f"there are no prompts for tasks of kind {task.kind!r} in {folder}, only for {known}")
        styles = other_styles(task.native_style)
        self._templates = {
            style: _load(kind / f"{style}.txt", {"items", "question", "answer"})
            for style in styles
            if (kind / f"{style}.txt").is_file()
        }
        missing = [style for style in styles if style not in self._templates]
        if missing and task.native_style in EXPLANATIONS:
            raise ValueError(f"{kind} needs a prompt, STYLE.txt, for each of {missing}: no rule shortens explanations")
        self._correction = _load(folder / "correction.txt", {"faults"})

    @property
    def styles(self) -> frozenset[str]:
        """The styles that have a prompt."""
        return frozenset(self._templates)

    def ask(self, style: str, values: Mapping[str, Any]) -> str:
        """Write a prompt; values are put in as they are and never read as fields themselves.

        Args:
            style: One of `styles`.
            values: `items`, the JSON list of all entries; `question` and `answer` of the first one.
        """
        return self._templates[style].substitute(values)

    def correct(self, faults: list[str]) -> str:
        """Ask for another reply, naming what is wrong."""
        return self._correction.substitute(faults="\n".join(faults))


def _load(file: Path, known: set[str]) -> Template:
    template = Template(_text(file).strip())
    if not template.is_valid() or not set(template.get_identifiers()) <= known:
        raise ValueError(
            f"{file}: the fields of this prompt are {sorted(f'${name}' for name in known)}, a dollar sign is $$; "
            f"found {sorted(template.get_identifiers())}"
        )
    return template


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be in UTF-8; byte {error.start} is not. Save it in UTF-8") from error
