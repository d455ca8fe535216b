"""Whether a base model was quantized before any training, read from its own configuration, without PyTorch.

Example: the `config.json` of a GPTQ model holds ``"quantization_config": {"quant_method": "gptq", "bits": 4, ...}``.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sefe_plugin.files import MODEL_CONFIG_FILE, is_file, read_json


#: Names under which a configuration says how the weights are quantized; the second is an older one.
_SECTIONS = ("quantization_config", "compression_config")


def quantization_of(arguments: Mapping[str, Any], fetch: bool = False) -> str | None:
    """Return how a recipe's base is quantized.

    Args:
        arguments: Its keys.
        fetch: Whether to download the configuration, some kilobytes, of a model of the Hugging Face Hub that is not in
            the local cache.

    Returns:
        The name of the way, such as "gptq"; None if the base is not quantized, or its configuration cannot be read.
    """
    model = arguments.get("model_name_or_path")
    file = _config_file(model, arguments, fetch) if isinstance(model, str) and model else None
    try:
        return quantization_in(read_json(file)) if file else None
    except (OSError, ValueError):
        return None  # the host says what is wrong with it


def quantization_in(config: Any) -> str | None:
    """Return how the weights of a model's configuration are quantized, or one of its parts; None if they are not."""
    for part in _parts(config):
        for name in _SECTIONS:
            if section := part.get(name):
                return str(section.get("quant_method") or "some way") if isinstance(section, dict) else "some way"
    return None


def merge_errors(arguments: Mapping[str, Any], key: str, remedy: str) -> list[str]:
    """Refuse to merge into a quantized base, or to train it.

    Args:
        arguments: The recipe's keys.
        key: The key and value that asks for it.
        remedy: What to do instead, a sentence.
    """
    quantization = quantization_of(arguments)
    return [quantized_error(arguments["model_name_or_path"], quantization, key, remedy)] if quantization else []


def quantized_error(model: str, quantization: str, key: str, remedy: str) -> str:
    """Return the sentence that says why a quantized base cannot be used with a key."""
    return f"`{key}` needs a base in full precision; {model!r} is quantized ({quantization}). {remedy}"


def _parts(config: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(config, dict):
        yield config
        yield from (part for part in config.values() if isinstance(part, dict))


def _config_file(model: str, arguments: Mapping[str, Any], fetch: bool) -> Path | None:
    file = Path(model).expanduser() / MODEL_CONFIG_FILE
    if is_file(file):
        return file
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        return None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    place = {"cache_dir": arguments.get("cache_dir"), "revision": arguments.get("model_revision")}
    try:
        found = try_to_load_from_cache(model, MODEL_CONFIG_FILE, **place)
        if isinstance(found, str):
            return Path(found)
        return Path(hf_hub_download(model, MODEL_CONFIG_FILE, **place)) if fetch else None
    except (OSError, ValueError, HfHubHTTPError, HFValidationError):
        return None  # the host says what is wrong with the name or the connection
