"""Continual-learning methods, by the names that `cl_method` takes.

A package of its own adds one by an entry point of the group ``sefe_plugin.methods``::

    [project.entry-points."sefe_plugin.methods"]
    l2 = "my_package:L2"
"""

from functools import cache
from importlib import import_module

from sefe_plugin.methods.base import Method
from sefe_plugin.options import own_options


GROUP = "sefe_plugin.methods"

#: Name -> module and class. A method is its folder or file, and a line here.
_OWN = {
    "lora": "sefe_plugin.methods.lora:Lora",
    "full": "sefe_plugin.methods.full:Full",
    "reglora": "sefe_plugin.methods.reglora.method:RegLora",
}

DEFAULT = "lora"


class MethodError(ValueError):
    """A method of another package that cannot be used, with the reason."""


@cache
def methods() -> dict[str, type[Method]]:
    """Return all methods by name: the plugin's own, then those of installed packages.

    Raises:
        MethodError: If a package's method cannot be loaded, or takes a name or an option that is taken.
    """
    from importlib.metadata import entry_points

    found = {name: _load(place) for name, place in _OWN.items()}
    owners = {key: name for name, method in found.items() for key in own_options(method.Options)}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        where = f"the method {point.name!r} of {point.dist.name if point.dist else point.value}"
        if point.name in found:
            raise MethodError(f"{where} has the name of another. Uninstall one of them.")
        try:
            method = point.load()
        except (ImportError, AttributeError) as error:
            raise MethodError(f"{where} cannot be loaded: {error}. Mend or uninstall its package.") from error
        if not (isinstance(method, type) and issubclass(method, Method)):
            raise MethodError(f"{where} must be a subclass of sefe_plugin.methods.Method; got {method!r}.")
        for key in own_options(method.Options):
            if owners.setdefault(key, point.name) != point.name:
                raise MethodError(f"{where} has the option {key!r} of {owners[key]!r}. Rename it.")
        found[point.name] = method
    return found


def _load(place: str) -> type[Method]:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
