"""The head of a file of key elements: what it says of itself, read without PyTorch and without its tensors."""

from collections.abc import Mapping
from pathlib import Path


FORMAT = "sefe_plugin.key_elements"
VERSION = "3"
FIELDS = {"format", "version", "key_ratio", "selection", "shapes", "count", "adapter_sha256", "content_sha256"}
REMEDY = "Make it anew by training that task again."


def read_head(file: Path) -> dict[str, str]:
    """Read what a file of key elements says of itself.

    Raises:
        ValueError: If the file is damaged, or of another kind or version; names it and says what to do.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as archive:
            head = archive.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: damaged, or not a safetensors file ({error}). {REMEDY}") from error
    if head.get("format") != FORMAT:
        raise ValueError(f"{file}: not a file of key elements (its format is {head.get('format')!r}).")
    if head.get("version") != VERSION:
        raise ValueError(
            f"{file}: version {head.get('version')!r} of the format; this release reads version {VERSION!r}. "
            "Install the release that wrote it, or train that task again."
        )
    if head.keys() != FIELDS:
        raise ValueError(f"{file}: damaged (its head lacks or has too many fields). {REMEDY}")
    return head


def head_errors(heads: Mapping[Path, Mapping[str, str]], key_ratio: float, selection: str) -> list[str]:
    """List what in the heads of several files fits neither the options nor the first of the files."""
    errors = []
    for file, head in heads.items():
        first, model = next(iter(heads.items()))
        if head["key_ratio"] != repr(float(key_ratio)):
            errors.append(f"{file}: found with `reglora_key_ratio: {head['key_ratio']}`; got {key_ratio}.")
        if head["selection"] != selection:
            errors.append(f"{file}: chosen with `reglora_selection: {head['selection']}`; got {selection!r}.")
        if head["shapes"] != model["shapes"]:
            errors.append(f"{file}: its matrices are not those of {first}. Use files of one model and its targets.")
    return errors
