"""The DeepSpeed configuration of a recipe, as far as it decides what else is possible."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sefe_plugin.files import parse_json, read_json


def read_deepspeed(arguments: Mapping[str, Any]) -> dict | None:
    """Return the DeepSpeed configuration that `deepspeed` holds, as a mapping or JSON text, or names; None without.

    Raises:
        OSError, ValueError: If it cannot be read.
    """
    value = arguments.get("deepspeed")
    if isinstance(value, str):
        value = parse_json(value) if value.lstrip().startswith("{") else read_json(Path(value))
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"it holds {value!r}")
    return value


def zero_section(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the section `zero_optimization` of a readable configuration; empty without DeepSpeed."""
    return (read_deepspeed(arguments) or {}).get("zero_optimization") or {}


def zero_stage(arguments: Mapping[str, Any]) -> int:
    """Return the ZeRO stage of a run whose DeepSpeed configuration can be read; 0 without DeepSpeed."""
    return zero_section(arguments).get("stage", 0)
