"""Whether the folder of an adapter, or of a model, can be read at all; told without PyTorch and without its weights.

Example: of a file that was cut short, ``1_charts/adapter_model.safetensors: damaged, or not a safetensors file``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sefe_plugin.files import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    MODEL_CONFIG_FILE,
    MODEL_WEIGHTS_FILES,
    read_json,
)
from sefe_plugin.words import shown


_LORA, _A, _B = "LORA", ".lora_A.weight", ".lora_B.weight"

_REMEDY = "Put the whole file back, or train that task again."


def read_adapter_config(folder: Path, peft_type: str = _LORA) -> dict[str, Any]:
    """Read the configuration of an adapter.

    Args:
        folder: The adapter's.
        peft_type: Its type, as PEFT names it.

    Raises:
        ValueError: If it is absent, no JSON, or of another type; names the file, and the key where one is at fault.
    """
    file = folder / ADAPTER_CONFIG_FILE
    config = _read_mapping(file)
    if config.get("peft_type") != peft_type:
        raise ValueError(f"{file}: `peft_type` must be {peft_type!r}; got {shown(config.get('peft_type'))}. {_REMEDY}")
    if not _has_factors(config):
        return config
    rules = {
        "r": ("a whole number above 0", lambda value: isinstance(value, int) and value > 0),
        "lora_alpha": ("a number", lambda value: isinstance(value, int | float)),
        "modules_to_save": ("a list of names, or null", lambda value: value is None or _is_words(value)),
    }
    for key, (rule, holds) in rules.items():
        if isinstance(config.get(key), bool) or not holds(config.get(key)):
            raise ValueError(f"{file}: `{key}` must be {rule}; got {shown(config.get(key))}. {_REMEDY}")
    return config


def check_adapter(folder: Path, peft_type: str = _LORA) -> dict[str, Any]:
    """Check that an adapter is whole and fits its own configuration, and return the configuration.

    Args:
        folder: The adapter's.
        peft_type: Its type, as PEFT names it. The factors A and B are looked at where it is a kind of LoRA.

    Raises:
        ValueError: If a file is absent, damaged or foreign; names it, and the matrix where one is at fault.
    """
    config, file = read_adapter_config(folder, peft_type), folder / ADAPTER_WEIGHTS_FILE
    shapes = tensor_shapes(file)
    if not _has_factors(config):
        return config
    factors = {name for name in shapes if name.endswith((_A, _B))}
    if not factors:
        raise ValueError(f"{file}: holds no factors of a LoRA. {_REMEDY}")
    for name in sorted(factors):
        other = f"{name.removesuffix(_A)}{_B}" if name.endswith(_A) else f"{name.removesuffix(_B)}{_A}"
        if other not in factors:
            raise ValueError(f"{file}: {name} stands without {other}. {_REMEDY}")
        rank = shapes[name][:1] if name.endswith(_A) else shapes[name][1:2]
        if rank != [config["r"]] and not config.get("rank_pattern"):
            raise ValueError(
                f"{file}: {name} has shape {tuple(shapes[name])}, but `r` in {ADAPTER_CONFIG_FILE} is {config['r']}. "
                "Take both files from one training."
            )
    return config


def check_carried(folder: Path, peft_type: str = _LORA) -> None:
    """Check that a saved model or adapter can be read, and that no file of its weights was cut short.

    Args:
        folder: The model's or adapter's.
        peft_type: The adapter's type.

    Raises:
        ValueError: Names the first file that is at fault.
    """
    if (folder / ADAPTER_CONFIG_FILE).exists() or not (folder / MODEL_CONFIG_FILE).exists():
        check_adapter(folder, peft_type)
        return
    _read_mapping(folder / MODEL_CONFIG_FILE)
    single, index = (folder / name for name in MODEL_WEIGHTS_FILES)
    if not index.exists():
        tensor_shapes(single)
        return
    parts = _read_mapping(index).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise ValueError(f"{index}: `weight_map` must name a file for each weight. {_REMEDY}")
    for part in sorted(set(parts.values())):
        tensor_shapes(folder / part)


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Return the shapes of the tensors of a safetensors file, from its head alone.

    Raises:
        ValueError: If it is absent, cut short, or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as archive:
            return {name: archive.get_slice(name).get_shape() for name in archive.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: absent, damaged, or not a safetensors file ({error}). {_REMEDY}") from error


def _has_factors(config: Mapping[str, Any]) -> bool:
    """Tell whether a configuration is that of LoRA, or of an adapter built on it."""
    return config["peft_type"] == _LORA or "lora_alpha" in config


def _read_mapping(file: Path) -> Mapping[str, Any]:
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: absent, or not valid JSON ({error}). {_REMEDY}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: must hold a mapping; got {shown(content)}. {_REMEDY}")
    return content


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
