"""What an option is: a recipe key with its type, default, rule and help, written once.

Example::

    @dataclass
    class Options:
        l2_weight: float = option(0.01, "The penalty's weight.", rule="a number of at least 0", holds=lambda v: v >= 0)

    option_errors(Options, {"l2_weight": -1})  # {"l2_weight": "`l2_weight` must be a number of at least 0; got -1."}

The host's arguments, `--help`, the check of recipes and the table of keys in the docs all come from such fields.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, field, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sefe_plugin.words import shown


#: What an option may hold: where tasks of a sequence may differ in it (task) or not (sequence), where even a continued
#: run may (computing: it says how something is computed, not what is learned; reporting: what the report compares the
#: whole sequence with, and what is kept of it), where another value makes another test set (testing), and where no
#: recipe sets it but the sequence does (filled_in).
Scope = Literal["task", "sequence", "computing", "reporting", "testing", "filled_in"]

_INFO = "option"

_INTEGERS = 2**63
_DEEPEST = 32

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list[str]: "words, as a list or separated by commas",
    list[dict]: "a list of mappings",
}


def option(
    default: Any,
    help: str,
    *,
    symbol: str | None = None,
    rule: str | None = None,
    holds: Callable[[Any], bool] = lambda value: True,
    scope: Scope = "task",
) -> Any:
    """Declare an option as a field of a dataclass.

    Its type is the field's annotation: `bool`, `int`, `float`, `str`, `Literal[...]`, `list[str]` or `list[dict]`,
    each also with `| None`.

    Args:
        default: Its value where a recipe does not name it.
        help: What it does, in whole sentences, with its range.
        symbol: The paper's name for it.
        rule: What a value must be, for messages: "`key` must be {rule}; got ...".
        holds: Whether a value of the right type follows the rule.
        scope: Who may set it, and where (`Scope`).
    """
    info = {"symbol": symbol, "rule": rule, "holds": holds, "scope": scope}
    return field(default=default, metadata={"help": help, _INFO: info})


def option_info(option: Field) -> Mapping[str, Any]:
    """Return "symbol", "rule", "holds" and "scope" of a field made by `option`."""
    return option.metadata[_INFO]


def own_options(options: type) -> dict[str, Field]:
    """Return the fields of a dataclass that `option` made, by name."""
    return {f.name: f for f in fields(options) if _INFO in f.metadata}


def keys_of_scope(options: type, scope: Scope) -> tuple[str, ...]:
    """Return the names of the options of one scope."""
    return tuple(name for name, f in own_options(options).items() if option_info(f)["scope"] == scope)


def option_types(options: type) -> dict[str, Any]:
    """Return the annotation of every option."""
    hints = get_type_hints(options)
    return {name: hints[name] for name in own_options(options)}


def option_errors(options: type, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Tell what is wrong with the values of options.

    Args:
        options: A dataclass whose fields `option` made.
        arguments: Recipe keys and values, others among them; an absent key has its default.

    Returns:
        Key -> one sentence: key, rule, value. Empty when all is well.
    """
    errors, types = {}, option_types(options)
    for name, declared in own_options(options).items():
        if name not in arguments:
            continue
        value, info = arguments[name], option_info(declared)
        fault = plain_fault(value)
        rule = _type_rule(types[name], value) or (type_words(types[name]) if fault else None)
        if rule is None and value is not None and not info["holds"](value):
            rule = info["rule"]
        if rule is not None:
            errors[name] = f"`{name}` must be {info['rule'] or rule}; got {shown(value)}.{fault or ''}"
    return errors


def plain_fault(value: Any, depth: int = 0) -> str | None:
    """Tell what keeps a value from being plain data, which every file of a run can hold.

    Plain data are null, true and false, whole numbers of 64 bits, finite numbers, texts that UTF-8 can hold, and
    lists and mappings of these, whose keys are texts.

    Returns:
        A sentence for the end of a message, with a blank before it; None where nothing does.

    Example:
        >>> plain_fault({"a": [1, "b"]}) is None, plain_fault([float("nan")])
        (True, ' It holds a number that is not finite.')
    """
    if depth > _DEEPEST:
        return f" It is nested more than {_DEEPEST} levels deep."
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if abs(value) < _INTEGERS else " It holds a whole number of more than 64 bits."
    if isinstance(value, float):
        return None if math.isfinite(value) else " It holds a number that is not finite."
    if isinstance(value, str):
        whole = "\0" not in value and value == value.encode(errors="ignore").decode()
        return None if whole else " It holds a text with a NUL or half of a surrogate pair, which no file can hold."
    if isinstance(value, list):
        return next((fault for item in value if (fault := plain_fault(item, depth + 1))), None)
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, str)]:
            return f" It holds the key {shown(odd[0])}, which is no text."
        parts = (part for entry in value.items() for part in entry)
        return next((fault for part in parts if (fault := plain_fault(part, depth + 1))), None)
    return f" It holds a value of the type {type(value).__name__}; write it in quotes."


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """Return the values of a `Literal`, also within a union; none for every other type."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    return tuple(choice for member in members for choice in choices_of(member))


def type_words(annotation: Any) -> str:
    """Return what a value of a type is, in words; None, which stands for an absent key, is left out.

    Example:
        >>> type_words(float | None), type_words(Literal["top", "random"])
        ('a number', "one of ('top', 'random')")
    """
    choices = choices_of(annotation)
    if choices:
        return f"one of {choices}"
    return " or ".join(_NAMES[member] for member in _members(annotation) if member is not NoneType)


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _type_rule(annotation: Any, value: Any) -> str | None:
    """Return what a value must be, or None where it is."""
    members = _members(annotation)
    if (value is None and NoneType in members) or any(_fits(member, value) for member in members):
        return None
    return type_words(annotation)


def _fits(member: Any, value: Any) -> bool:
    if get_origin(member) is Literal:
        return isinstance(value, str | int) and value in get_args(member)
    if member is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if member is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_origin(member) is list:
        (item,) = get_args(member)
        # as in the host, a list of words may be written as one text, separated by commas
        is_text = item is str and isinstance(value, str)
        return is_text or (isinstance(value, list) and all(_fits(item, entry) for entry in value))
    return isinstance(value, member)
