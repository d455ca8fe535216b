"""The keys of a recipe and the types of their values, checked against the host's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sefe_plugin.recipe.options import plugin_keys
from sefe_plugin.words import near


#: Keys of earlier days, and what stands in their place.
RENAMED = {"use_reglora": "write `cl_method: reglora` for true, `cl_method: lora` for false"}


class HostKey(NamedTuple):
    """One key of the host.

    Attributes:
        section: section of a recipe it belongs to, such as "model" or "train".
        types: accepted type names, "names" for a list of words or one text of them, and ("literal", value) pairs;
            None when any value may be right.
    """

    section: str
    types: tuple | None


@dataclass(frozen=True)
class HostKeys:
    """What a sequence has to know of the host's recipe keys.

    Attributes:
        keys: Every key of the host.
        fixed: Key -> its one possible value in a sequence, and why.
        refused: Key that cannot be part of a sequence -> why.
        whole_sequence: Keys in which tasks cannot differ.
        computing: Keys that say how something is computed or shown, not what is learned: a continued run may differ.
        batch: Keys whose product alone says what is learned, with the host's defaults.
        parametrisations: What a method trains (`Method.parametrisation`) -> the keys that ask the host for it.
    """

    keys: Mapping[str, HostKey]
    fixed: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    whole_sequence: tuple[str, ...] = ()
    computing: tuple[str, ...] = ()
    batch: Mapping[str, int] = field(default_factory=dict)
    parametrisations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def key_errors(arguments: Mapping[str, Any], host_keys: Mapping[str, HostKey]) -> list[str]:
    """List the keys that neither the host nor the plugin has, and host keys with a value of a wrong type."""
    known = [*plugin_keys(), *host_keys]
    errors = []
    for key, value in arguments.items():
        if key in RENAMED:
            errors.append(f"`{key}` is gone: {RENAMED[key]}; got {value!r}.")
        elif key not in known:
            errors.append(
                f"`{key}` is not a key of LLaMA-Factory or of this plugin; got value {value!r}.{near(key, known)}"
            )
        elif key in host_keys:
            errors += _type_errors(key, value, host_keys[key].types)
    return errors


def _type_errors(key: str, value: Any, types: tuple | None) -> list[str]:
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
