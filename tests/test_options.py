"""Options: what they hold, what their rules say, and how a wrong value is told."""

from dataclasses import dataclass
from typing import Literal, Optional

import pytest

from sefe_plugin.options import (
    choices_of,
    keys_of_scope,
    option,
    option_errors,
    option_info,
    option_types,
    own_options,
    plain_fault,
)


@dataclass
class Options:
    """One of every kind."""

    weight: float = option(0.5, "A weight.", symbol="w", rule="a number of at least 0", holds=lambda v: v >= 0)
    count: int = option(1, "A count.", scope="sequence")
    on: bool = option(False, "A switch.", scope="computing")
    name: str | None = option(None, "A name.", scope="sequence")
    way: Literal["left", "right"] = option("left", "A way.")
    other_way: Literal["up", "down"] | None = option(None, "Another way.")
    share: float | None = option(None, "A share.", rule="a share in (0, 1]", holds=lambda v: 0 < v <= 1)
    words: list[str] | None = option(None, "Words.", scope="filled_in")
    rows: list[dict] | None = option(None, "Rows.")
    foreign: int = 3


@dataclass
class More(Options):
    """Inherits."""

    further: int = option(2, "Further.")


ALL = ("weight", "count", "on", "name", "way", "other_way", "share", "words", "rows")


def test_only_options_are_options():
    assert tuple(own_options(Options)) == ALL
    assert tuple(own_options(More)) == (*ALL, "further")
    assert tuple(option_types(Options)) == ALL
    assert option_errors(Options, {"foreign": "x", "unknown": "y"}) == {}


def test_an_option_is_a_field_with_default_and_help():
    weight = own_options(Options)["weight"]
    assert (weight.default, weight.metadata["help"]) == (0.5, "A weight.")
    assert (option_info(weight)["symbol"], option_info(weight)["scope"]) == ("w", "task")
    assert (Options().weight, Options(weight=2.0).weight) == (0.5, 2.0)


def test_scopes():
    assert keys_of_scope(Options, "sequence") == ("count", "name")
    assert keys_of_scope(Options, "computing") == ("on",)
    assert keys_of_scope(Options, "filled_in") == ("words",)
    assert keys_of_scope(Options, "task") == ("weight", "way", "other_way", "share", "rows")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        vars(Options()),
        {"weight": 0},
        {"weight": 2.5},
        {"count": -3},
        {"on": True},
        {"name": "x"},
        {"way": "right"},
        {"other_way": "down"},
        {"share": 1},
        {"words": []},
        {"words": ["a", "b"]},
        {"words": "a, b"},
        {"rows": [{"a": 1}]},
        dict.fromkeys(("name", "other_way", "share", "words", "rows")),
    ],
)
def test_sound_values(arguments):
    assert option_errors(Options, arguments) == {}


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("weight", -1, "a number of at least 0"),
        ("weight", "0.5", "a number of at least 0"),
        ("weight", True, "a number of at least 0"),
        ("weight", float("nan"), "a number of at least 0"),
        ("weight", float("inf"), "a number of at least 0"),
        ("weight", None, "a number of at least 0"),
        ("count", 1.0, "a whole number"),
        ("count", True, "a whole number"),
        ("on", 1, "true or false"),
        ("on", "yes", "true or false"),
        ("on", None, "true or false"),
        ("name", ["x"], "text"),
        ("name", 1, "text"),
        ("way", "up", "one of ('left', 'right')"),
        ("way", ["left"], "one of ('left', 'right')"),
        ("way", None, "one of ('left', 'right')"),
        ("other_way", "left", "one of ('up', 'down')"),
        ("share", 0, "a share in (0, 1]"),
        ("share", [0.5], "a share in (0, 1]"),
        ("words", [1], "words, as a list or separated by commas"),
        ("words", {"a": 1}, "words, as a list or separated by commas"),
        ("rows", ["a"], "a list of mappings"),
        ("rows", {"a": 1}, "a list of mappings"),
    ],
)
def test_wrong_values_are_told_by_key_rule_and_value(key, value, rule):
    fault = plain_fault(value) or ""
    assert option_errors(Options, {key: value}) == {key: f"`{key}` must be {rule}; got {value!r}.{fault}"}


def test_all_errors_come_at_once_in_the_order_of_the_fields():
    errors = option_errors(More, {"further": "x", "way": "up", "weight": -1, "on": True})
    assert list(errors) == ["weight", "way", "further"]


def test_a_rule_is_asked_only_of_values_of_the_right_type():
    @dataclass
    class Strict:
        key: int | None = option(None, "A key.", rule="an even number", holds=lambda value: value % 2 == 0)

    assert option_errors(Strict, {"key": None}) == {}
    assert option_errors(Strict, {"key": "x"}) == {"key": "`key` must be an even number; got 'x'."}
    assert option_errors(Strict, {"key": 3}) == {"key": "`key` must be an even number; got 3."}


def test_choices():
    assert choices_of(Literal["a", "b"]) == ("a", "b")
    assert choices_of(Literal["a", "b"] | None) == ("a", "b")
    assert choices_of(Optional[Literal["a"]]) == ("a",)  # noqa: UP045 - it is another type than a union by |
    assert choices_of(str | None) == choices_of(list[str]) == choices_of(int) == ()
