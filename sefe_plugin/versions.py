"""The versions that results depend on: of Python, of this package and of those that train."""

import platform
from importlib.metadata import PackageNotFoundError, version


_PACKAGES = ("sefe-plugin", "llamafactory", "transformers", "peft", "torch")


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that train, and of Python, by their names; no package is imported.

    A package that is not installed is left out.
    """
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def in_words(versions: dict[str, str]) -> str:
    """Return versions as one line.

    Example:
        >>> in_words({"torch": "2.11.0", "python": "3.11.9"})
        'torch 2.11.0, python 3.11.9'
    """
    return ", ".join(f"{name} {number}" for name, number in versions.items())
