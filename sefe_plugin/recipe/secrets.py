"""Secrets in a recipe: a sequence writes its keys into the run folder, so it takes no secret among them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sefe_plugin.words import shown


#: Names of keys that hold secrets, at whatever depth.
_NAMES = re.compile(r"(?:^|[_-])(?:token|api_?key|access_?key|secret|password|passwd|webhook_url)$", re.IGNORECASE)

_ELSEWHERE = "Put it where the program that needs it looks for it outside of recipes"


def is_secret(key: str) -> bool:
    """Tell whether a key's name says that its value is a secret.

    Example:
        >>> is_secret("hf_hub_token"), is_secret("max_new_tokens")
        (True, False)
    """
    return bool(_NAMES.search(key))


def shown_of(key: Any, value: Any, *most: int) -> str:
    """Return the value of a key for a message; one of a secret is not told.

    Args:
        key: The key.
        value: Its value.
        *most: As in `words.shown`.
    """
    return "a value that is not shown" if isinstance(key, str) and is_secret(key) else shown(value, *most)


def secret_errors(arguments: Mapping[str, Any], places: Mapping[str, str]) -> list[str]:
    """List the secrets among the keys of a sequence, one sentence each, without their values.

    Args:
        arguments: Keys and values, mappings among them.
        places: Key -> what to do instead, for those that are known.
    """
    return [
        f"`{path}` is a secret, and a sequence writes its keys into `output_dir`. Remove it. "
        f"{places.get(path, _ELSEWHERE)}."
        for path, key, value in _leaves(arguments)
        if is_secret(key) and value
    ]


def _leaves(value: Any, path: str = "", key: str = "") -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name), str(name))
    elif isinstance(value, list) and not is_secret(key):
        for inner in value:
            yield from _leaves(inner, path, key)
    else:
        yield path, key, value
