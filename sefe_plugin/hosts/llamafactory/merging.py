"""A task's adapter merged into its base by the host's export, part by part from disk instead of in memory.

The host's export loads a model, adapter merged in, and lets it save itself. Here it is given the same model without
weights, which saves itself by reading the base and the adapter from disk. Where that would not be the same, bit by
bit, the host loads the model as ever.
"""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from llamafactory.model.loader import _get_init_kwargs
from llamafactory.model.patcher import patch_model
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.modeling_utils import remove_tied_weights_from_state_dict
from transformers.utils.hub import cached_file

from sefe_plugin.carry.quantized import quantization_in
from sefe_plugin.carry.shards import (
    LowRankChange,
    NotPlainError,
    SavedTensor,
    plain_change,
    saved_tensors,
    type_of,
    write_merged,
)
from sefe_plugin.carry.ways import Merge
from sefe_plugin.files import MODEL_WEIGHTS_FILES
from sefe_plugin.hosts.llamafactory.weight_names import reads_own_names
from sefe_plugin.methods import methods


logger = logging.getLogger(__name__)

#: Arguments of the host that change a model while it is loaded.
_CHANGES_MODEL = (
    "use_unsloth",
    "mixture_of_depths",
    "resize_vocab",
    "export_quantization_bit",
    "quantization_bit",
    "train_from_scratch",
    "export_legacy_format",
    "export_hub_model_id",
)


def load_to_export(host_load: Callable, tokenizer, model_args, finetuning_args, *rest):
    """Load what the host's export is to save: the merged model, or one that merges when it saves itself.

    Args:
        host_load: Its `load_model`.
        tokenizer: The model's.
        model_args: The host's arguments for the model, with one adapter.
        finetuning_args: The host's arguments with the plugin's keys.
        *rest: Further arguments of `load_model`.
    """
    try:
        return _without_weights(host_load, tokenizer, model_args, finetuning_args, *rest)
    except NotPlainError as reason:
        logger.info("The adapter is merged in memory: %s.", reason)
        return host_load(tokenizer, model_args, finetuning_args, *rest)


def _without_weights(host_load: Callable, tokenizer, model_args, finetuning_args, *rest) -> PreTrainedModel:
    """Return a model on the meta device whose `save_pretrained` writes base and adapter, read from disk.

    Raises:
        NotPlainError: If that would not be the same as to load, merge and save them; says why.
    """
    method = methods()[finetuning_args.cl_method]
    if method.peft_type != "LORA":
        raise NotPlainError(f"{finetuning_args.cl_method} trains no plain LoRA")
    if model_args.export_device != "cpu":
        raise NotPlainError(f"`export_device` is {model_args.export_device}, where products are rounded otherwise")
    if set_ := [name for name in _CHANGES_MODEL if getattr(model_args, name)]:
        raise NotPlainError(f"`{set_[0]}` changes the model")
    (adapter,) = map(Path, model_args.adapter_name_or_path)
    change = plain_change(adapter)
    tensors = saved_tensors(_weight_files(model_args))
    model = _on_meta(host_load, tokenizer, model_args, finetuning_args, *rest)
    own = _own_tensors(model, tensors)
    _check_change(model, own, change)
    is_of_run = _is_of_run(Path(model_args.model_name_or_path), adapter)
    model.save_pretrained = partial(_save, model, own, change, is_of_run)
    return model


def _save(
    model: PreTrainedModel,
    tensors: dict[str, SavedTensor],
    change: LowRankChange,
    link: bool,
    save_directory: str,
    **sizes: Any,
) -> None:
    """Write what `save_pretrained` of the loaded model writes; files are smaller than the host's, for less memory."""
    folder = Path(save_directory)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    write_merged(folder, tensors, change, model.dtype, model.num_parameters(), link)


def _is_of_run(base: Path, adapter: Path) -> bool:
    """Tell whether a base is what an earlier task of the same run has left, whose files nobody writes in place."""
    base, adapter = base.resolve(), adapter.resolve()
    return base.name == Merge.passing and base.parent.parent == adapter.parent


