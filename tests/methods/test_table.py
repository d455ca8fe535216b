"""The table of methods, and those that other packages bring."""

import re
from dataclasses import dataclass
from importlib import metadata

import pytest

from sefe_plugin import methods
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.methods.base import Method
from sefe_plugin.options import option, own_options
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe


@dataclass
class FineOptions:
    fine_weight: float = option(1.0, "A weight.")


class Fine(Method):
    Options = FineOptions


@dataclass
class OddOptions:
    lora_rank: int = option(1, "Of another.")


class Odd(Method):
    Options = OddOptions


class Prompt(Method):
    parametrisation = "prompt"


class Point:
    """An entry point of a package called "other"."""

    dist = None

    def __init__(self, name, what):
        self.name, self.what, self.value = name, what, "other"

    def load(self):
        if isinstance(self.what, Exception):
            raise self.what
        return self.what


@pytest.fixture
def brought(monkeypatch):
    """Make entry points the methods of another package."""

    def bring(**points):
        found = [Point(name, what) for name, what in points.items()]
        monkeypatch.setattr(metadata, "entry_points", lambda group: found if group == methods.GROUP else [])
        methods._found.cache_clear()

    yield bring
    methods._found.cache_clear()


def test_own_methods_name_their_options_after_themselves():
    for name, method in methods.methods().items():
        assert all(key.startswith(f"{name}_") for key in own_options(method.Options))


def test_a_method_of_another_package_joins_the_table(brought):
    brought(fine=Fine)
    assert methods.methods()["fine"] is Fine
    assert methods.unusable_methods() == {}


@pytest.mark.parametrize(
    ("name", "what", "reason"),
    [
        ("lora", Fine, "has the name of another"),
        ("gone", ImportError("no module"), r"cannot be loaded: ImportError\('no module'\)"),
        ("text", "no class", "must be a subclass"),
        ("prompt", Prompt, "a `parametrisation` of .*; got 'prompt'"),
        ("odd", Odd, "the names of its options must begin with 'odd_'"),
    ],
)
def test_a_broken_method_is_left_out_and_no_other_run_suffers(brought, name, what, reason):
    own = methods.methods()
    brought(**{name: what})
    assert methods.methods() == own
    assert re.search(reason, methods.unusable_methods()[name])
    if name not in own:
        with pytest.raises(RecipeError, match=f"`cl_method: {name}` cannot be used. The method .* {reason}"):
            load_recipe({"cl_method": name, "tasks": []}, "test.yaml", host_keys())
