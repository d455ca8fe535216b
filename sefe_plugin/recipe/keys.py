"""The keys of a recipe and the types of their values, checked against the host's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sefe_plugin.files import parse_json
from sefe_plugin.options import plain_fault
from sefe_plugin.recipe.options import TASK_KEYS, all_keys_of_scope, option_faults, plugin_keys
from sefe_plugin.recipe.secrets import shown_of
from sefe_plugin.words import meant, near, shown


#: Keys of earlier days, and what stands in their place.
RENAMED = {"use_reglora": "write `cl_method: reglora` for true, `cl_method: lora` for false"}


#: What some call a key of the plugin.
_OTHER_NAMES = {
    "asd": "asd_ratio",
    "max_eval_samples": "max_test_samples",
    "method": "cl_method",
    "replay": "replay_ratio",
    "test_samples": "max_test_samples",
}
#: And one of a task's own.
_OTHER_NAMES_IN_TASK = {
    "data": "dataset",
    "metric": "scorer",
    "test": "test_dataset",
    "test_data": "test_dataset",
    "test_set": "test_dataset",
    "train_data": "dataset",
    "train_dataset": "dataset",
}

#: How like a key a hint must be: what is less like is seldom what was meant.
_LIKENESS = 0.75

#: Most characters that a message shows of the value of a key that nobody knows: the hint behind it matters more.
_MOST_OF_UNKNOWN = 80

_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "names": "words, as a list or separated by commas",
    "list": "a list of words",
    "dict": "a mapping",
    "json": "a mapping in JSON as text",
}


class HostKey(NamedTuple):
    """One key of the host.

    Attributes:
        section: section of a recipe it belongs to, such as "model" or "train".
        types: accepted type names, and ("literal", text) pairs; "names" stands for a list of words or one text of
            them, "json" for a text that is a mapping in JSON. None when any value may be right.
    """

    section: str
    types: tuple | None


class Range(NamedTuple):
    """What the number of a key may be.

    Attributes:
        words: The rule, "at least 1", say.
        holds: Whether a number obeys it.
    """

    words: str
    holds: Callable[[float], bool]


@dataclass(frozen=True)
class HostKeys:
    """What a sequence has to know of the host's recipe keys.

    Attributes:
        keys: Every key of the host.
        fixed: Key -> its one possible value in a sequence, and why.
        refused: Key that cannot be part of a sequence -> why.
        other_trainings: Key that switches to a training that no method of this plugin extends -> its name.
        whole_sequence: Keys in which tasks cannot differ.
        computing: Keys that say how something is computed or shown, not what is learned: a continued run may differ.
        batch: Keys whose product alone says what is learned, with the host's defaults.
        secrets: Key that holds a secret -> what to do in place of it, a sentence without its end.
        own_files: Names of files that the host may have put into a run's folder before it starts.
        parametrisations: What a method trains (`Method.parametrisation`) -> the keys that ask the host for it.
        other_names: What others call a key -> the key.
        ranges: Key -> the numbers with which a training can begin and learn anything.
        paths: Keys that name a file or folder, or may.
    """

    keys: Mapping[str, HostKey]
    fixed: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    other_trainings: Mapping[str, str] = field(default_factory=dict)
    whole_sequence: tuple[str, ...] = ()
    computing: tuple[str, ...] = ()
    batch: Mapping[str, int] = field(default_factory=dict)
    parametrisations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    own_files: tuple[str, ...] = ()
    other_names: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)
    paths: tuple[str, ...] = ()


def key_faults(arguments: Mapping[str, Any], host: HostKeys, in_task: bool = False) -> dict[str, str]:
    """Tell which keys nobody may read a value of: unknown ones, and those whose value is of a wrong type or size.

    Args:
        arguments: Recipe keys and values.
        host: The host's keys.
        in_task: Whether they stand in an entry of `tasks`, beside its own keys.

    Returns:
        Key -> one sentence: key, rule, value, remedy.
    """
    options, host_keys = plugin_keys(), host.keys
    faults = option_faults(arguments)
    for key, value in arguments.items():
        if key in RENAMED:
            faults[key] = f"`{key}` is gone: {RENAMED[key]}; got {shown(value)}."
        elif key not in options and key not in host_keys:
            rule = "is not a key of LLaMA-Factory or of this plugin"
            got = shown_of(key, value, _MOST_OF_UNKNOWN)
            faults[key] = f"`{_word(key)}` {rule}; got value {got}.{_hint(key, host, in_task)}"
        elif key not in options and (remedy := _fault(value, host_keys[key].types)) is not None:
            rule = types_in_words(host_keys[key].types)
            faults[key] = f"`{key}` must be {rule}; got {shown_of(key, value)}.{remedy}"
        elif key in host.ranges and isinstance(value, int | float) and not host.ranges[key].holds(value):
            faults[key] = f"`{key}` must be {host.ranges[key].words}; got {shown(value)}."
    return {key: faults[key] for key in arguments if key in faults}


def without(arguments: Mapping[str, Any], faults: Mapping[str, str]) -> dict[str, Any]:
    """Return the keys without those of `key_faults`."""
    return {key: value for key, value in arguments.items() if key not in faults}


def types_in_words(types: tuple) -> str:
    """Return what a value of a key of the host must be, in words.

    Example:
        >>> types_in_words(("int", "None")), types_in_words((("literal", "bnb"), ("literal", "hqq")))
        ('a whole number', "one of ('bnb', 'hqq')")
    """
    literals = tuple(item[1] for item in types if isinstance(item, tuple))
    text_is_told = "names" in types or literals
    words = [_WORDS[item] for item in types if item in _WORDS and not (item == "str" and text_is_told)]
    return " or ".join([*words, *([f"one of {literals}"] if literals else [])]) or "left out"


def _hint(key: Any, host: HostKeys, in_task: bool) -> str:
    """Return the hint at the key that an unknown one stands for, or nothing."""
    if not in_task and key in TASK_KEYS:
        return " It stands in an entry of `tasks`."
    names = {**host.other_names, **_OTHER_NAMES, **(_OTHER_NAMES_IN_TASK if in_task else {})}
    if (name := names.get(str(key).casefold().replace("-", "_"))) is not None:
        return meant(name)
    never = {*all_keys_of_scope("filled_in"), *({} if in_task else host.refused)}
    known = [*plugin_keys(), *host.keys, *(TASK_KEYS if in_task else ())]
    return near(key, dict.fromkeys(one for one in known if one not in never), _LIKENESS)


def _word(key: Any) -> str:
    return key if isinstance(key, str) and len(key) <= 100 else shown(key)


def _fault(value: Any, types: tuple | None) -> str | None:
    """Return the remedy for a value of a wrong type, "" where there is none to tell; None for a value that fits."""
    if types is not None and not _fits(value, types):
        return _remedy(value, types)
    return plain_fault(value)


def _remedy(value: Any, types: tuple) -> str:
    literals = [item[1] for item in types if isinstance(item, tuple)]
    if isinstance(value, bool) and {"no", "off", "yes", "on"} & {*literals}:
        return " Put the word in quotes: without them YAML reads no, off, yes and on as false and true."
    if isinstance(value, bool | int | float) and "str" in types:
        return " Put it in quotes."
    if isinstance(value, str) and {"int", "float", "bool"} & {*types} and _is_plain(value):
        return " Write it without quotes: LLaMA-Factory does not read a number out of a text."
    return near(value, literals)


def _is_plain(text: str) -> bool:
    """Tell whether a text is a number, or true or false."""
    try:
        float(text)
    except ValueError:
        return text.casefold() in ("true", "false")
    return True


def _fits(value: Any, types: tuple) -> bool:
    """Tell whether a YAML value is what the host takes; it takes no number that is written as text."""
    if value is None:
        return "None" in types
    if isinstance(value, bool):
        return "bool" in types
    if isinstance(value, int | float):
        return "float" in types or (isinstance(value, int) and "int" in types)
    if isinstance(value, str):
        return "str" in types or ("literal", value) in types or ("json" in types and _is_json(value))
    if isinstance(value, list):
        return bool({"list", "names"} & {*types}) and all(isinstance(item, str) for item in value)
    return isinstance(value, dict) and "dict" in types


def _is_json(text: str) -> bool:
    """Tell whether a text is a mapping in JSON, as the host reads it."""
    try:
        return text.startswith("{") and isinstance(parse_json(text), dict)
    except ValueError:
        return False
