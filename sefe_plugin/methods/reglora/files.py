"""The file of one task's key elements: safetensors, one tensor of bytes (`codec`) per adapted matrix."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from sefe_plugin.files import ADAPTER_WEIGHTS_FILE, parse_json, replacing
from sefe_plugin.methods.reglora.codec import decode
from sefe_plugin.methods.reglora.head import FORMAT, REMEDY, VERSION, read_head
from sefe_plugin.methods.reglora.key_elements import key_count


#: Names of weights in a saved adapter: prefix, module, factor.
_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@dataclass
class KeyElements:
    """The key elements of one task.

    Attributes:
        file: Where they are kept.
        key_ratio: M, a share in (0, 1].
        shapes: Per matrix, by its module's path in the base model: (out_features, in_features).
        codes: Per matrix: the code of its key elements, uint8, 1-D.
        adapter_sha256: Fingerprint of the adapter they were found in.
        selection: How they were chosen, ``top`` or ``random``.
    """

    file: Path
    key_ratio: float
    shapes: dict[str, tuple[int, int]]
    codes: dict[str, torch.Tensor]
    adapter_sha256: str
    selection: str = "top"

    def check_fits(self, shapes: Mapping[str, tuple[int, int]], key_ratio: float, selection: str = "top") -> None:
        """Check that the key elements belong to a model with these adapted matrices, this M and this way of choice.

        Raises:
            ValueError: If they do not; names the file and the first matrix or value that differs.
        """
        if self.key_ratio != key_ratio:
            raise ValueError(
                f"{self.file}: found with reglora_key_ratio {self.key_ratio}, but the model's is {key_ratio}. Use one "
                "value for all tasks of a sequence."
            )
        if self.selection != selection:
            raise ValueError(
                f"{self.file}: chosen with reglora_selection {self.selection!r}, but the model's is {selection!r}. "
                "Use one value for all tasks of a sequence."
            )
        for name in sorted(self.shapes.keys() ^ shapes.keys()):
            where = "in the file but not in the model" if name in self.shapes else "in the model but not in the file"
            raise ValueError(
                f"{self.file}: matrix '{name}' is adapted {where}. Use the same base model and the same "
                "`target_modules` for all tasks of a sequence."
            )
        for name, shape in self.shapes.items():
            if shape != shapes[name]:
                raise ValueError(
                    f"{self.file}: matrix '{name}' has shape {shape} in the file and {shapes[name]} in the model. "
                    "Use the same base model for all tasks of a sequence."
                )


def write_key_elements(elements: KeyElements) -> None:
    """Write the key elements of one task to `elements.file`, whole or not at all; equal ones give equal bytes."""
    file = elements.file
    codes = {name: tensor.cpu().contiguous() for name, tensor in elements.codes.items()}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "key_ratio": repr(float(elements.key_ratio)),
        "selection": elements.selection,
        "shapes": json.dumps(elements.shapes),
        "count": str(sum(key_count(elements.key_ratio, *shape) for shape in elements.shapes.values())),
        "adapter_sha256": elements.adapter_sha256,
    }
    metadata["content_sha256"] = _digest(metadata, codes)
    with replacing(file) as draft:
        draft.write_bytes(_in_order(save(codes, metadata)))


def read_key_elements(file: str | Path) -> KeyElements:
    """Read and check the key elements of one task.

    Args:
        file: A file of `write_key_elements`.

    Returns:
        The key elements, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind or version, damaged, or inconsistent; names the file, the tensor
            where one is at fault, and what to do.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file of key elements. Train the earlier task first.")
    metadata = read_head(file)
    try:
        with safe_open(file, framework="pt") as archive:
            codes = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: damaged ({error}). {REMEDY}") from error
    whole = all(tensor.dtype == torch.uint8 for tensor in codes.values())
    if not whole or metadata.pop("content_sha256") != _digest(metadata, codes):
        raise ValueError(f"{file}: damaged (its content does not match its checksum). {REMEDY}")
    elements = KeyElements(
        file=file,
        key_ratio=float(metadata["key_ratio"]),
        shapes={name: tuple(shape) for name, shape in parse_json(metadata["shapes"]).items()},
        codes=codes,
        adapter_sha256=metadata["adapter_sha256"],
        selection=metadata["selection"],
    )
    _check_codes(elements, REMEDY)
    return elements


def add_to_fingerprint(digest: "hashlib._Hash", name: str, *factors: torch.Tensor) -> None:
    """Add the name and the factors A and B of a matrix, in their dtype, to the SHA-256 of an adapter.

    Matrices are added in the order of their names.
    """
    for factor in factors:
        digest.update(f"{name} {factor.dtype} {tuple(factor.shape)}\n".encode())
        digest.update(factor.detach().cpu().contiguous().view(torch.uint8).numpy())


def adapter_fingerprint(folder: Path) -> str:
    """Return the fingerprint of a saved adapter, as `add_to_fingerprint` makes it of one that is trained.

    Raises:
        ValueError: If its file is absent or damaged.
    """
    file = folder / ADAPTER_WEIGHTS_FILE
    try:
        factors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: absent, damaged, or not a safetensors file ({error}). {REMEDY}") from error
    names = sorted(key.removesuffix(_A) for key in factors if key.endswith(_A))
    digest = hashlib.sha256()
    for name in names:
        if name + _B not in factors:
            raise ValueError(f"{file}: {name}{_A} stands without its B. {REMEDY}")
        add_to_fingerprint(digest, name.removeprefix(_PREFIX), factors[name + _A], factors[name + _B])
    return digest.hexdigest()


def _in_order(content: bytes) -> bytes:
    """Put the head of a safetensors file in order; the library writes its metadata in a random one."""
    start = 8 + int.from_bytes(content[:8], "little")
    head = json.dumps(parse_json(content[8:start]), sort_keys=True, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # the tensors begin at a multiple of eight bytes
    return len(head).to_bytes(8, "little") + head + content[start:]


def _digest(metadata: Mapping[str, str], codes: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(codes):
        digest.update(f"{name} {codes[name].dtype} {tuple(codes[name].shape)}\n".encode())
        digest.update(codes[name].numpy())
    return digest.hexdigest()


def _check_codes(elements: KeyElements, remedy: str) -> None:
    """Check that every matrix has exactly its number of positions, all inside it."""
    if elements.codes.keys() != elements.shapes.keys():
        odd = sorted(elements.codes.keys() ^ elements.shapes.keys())[0]
        raise ValueError(f"{elements.file}: tensor '{odd}' stands without its shape or its codes. {remedy}")
    for name, codes in elements.codes.items():
        rows, cols = elements.shapes[name]
        try:
            count = len(decode(codes, rows * cols))
        except ValueError as error:
            raise ValueError(f"{elements.file}: tensor '{name}': {error}. {remedy}") from error
        if count != key_count(elements.key_ratio, rows, cols):
            raise ValueError(
                f"{elements.file}: tensor '{name}' holds {count} positions; a ({rows}, {cols}) matrix at "
                f"reglora_key_ratio {elements.key_ratio} has {key_count(elements.key_ratio, rows, cols)}. {remedy}"
            )
