"""What holds for every run of the plugin, in a sequence or not: keys of methods, values, DeepSpeed's file."""

from collections.abc import Mapping
from typing import Any

from sefe_plugin.carry import CARRIES
from sefe_plugin.methods import methods, unusable_methods
from sefe_plugin.recipe.combinations import key_value_errors
from sefe_plugin.recipe.keys import HostKeys
from sefe_plugin.recipe.options import plugin_keys
from sefe_plugin.words import near, shown
from sefe_plugin.zero import read_deepspeed


def name_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List why `cl_method` names no method that can be used."""
    name = arguments.get("cl_method")
    if name is None or (isinstance(name, str) and name in methods()):
        return []
    if isinstance(name, str) and name in unusable_methods():
        return [f"`cl_method: {name}` cannot be used. {unusable_methods()[name]}"]
    return [f"`cl_method` must be one of {tuple(methods())}; got {shown(name)}.{near(name, methods())}"]


def other_methods_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List options of methods that are not the one that trains: they would have no effect."""
    name = arguments.get("cl_method")
    otherwise = f"with `cl_method: {name}`" if name else "without it"
    return [
        f"`{key}` belongs to `cl_method: {owner}` and has no effect {otherwise}. Remove it; got {shown(value)}."
        for key, value in arguments.items()
        if key in plugin_keys() and (owner := plugin_keys()[key].method) not in (None, name)
    ]


def other_training_errors(arguments: Mapping[str, Any], host: HostKeys) -> list[str]:
    """List the host's keys under which no method of the plugin would act."""
    return [
        f"`{key}` switches to {training}, which this plugin does not extend. Remove it; got {arguments[key]!r}."
        for key, training in host.other_trainings.items()
        if arguments.get(key)
    ]


def value_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List what is wrong with the plugin's keys, and with the host's beside them."""
    if errors := _deepspeed_errors(arguments):
        arguments = {key: value for key, value in arguments.items() if key != "deepspeed"}
    carry = CARRIES.get(str(arguments.get("carry")))
    return errors + key_value_errors(arguments) + (carry.errors(arguments) if carry else [])


def _deepspeed_errors(arguments: Mapping[str, Any]) -> list[str]:
    try:
        config = read_deepspeed(arguments) or {}
    except (OSError, ValueError) as error:
        return [f"`deepspeed` must be a DeepSpeed configuration or a JSON file with one; {error}."]
    sections = {name: config.get(name) for name in ("zero_optimization", "bf16", "fp16", "optimizer")}
    if isinstance(sections["optimizer"], dict):
        sections["params"] = sections["optimizer"].get("params")
    if odd := {name: value for name, value in sections.items() if not isinstance(value or {}, dict)}:
        return [f"`deepspeed`: `{name}` must be a mapping; got {shown(value)}." for name, value in odd.items()]
    if config.get("optimizer") and arguments.get("projector_learning_rate") is not None:
        return [
            "`projector_learning_rate` needs the Trainer's optimizer, but the configuration of `deepspeed` brings its "
            "own. Remove its section `optimizer`."
        ]
    return []
