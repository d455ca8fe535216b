"""The table of the plugin's recipe keys, made from what declares them: `sefe keys`, and docs/keys.md."""

import json
from collections.abc import Iterator
from typing import Any

from sefe_plugin.evaluation.scorers import SCORERS
from sefe_plugin.methods import methods
from sefe_plugin.options import Scope, choices_of, option_info, option_types, own_options, type_words
from sefe_plugin.recipe.options import PluginKey, plugin_keys


#: Scope of a key -> where its value may differ, in words.
_SCOPES: dict[Scope, str] = {
    "task": "may differ per task",
    "sequence": "whole sequence",
    "computing": "may differ per task, may change in a continued run",
    "reporting": "whole sequence, may change in a continued run",
    "testing": "may differ per task; another value makes another test set",
    "filled_in": "filled in by the sequence",
}

_HEAD = ("key", "value", "default", "symbol", "scope", "what it does")


def key_table() -> str:
    """Return the recipe keys of the plugin and of its own methods as Markdown, a table for each section of a recipe.

    The keys of methods that other installed packages add are left out, so that the text is the same everywhere.
    """
    rows: dict[str, list[tuple[str, ...]]] = {}
    for name, key in plugin_keys().items():
        if key.method is None or _is_own(key.method):
            rows.setdefault(_title(key), []).append(_row(name, key))
    rows["Options of scorers"] = list(_scorer_rows())
    return "\n".join(f"### {title}\n\n{_table(entries)}" for title, entries in rows.items())


def _scorer_rows() -> Iterator[tuple[str, ...]]:
    """Yield the options of the plugin's own scorers, which stand in the mapping that `scorer` may be."""
    for scorer, own in SCORERS.items():
        types = option_types(type(own.options))
        for name, declared in own_options(type(own.options)).items():
            choices = ", ".join(f"`{choice}`" for choice in choices_of(types[name]))
            yield (
                f"`{scorer}: {name}`",
                choices or type_words(types[name]),
                _default(declared.default),
                "",
                "part of `scorer`",
                declared.metadata["help"],
            )


def _is_own(method: str) -> bool:
    package, _, _ = __name__.partition(".")
    return methods()[method].__module__.startswith(f"{package}.")


def _title(key: PluginKey) -> str:
    section = f"Section `{key.section}`"
    return section if key.method is None else f"{section}, with `cl_method: {key.method}`"


def _row(name: str, key: PluginKey) -> tuple[str, ...]:
    info = option_info(key.option)
    choices = ", ".join(f"`{choice}`" for choice in choices_of(key.type))
    return (
        f"`{name}`",
        choices or type_words(key.type),
        _default(key.option.default),
        info["symbol"] or "",
        _SCOPES[info["scope"]],
        key.option.metadata["help"],
    )


def _default(value: Any) -> str:
    """Write a default as a recipe would; nothing where the key is absent by default."""
    if value is None:
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _table(rows: list[tuple[str, ...]]) -> str:
    lines = [_HEAD, ("---",) * len(_HEAD), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
