"""The keys of a recipe and the types of their values, checked against the host's."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from sefe_plugin.options import PLUGIN_KEYS


class HostKey(NamedTuple):
    """One key of the host.

    Attributes:
        section: section of a recipe it belongs to, such as "model" or "train".
        types: accepted type names, "names" for a list of words or one text of them, and ("literal", value) pairs;
            None when any value may be right.
    """

    section: str
    types: tuple | None


def key_faults(arguments: Mapping[str, Any], host_keys: Mapping[str, HostKey]) -> list[str]:
    """Lists the keys that neither the host nor the plugin has, and host keys with a value of a wrong type."""
    known = [*PLUGIN_KEYS, *host_keys]
    faults = []
    for key, value in arguments.items():
        if key not in known:
            faults.append(
                f"`{key}` is not a key of LLaMA-Factory or of this plugin; got value {value!r}.{near(key, known)}"
            )
        elif key in host_keys:
            faults += _type_faults(key, value, host_keys[key].types)
    return faults


def _type_faults(key: str, value: Any, types: tuple | None) -> list[str]:
    if types is None or _matches(value, types):
        return []
    literals = [item[1] for item in types if isinstance(item, tuple)]
    names = [item for item in types if isinstance(item, str) and item not in ("None", "names")]
    rule = " or ".join([*names, *(f"one of {tuple(literals)}" for _ in literals[:1])])
    return [f"`{key}` must be {rule}; got {value!r}.{near(value, literals) if literals else ''}"]


def _matches(value: Any, types: tuple) -> bool:
    """Whether a YAML value fits, with the leniency of the host: numbers may be written as text, as in 1e-4."""
    if value is None:
        return "None" in types
    if isinstance(value, list) and "names" in types:
        return all(isinstance(item, str) for item in value)
    if ("literal", value) in types or "str" in types:
        return not isinstance(value, dict | list) or type(value).__name__ in types
    if isinstance(value, str) and ("int" in types or "float" in types):
        try:
            number = float(value)
        except ValueError:
            return "dict" in types
        return "float" in types or number.is_integer()
    if isinstance(value, bool):
        return "bool" in types
    if isinstance(value, int):
        return "int" in types or "float" in types
    if isinstance(value, str):
        return "dict" in types or "list" in types
    return type(value).__name__ in types


def near(word: Any, known) -> str:
    """Returns the hint at the known word that is most like `word`, or nothing."""
    matches = get_close_matches(str(word), list(known), n=1)
    return f" Did you mean `{matches[0]}`?" if matches else ""
