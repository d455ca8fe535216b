"""The file that a task leaves for later ones: safetensors with its kind and a checksum of its content.

Example: a method leaves masks. `write_left(tensors, file, "sefe_plugin.mask", shapes="...")` writes them, and
`read_left(file, "sefe_plugin.mask")` returns the tensors and ``{"shapes": "..."}``, or says what is wrong with it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sefe_plugin.files import replacing


_VERSION = "1"
_REMEDY = "Make it anew by training that task again."


def write_left(tensors: Mapping[str, torch.Tensor], file: Path, kind: str, **metadata: str) -> None:
    """Write tensors, whole or not at all.

    Args:
        tensors: By name; any device.
        file: Where to.
        kind: What the file is, for `read_left`.
        **metadata: Kept beside the tensors.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    head = {**metadata, "format": kind, "version": _VERSION}
    with replacing(file) as draft:
        save_file(tensors, draft, {**head, "content_sha256": _digest(head, tensors)})


def read_left(file: str | Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read and check a file of `write_left`.

    Returns:
        The tensors, on the CPU, and the metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or of another kind.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file. Train the earlier task first.")
    try:
        with safe_open(file, framework="pt") as archive:
            head = archive.metadata() or {}
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: damaged, or not a safetensors file ({error}). {_REMEDY}") from error
    if (head.get("format"), head.get("version")) != (kind, _VERSION):
        raise ValueError(
            f"{file}: it is {head.get('format')!r} of version {head.get('version')!r}, not {kind!r} of version "
            f"{_VERSION!r}. {_REMEDY}"
        )
    if head.pop("content_sha256", None) != _digest(head, tensors):
        raise ValueError(f"{file}: damaged (its content does not match its checksum). {_REMEDY}")
    return tensors, {key: value for key, value in head.items() if key not in ("format", "version")}


def _digest(head: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].numpy())
    return digest.hexdigest()
