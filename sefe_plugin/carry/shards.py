"""A model on disk with a LoRA added to it, written part by part: it takes the memory of a part, not of the model.

Example: of a base in three files of 5 GB and an adapter of its language model, what no matrix of the adapter touches
goes to files of its own. After the next task these are the same, and may be links to those of the task before.
"""

import json
import math
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sefe_plugin.carry.adapter_files import check_adapter
from sefe_plugin.files import ADAPTER_WEIGHTS_FILE, MODEL_WEIGHTS_FILES


#: Bytes of the tensors of one file, at most, unless a single tensor is larger.
FILE_BYTES = 10**9

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"

#: What PEFT's configuration of an adapter may not hold, if the adapter is to be W + scale * B A and nothing else.
_MORE_THAN_FACTORS = (
    "use_dora",
    "use_qalora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "fan_in_fan_out",
    "lora_bias",
    "alora_invocation_tokens",
    "arrow_config",
    "megatron_config",
)


class NotPlainError(ValueError):
    """An adapter, or a model on disk, is not of the kind that can be merged part by part; says why."""


@dataclass(frozen=True)
class SavedTensor:
    """A tensor in a file of safetensors.

    Attributes:
        file: The file.
        name: The tensor's name there.
        shape: Its shape.
        dtype: Its type, as safetensors names it: ``BF16``.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class LowRankChange:
    """What a LoRA adds to weights.

    Attributes:
        file: The adapter's weights.
        scale: What B A is multiplied by.
        weights: Names of the weights that it changes, as the model names them, with the shapes (out_features,
            in_features) of B A.
    """

    file: Path
    scale: float
    weights: Mapping[str, tuple[int, int]]


def saved_tensors(files: Iterable[Path]) -> dict[str, SavedTensor]:
    """Return all tensors of some files, by their names there; nothing but the heads of the files is read.

    Raises:
        NotPlainError: If a file is no whole file of safetensors, or two hold a tensor of one name.
    """
    found: dict[str, SavedTensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as archive:
                for name in archive.keys():  # noqa: SIM118 - an archive is no mapping
                    if name in found:
                        raise NotPlainError(f"{name} stands in two files, {found[name].file} and {file}")
                    part = archive.get_slice(name)
                    found[name] = SavedTensor(file, name, tuple(part.get_shape()), part.get_dtype())
        except (OSError, SafetensorError) as error:
            raise NotPlainError(f"{file} cannot be read as safetensors: {error}") from error
    return found


def plain_change(adapter: Path) -> LowRankChange:
    """Return what an adapter adds, if it is B A on matrices and nothing else.

    Args:
        adapter: The folder of a PEFT adapter.

    Raises:
        NotPlainError: If it is more than that, or its files are damaged.
    """
    try:
        config = check_adapter(adapter)
    except ValueError as error:
        raise NotPlainError(str(error)) from error
    if more := [key for key in _MORE_THAN_FACTORS if config.get(key)]:
        raise NotPlainError(f"the adapter has `{more[0]}`")
    if config.get("bias", "none") != "none":
        raise NotPlainError("the adapter trains biases")
    if not isinstance(config.get("init_lora_weights", True), bool):  # some change the base when they are loaded
        raise NotPlainError(f"the adapter has `init_lora_weights: {config['init_lora_weights']}`")
    file = adapter / ADAPTER_WEIGHTS_FILE
    tensors = saved_tensors([file])
    weights = {}
    for name, tensor in tensors.items():
        if not name.startswith(_PREFIX) or not name.endswith((_A, _B)) or len(tensor.shape) != 2:
            raise NotPlainError(f"the adapter holds {name}, which is no factor of a matrix")
        if name.endswith(_A):
            module = name.removesuffix(_A)
            weights[f"{module.removeprefix(_PREFIX)}.weight"] = (tensors[module + _B].shape[0], tensor.shape[1])
    rank = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
    return LowRankChange(file, config["lora_alpha"] / rank, weights)


def plan_files(sizes: Mapping[str, int], changed: Collection[str], limit: int) -> list[list[str]]:
    """Return which tensors go into one file together: all where they fit, else the changed ones apart from the others.

    Args:
        sizes: Bytes of each tensor, in the order in which they are to stand.
        changed: Names of those that change from task to task.
        limit: Bytes of a file, at most; a larger tensor has a file of its own.

    Example:
        >>> plan_files({"eye": 2, "q": 3, "k": 3, "head": 2}, {"q", "k"}, limit=5)
        [['eye', 'head'], ['q'], ['k']]
        >>> plan_files({"eye": 2, "q": 3, "k": 3, "head": 2}, {"q", "k"}, limit=10)
        [['eye', 'q', 'k', 'head']]
    """
    if sum(sizes.values()) <= limit:
        return [list(sizes)]
    files: list[list[str]] = []
    for part in ([n for n in sizes if n not in changed], [n for n in sizes if n in changed]):
        held = limit + 1  # each part begins with a file of its own
        for name in part:
            if held + sizes[name] > limit:
                files.append([])
                held = 0
            files[-1].append(name)
            held += sizes[name]
    return files


@torch.no_grad()
def write_merged(
    folder: Path,
    tensors: Mapping[str, SavedTensor],
    change: LowRankChange,
    dtype: torch.dtype,
    parameters: int,
    link: bool = False,
) -> None:
    """Write the weights of a model to which an adapter is added: bit by bit what PEFT's ``merge_and_unload`` gives.

    W + scale * (B A) is formed in fp32 and rounded to the type of W, as PEFT does on a CPU; what has another type than
    `dtype` is then cast. One matrix is formed at a time, and one file is held at a time.

    Args:
        folder: Where to; it is there, and is to become the model's folder.
        tensors: The model's weights on disk, by the names that the written ones are to have.
        change: What the adapter adds; all its weights are among `tensors`, in the same shapes.
        dtype: Of the written weights.
        parameters: Number of the model's parameters, for the index of several files.
        link: Whether a file with the very tensors of a file to write may be linked in its place. Only for files that
            nobody ever writes in place; where the file system cannot link, they are copied.
    """
    sizes = {name: math.prod(tensor.shape) * _itemsize(tensor, dtype) for name, tensor in tensors.items()}
    files = plan_files(sizes, change.weights, FILE_BYTES)
    single, index = MODEL_WEIGHTS_FILES
    stem = single.removesuffix(".safetensors")
    several = [f"{stem}-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    names = several if len(files) > 1 else [single]
    held = _names_by_file(tensors.values())
    for file, part in zip(names, files, strict=True):
        source = tensors[part[0]].file
        is_same = held[source] == set(part) and all(
            tensors[name].file == source and tensors[name].name == name and name not in change.weights for name in part
        )
        if link and is_same and all(_is_type(tensors[name], dtype) for name in part):
            _link(source, folder / file)
        else:
            _write_file(folder / file, {name: tensors[name] for name in part}, change, dtype)
    if len(files) > 1:
        total = {"total_parameters": parameters, "total_size": sum(sizes.values())}
        weight_map = {name: file for file, part in zip(names, files, strict=True) for name in part}
        content = json.dumps({"metadata": total, "weight_map": weight_map}, indent=2, sort_keys=True)
        (folder / index).write_text(content + "\n", encoding="utf-8")


def _names_by_file(tensors: Iterable[SavedTensor]) -> dict[Path, set[str]]:
    """Return the names of all tensors of each file, those that are not asked for among them."""
    return {file: set(saved_tensors([file])) for file in {tensor.file for tensor in tensors}}


def _write_file(file: Path, part: Mapping[str, SavedTensor], change: LowRankChange, dtype: torch.dtype) -> None:
    merged: dict[str, torch.Tensor] = {}
    sources = sorted({tensor.file for tensor in part.values()})
    with safe_open(change.file, framework="pt") as factors:
        for source in sources:
            # a file is mapped as long as it is open; what was taken from it and not changed stays mapped, and is not
            # held in memory
            with safe_open(source, framework="pt") as archive:
                for name, tensor in part.items():
                    if tensor.file == source:
                        weight = archive.get_tensor(tensor.name)
                        if name in change.weights:
                            weight = _add(weight, factors, name, change.scale)
                        merged[name] = weight.to(dtype) if weight.is_floating_point() else weight
    save_file({name: merged[name] for name in part}, file, metadata={"format": "pt"})


def _add(weight: torch.Tensor, factors: safe_open, name: str, scale: float) -> torch.Tensor:
    module = _PREFIX + name.removesuffix(".weight")
    change = (factors.get_tensor(module + _B).float() @ factors.get_tensor(module + _A).float()) * scale
    return weight.clone().add_(change)


def _link(source: Path, file: Path) -> None:
    try:
        os.link(source.resolve(), file)
    except OSError:  # another file system, one without links, or too many links to one file
        shutil.copyfile(source, file)


_TYPES: Sequence[tuple[str, torch.dtype]] = (
    ("F64", torch.float64),
    ("F32", torch.float32),
    ("F16", torch.float16),
    ("BF16", torch.bfloat16),
)


def type_of(tensor: SavedTensor) -> torch.dtype | None:
    """Return the floating-point type of a tensor on disk; None if it is of another kind."""
    return dict(_TYPES).get(tensor.dtype)


def _is_type(tensor: SavedTensor, dtype: torch.dtype) -> bool:
    return type_of(tensor) in (dtype, None)


def _itemsize(tensor: SavedTensor, dtype: torch.dtype) -> int:
    if type_of(tensor) is not None:
        return dtype.itemsize
    bits = "".join(filter(str.isdigit, tensor.dtype))  # I64, U8; BOOL takes a byte
    return int(bits or 8) // 8