def _weight_files(model_args) -> list[Path]:
    """Return the files of a base's weights, in a folder or in this machine's cache of a hub."""
    single, index = (_find(model_args, name) for name in MODEL_WEIGHTS_FILES)
    if single is not None:
        return [single]
    if index is None:
        raise NotPlainError(f"{model_args.model_name_or_path} has no weights in safetensors on this machine")
    parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    files = [_find(model_args, part) for part in parts]
    if None in files:
        raise NotPlainError(f"{parts[files.index(None)]} of {model_args.model_name_or_path} is not on this machine")
    return files


def _find(model_args, name: str) -> Path | None:
    place = {"cache_dir": model_args.cache_dir, "revision": model_args.model_revision, "local_files_only": True}
    found = cached_file(
        model_args.model_name_or_path,
        name,
        **place,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None


def _on_meta(host_load: Callable, tokenizer, model_args, finetuning_args, *rest) -> PreTrainedModel:
    """Let the host build a model of the base's configuration, without weights and without an adapter."""
    asked = {"train_from_scratch": True, "adapter_name_or_path": None}
    before = {name: getattr(model_args, name) for name in asked}
    try:
        for name, value in asked.items():
            setattr(model_args, name, value)
        with torch.device("meta"):
            model = host_load(tokenizer, model_args, finetuning_args, *rest)
    finally:
        for name, value in before.items():
            setattr(model_args, name, value)
    if quantization_in(model.config.to_dict()):
        raise NotPlainError("the base is quantized")
    if model._auto_class is not None:
        raise NotPlainError("the model's own code is saved beside it")
    if model.can_generate():
        kept = {name: value for name, value in _get_init_kwargs(model_args).items() if name != "trust_remote_code"}
        try:
            model.generation_config = GenerationConfig.from_pretrained(model_args.model_name_or_path, **kept)
        except OSError:
            logger.info("The base has no generation_config.json: it is made of its config.json, as ever.")
        patch_model(model, tokenizer, model_args, is_trainable=False, add_valuehead=False)
    model.tie_weights()
    return model


def _own_tensors(model: PreTrainedModel, tensors: dict[str, SavedTensor]) -> dict[str, SavedTensor]:
    """Return where the tensors lie that the loaded model would save, by the names under which it would save them."""
    if not reads_own_names(model):
        raise NotPlainError("the model's weights have other names, or other shapes, on disk than in the model")
    changes = get_model_conversion_mapping(model)
    renamings = [change for change in changes if isinstance(change, WeightRenaming)]
    converters = [change for change in changes if not isinstance(change, WeightRenaming)]
    state = model.state_dict()
    found: dict[str, SavedTensor] = {}
    for name, tensor in tensors.items():
        own, converted = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if converted is not None or own in found:
            raise NotPlainError(f"{name} is not one tensor of the model")
        found[own] = tensor
    saved = remove_tied_weights_from_state_dict(state, model)
    for ignored in model._keys_to_ignore_on_save or ():
        saved.pop(ignored, None)
    for name, meant in saved.items():
        if name not in found:
            raise NotPlainError(f"{name} is in no file of the base")
        if found[name].shape != tuple(meant.shape):
            raise NotPlainError(f"{name} has another shape on disk than in the model")
        if type_of(found[name]) not in (meant.dtype, None):
            raise NotPlainError(f"{name} has type {found[name].dtype} on disk, and {meant.dtype} in the model")
    return {name: found[name] for name in saved}


def _check_change(model: PreTrainedModel, tensors: dict[str, SavedTensor], change: LowRankChange) -> None:
    """Check that all weights that an adapter changes are those of plain linear layers, each for itself."""
    if model.dtype != torch.float32 and (model._keep_in_fp32_modules or model._keep_in_fp32_modules_strict):
        raise NotPlainError("the model keeps some weights in fp32")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    users = [id(parameter) for parameter in parameters.values()]
    for name, shape in change.weights.items():
        if name not in tensors or tensors[name].shape != shape:
            raise NotPlainError(f"{name} of the adapter is no matrix of the base")
        if type(model.get_submodule(name.removesuffix(".weight"))) is not nn.Linear:
            raise NotPlainError(f"{name} of the adapter is no weight of a plain linear layer")
        if users.count(id(parameters[name])) > 1:
            raise NotPlainError(f"{name} is tied to another weight")
