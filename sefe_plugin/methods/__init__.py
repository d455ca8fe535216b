"""Continual-learning methods, by the names that `cl_method` takes.

A package of its own adds one by an entry point of the group ``sefe_plugin.methods``::

    [project.entry-points."sefe_plugin.methods"]
    l2 = "my_package:L2"
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from sefe_plugin.methods.base import PARAMETRISATIONS, Method, words_of
from sefe_plugin.options import option_types


GROUP = "sefe_plugin.methods"

#: Name -> module and class. A method is its folder or file, and a line here.
_OWN = {
    "lora": "sefe_plugin.methods.lora:Lora",
    "full": "sefe_plugin.methods.full:Full",
    "ewc": "sefe_plugin.methods.ewc:Ewc",
    "fwd_prompt": "sefe_plugin.methods.fwd_prompt.method:FwdPrompt",
    "keeplora": "sefe_plugin.methods.keeplora.method:KeepLora",
    "lota": "sefe_plugin.methods.lota.method:Lota",
    "moelora": "sefe_plugin.methods.moelora.method:MoeLora",
    "olora": "sefe_plugin.methods.olora:OLora",
    "osf": "sefe_plugin.methods.osf:Osf",
    "reglora": "sefe_plugin.methods.reglora.method:RegLora",
}

DEFAULT = "lora"


def methods() -> dict[str, type[Method]]:
    """Return all methods that can be used, by name: the plugin's own, then those of installed packages."""
    return _found().usable


def unusable_methods() -> dict[str, str]:
    """Return why methods of other packages cannot be used, by name, one sentence each.

    They are an error only where a recipe names one: no other run need suffer from a broken package.
    """
    return _found().unusable


def looked_at(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the datasets that a method looks at beside those that it trains on, by the keys that name them.

    Args:
        arguments: Recipe keys and values, `cl_method` among them; what the first task has by its place is added.
    """
    method = methods().get(str(arguments.get("cl_method")), Method)
    if not method.datasets:
        return []
    named = {**arguments, **method.start(arguments, 0)}
    return [(key, name) for key in method.datasets for name in words_of(named.get(key))]


class _Found(NamedTuple):
    usable: dict[str, type[Method]]
    unusable: dict[str, str]


@cache
def _found() -> _Found:
    from importlib.metadata import entry_points

    found = _Found({name: _load(place) for name, place in _OWN.items()}, {})
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if reason := _take(point, found.usable):
            package = point.dist.name if point.dist else point.value
            found.unusable[point.name] = f"The method {point.name!r} of the package {package} {reason}"
    return found


def _take(point, usable: dict[str, type[Method]]) -> str | None:
    """Add a package's method to the usable ones, or return why it cannot be."""
    if point.name in usable:
        return "has the name of another. Uninstall one of them."
    try:
        method = point.load()
    except Exception as error:  # whatever another package does when it is imported
        return f"cannot be loaded: {error!r}. Mend or uninstall the package."
    if not (isinstance(method, type) and issubclass(method, Method)):
        return f"must be a subclass of sefe_plugin.methods.base.Method; got {method!r}."
    if method.parametrisation not in PARAMETRISATIONS or not method.carries:
        return f"must have `carries`, and a `parametrisation` of {PARAMETRISATIONS}; got {method.parametrisation!r}."
    try:
        options = option_types(method.Options)
    except (NameError, TypeError) as error:
        return f"must have a dataclass with annotations that can be read as `Options`: {error!r}."
    if odd := [key for key in options if not key.startswith(f"{point.name}_")]:
        return f"has the option {odd[0]!r}, but the names of its options must begin with '{point.name}_'. Rename it."
    usable[point.name] = method
    return None


def _load(place: str) -> type[Method]:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
