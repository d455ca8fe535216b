"""Whether an interpreter can score with vLLM: asked of itself, before the sequence starts."""

import json
import os
import subprocess

from packaging.version import InvalidVersion, Version

from sefe_plugin.recipe.load import Recipe


#: Package -> its oldest version that reads what a task leaves, and why older ones do not.
_OLDEST = {
    "transformers": ("5.0", "models of a sequence are saved in the form of transformers 5"),
    "vllm": ("0.19.1", "no older one allows the transformers 5.5 of a sequence"),
}
_OLDEST_PYTHON = (3, 11)

#: Seconds that an interpreter may take to say what it holds.
_PROBE_TIME = 120

#: Prints its version, and those of the modules that are there: null where no package is known to hold one.
_PROBE = """
import json, sys
found = {"python": sys.version_info[:2], "versions": {}}
if sys.version_info >= (3, 11):
    from importlib import metadata, util
    owners = metadata.packages_distributions()
    for module in ("transformers", "vllm"):
        if util.find_spec(module):
            owner = owners.get(module)
            found["versions"][module] = metadata.version(owner[0]) if owner else None
print("\\n" + json.dumps(found))
"""


def scoring_python_errors(recipe: Recipe) -> list[str]:
    """List why the interpreters that a checked recipe names cannot answer with vLLM, or are not asked to."""
    keys_of_tasks = [{**recipe.arguments, **task.overrides} for task in recipe.tasks]
    named = dict.fromkeys(keys["scoring_python"] for keys in keys_of_tasks if keys.get("scoring_python"))
    if named and all(keys.get("scoring_backend") != "vllm" for keys in keys_of_tasks):
        return ["`scoring_python` has no effect without `scoring_backend: vllm`. Set that, or remove the key."]
    return [f"`scoring_python`: {python} {fault}" for python in named for fault in interpreter_faults(python)]


def interpreter_faults(python: str) -> list[str]:
    """List what an interpreter lacks, as the ends of sentences that begin with its path.

    Args:
        python: path of a file that can be run.
    """
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    command = [python, "-c", _PROBE]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PROBE_TIME, env=environment
        )
        found = json.loads(said.stdout.splitlines()[-1])
        version, versions = tuple(map(int, found["python"])), dict(found["versions"])
    except (OSError, subprocess.TimeoutExpired, LookupError, TypeError, ValueError) as error:
        return [f"does not answer as a Python interpreter ({type(error).__name__}). Name one, with its environment."]
    if version < _OLDEST_PYTHON:
        oldest, has = (".".join(map(str, numbers)) for numbers in (_OLDEST_PYTHON, version))
        return [f"is Python {has}, and must be {oldest} or later. Make an environment with another."]
    if "vllm" not in versions:
        return [f"holds no vLLM. Install it there: {python} -m pip install vllm"]
    held = {package: str(versions[package]) for package in _OLDEST if versions.get(package)}
    return [
        f"holds {package} {held[package]}, and must hold {oldest} or later: {why}. Update it there."
        for package, (oldest, why) in _OLDEST.items()
        if package in held and _is_older(held[package], oldest)
    ]


def _is_older(found: str, oldest: str) -> bool:
    """Tell whether a version is not known to be late enough."""
    try:
        return Version(found) < Version(oldest)
    except InvalidVersion:
        return True
