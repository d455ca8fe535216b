"""Earlier adapters beside the new one: one plain LoRA that is their sum, and the same kept frozen in a model.

Adapters of ranks r_1, ..., r_k on the same matrices sum to one of rank r_1 + ... + r_k: the rows of the A and the
columns of the scaled B, side by side. So a sequence can leave its base untouched, 4-bit weights above all, and every
task still ends in one adapter that PEFT, vLLM and others load without this plugin.
"""

import json
from itertools import chain
from pathlib import Path

import torch
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from sefe_plugin.carry.adapter_files import check_adapter
from sefe_plugin.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, replacing, write_text


_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


def stack_adapters(adapters: list[Path], folder: Path) -> None:
    """Write one plain LoRA adapter whose weight change is the sum of those of `adapters`.

    Its scale is 1: each B is multiplied by its own alpha / r (alpha / sqrt(r) with rsLoRA). A module that was trained
    as a whole (`modules_to_save`) is as the last adapter that trained it has it.

    Args:
        adapters: folders of PEFT LoRA adapters of the same matrices, the oldest first.
        folder: where to; its configuration is written last.

    Raises:
        ValueError: if a file is damaged, or if the adapters are of different models, change different matrices, or
            anything but the matrices of linear layers, or change them by anything but a plain B A.
    """
    configs = [check_adapter(adapter) for adapter in adapters]
    parts = [load_file(adapter / ADAPTER_WEIGHTS_FILE) for adapter in adapters]
    for adapter, config, part in zip(adapters, configs, parts, strict=True):
        if config.get("rank_pattern") or config.get("alpha_pattern"):
            raise ValueError(f"{adapter}: `rank_pattern` and `alpha_pattern` cannot be stacked. Leave them out.")
        if config.get("use_dora") or "pissa" in str(config.get("init_lora_weights")):
            raise ValueError(f"{adapter}: DoRA and PiSSA do not add B A to the base. Train plain LoRA.")
        factors = {name for name in _factors(part) if part[name].ndim == 2}
        if odd := sorted(name.removeprefix(_PREFIX) for name in part.keys() - factors if ".lora_" in name):
            raise ValueError(
                f"{adapter}: only the matrices of linear layers can be stacked, not {', '.join(odd)}. Take the module "
                "out of `lora_target`."
            )
        if _factors(part) != _factors(parts[0]):
            raise ValueError(f"{adapter} and {adapters[0]} change different matrices. Use one `lora_target` for both.")
        for name in sorted(factors):
            side = 1 if name.endswith(_A) else 0
            if part[name].shape[side] != parts[0][name].shape[side]:
                raise ValueError(
                    f"{adapter} and {adapters[0]} are of different models: {name} has shape {tuple(part[name].shape)} "
                    f"in the one and {tuple(parts[0][name].shape)} in the other. Stack adapters of one model."
                )
    stacked = {name: value for part in parts for name, value in part.items()}
    for name in _factors(stacked):
        if name.endswith(_A):
            stacked[name] = torch.cat([part[name] for part in parts], dim=0)
        else:
            scaled = [part[name] * _scale(config) for part, config in zip(parts, configs, strict=True)]
            stacked[name] = torch.cat(scaled, dim=1).contiguous()
    rank = sum(config["r"] for config in configs)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / ADAPTER_WEIGHTS_FILE) as temporary:
        save_file(stacked, temporary, metadata={"format": "pt"})
    whole = sorted({name for config in configs for name in config.get("modules_to_save") or ()})
    changes = {"r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "use_rslora": False}
    changes |= {"init_lora_weights": True, "modules_to_save": whole or None}
    write_text(folder / ADAPTER_CONFIG_FILE, json.dumps(configs[-1] | changes, indent=2, sort_keys=True))


@torch.no_grad()
def attach_frozen(model: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Add a stacked adapter to a base model, so that a new adapter can be trained on top.

    The factors are buffers of the modules they change and act in a forward hook: they move with the model, are in no
    checkpoint, and leave the modules' weights, 4-bit ones too, as they are. Modules that the adapter holds as a whole
    take the place of the base's.

    Args:
        model: the base model, before any adapter is made.
        folder: an adapter written by `stack_adapters`.
        dtype: in which the factors are kept and multiplied.

    Raises:
        ValueError: if a file is damaged, if the adapter has weights for modules that the model has not, or has in
            another shape, or if it was trained with a whole module whose weight is also another module's.
    """
    config = check_adapter(folder)
    if config["r"] != config["lora_alpha"] or config.get("use_rslora"):
        raise ValueError(f"{folder} is no stacked adapter: its scale is not 1.")
    weights = load_file(folder / ADAPTER_WEIGHTS_FILE)
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters(remove_duplicate=False))
    for key in weights:
        name = key.removeprefix(_PREFIX)
        if name not in parameters and name.removesuffix(_A).removesuffix(_B) not in modules:
            raise ValueError(f"{folder} has weights for {name}, which the model has not. Use the base of its run.")
        if key.endswith(_A):
            module = modules[name.removesuffix(_A)]
            held = (weights[key.removesuffix(_A) + _B].shape[0], weights[key].shape[1])
            own = tuple(getattr(module, side, None) for side in ("out_features", "in_features"))
            if None not in own and held != own:  # a quantized layer may name its sides otherwise
                raise ValueError(
                    f"{folder}: {name.removesuffix(_A)} has shape {held} in the adapter and {own} in the model. Use "
                    "the base of its run."
                )
            # the weights of GPTQ and AWQ are buffers
            device = next(chain(module.parameters(), module.buffers())).device
            for buffer, value in (("stacked_A", weights[key]), ("stacked_B", weights[key.removesuffix(_A) + _B])):
                module.register_buffer(buffer, value.to(device, dtype), persistent=False)
            module.register_forward_hook(_add_stacked)
        elif not key.endswith(_B):
            tied = [other for other, value in parameters.items() if value is parameters[name] and other != name]
            if tied:
                raise ValueError(
                    f"{folder}: {name} was trained as a whole, but in the model it is tied to {', '.join(tied)}, "
                    "which would change with it. Drop its module from `additional_target` and train the sequence anew."
                )
            _overwrite(parameters[name], weights[key])


def tied_modules(model: nn.Module) -> dict[str, str]:
    """Return the modules that a model trains as a whole although their weight is also another module's, and whose.

    Args:
        model: a PEFT model, with or without weights.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            own = {id(parameter) for parameter in module.original_module.parameters()}
            inner = f"{name}.original_module."
            others = [other for other, value in parameters.items() if id(value) in own and not other.startswith(inner)]
            if others:
                found[_plain(name)] = ", ".join(_plain(other) for other in others)
    return found


def _plain(name: str) -> str:
    return name.removeprefix(_PREFIX).replace(".original_module", "")


def _add_stacked(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """Add B A x to the output of a frozen linear layer."""
    narrow = nn.functional.linear(inputs[0].to(module.stacked_A.dtype), module.stacked_A)
    return output + nn.functional.linear(narrow, module.stacked_B).to(output.dtype)


def _overwrite(parameter: nn.Parameter, value: torch.Tensor) -> None:
    if not is_deepspeed_zero3_enabled():
        parameter.copy_(value)
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.copy_(value)


def _factors(weights: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in weights if name.endswith((_A, _B))}


def _scale(config: dict) -> float:
    return config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
