"""`~` at the beginning of a path in a recipe: the home folder, for the host and for the plugin."""

from collections.abc import Mapping
from typing import Any

from sefe_plugin.files import from_home
from sefe_plugin.recipe.keys import HostKeys
from sefe_plugin.recipe.options import PATH_KEYS


def with_home(arguments: Mapping[str, Any], host: HostKeys) -> dict[str, Any]:
    """Return the keys of a recipe with the home folder in the place of `~` where a key names a file or folder.

    Args:
        arguments: All its keys, not checked yet; those in the entries of `tasks` and `task_keys` count as well.
        host: The host's keys.
    """
    paths = {*PATH_KEYS, *host.paths}
    found = dict(arguments)
    for key, value in arguments.items():
        if key in paths and isinstance(value, str):
            found[key] = from_home(value)
    for key in ("tasks", "task_keys"):
        if isinstance(entries := found.get(key), list):
            found[key] = [with_home(entry, host) if isinstance(entry, dict) else entry for entry in entries]
    return found
