"""Memory of one GPU at the peak of a task, part by part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sefe_plugin.methods import DEFAULT, methods
from sefe_plugin.plan.sizes import Architecture


#: How far the true peak may lie from the total, as a share: the allocator's gaps, kernels' workspaces, lengths.
UNCERTAINTY = 0.15

#: Optimizers of Trainer whose states differ from AdamW's two numbers in fp32: bytes per trainable parameter. 8-bit
#: states have an fp32 scale for every 256.
_STATE_BYTES = {
    "adamw_8bit": 2 + 8 / 256,
    "adamw_bnb_8bit": 2 + 8 / 256,
    "lion_32bit": 4,
    "lion_8bit": 1 + 4 / 256,
    "sgd": 0,
}
_ADAMW_BYTES = 8

#: Bytes per logit at the end of the forward pass: in 16 bit, in fp32, and as log-probabilities in fp32.
_LOGIT_BYTES = 10

#: Bytes per token and element of a layer's widest matrix for the gradients inside the layer, as measured.
_GRADIENT_BYTES = 8

#: Parameters that ZeRO-3 may hold gathered at a time unless its configuration says otherwise.
_LIVE_PARAMETERS = 1e9


@dataclass(frozen=True)
class Setting:
    """How the processes train together.

    Attributes:
        processes: one per GPU, on all nodes.
        zero: DeepSpeed's ZeRO stage; None without DeepSpeed.
        offloads: what DeepSpeed keeps in host memory: "param", "optimizer".
        live_parameters: that ZeRO-3 may hold gathered at a time.
    """

    processes: int
    zero: int | None = None
    offloads: frozenset[str] = frozenset()
    live_parameters: float = _LIVE_PARAMETERS


def read_setting(deepspeed: Mapping[str, Any] | None, processes: int) -> Setting:
    """Read what matters here from a DeepSpeed configuration, or from none."""
    if deepspeed is None:
        return Setting(processes)
    zero = deepspeed.get("zero_optimization", {})
    offloads = {
        kind
        for kind in ("param", "optimizer")
        if (zero.get(f"offload_{kind}") or {}).get("device", "none") not in ("none", None)
    }
    live = zero.get("stage3_max_live_parameters", _LIVE_PARAMETERS)
    return Setting(processes, int(zero.get("stage", 0)), frozenset(offloads), float(live))


def gpu_memory(
    architecture: Architecture,
    arguments: Mapping[str, Any],
    setting: Setting,
    *,
    earlier_tasks: int,
    tokens: int,
    stacked_adapters: int = 0,
) -> dict[str, int]:
    """Work out the memory of one GPU at the peak of one task's training.

    Args:
        architecture: the model and its adapter.
        arguments: the recipe's keys.
        setting: how the processes train together.
        earlier_tasks: of which the method holds what they left.
        tokens: of the longest sample.
        stacked_adapters: of earlier tasks that stay beside the base model.

    Returns:
        Bytes by part; "total" is their sum. The context of the CUDA driver, about half a GB, is not part of it.
    """
    parts = _model_parts(architecture, arguments, setting)
    method = methods()[arguments.get("cl_method") or DEFAULT]
    parts |= method.memory(architecture, arguments, earlier_tasks)
    parts["stacked adapters"] = _stacked_bytes(architecture, arguments) * stacked_adapters if stacked_adapters else 0
    parts |= _activations(architecture, arguments, setting, tokens)
    parts = {name: round(size) for name, size in parts.items()}
    return {**parts, "total": sum(parts.values())}


def is_autocast(arguments: Mapping[str, Any]) -> bool:
    """Whether a recipe computes in 16 bit whatever the precision of the weights."""
    return bool(arguments.get("bf16") or arguments.get("fp16"))


def _stacked_bytes(architecture: Architecture, arguments: Mapping[str, Any]) -> float:
    """Bytes of one frozen adapter, which is held in the precision of the computation."""
    count = architecture.lora_bytes * architecture.trainable_parameters / architecture.trainable_bytes
    return count * (2 if is_autocast(arguments) or arguments.get("pure_bf16") else 4)


def _model_parts(architecture: Architecture, arguments: Mapping[str, Any], setting: Setting) -> dict[str, float]:
    """Weights, trainable parameters, gradients, optimizer states, and buffers."""
    states = state_bytes(arguments)
    trainable, size = architecture.trainable_parameters, architecture.trainable_bytes
    if setting.zero is None:
        # DDP collects gradients in buckets beside them; autocast keeps a 16-bit copy of fp32 adapters
        buckets = size if setting.processes > 1 else 0
        copies = 2 * trainable if is_autocast(arguments) and size == 4 * trainable else 0
        return {
            "weights": architecture.weight_bytes,
            "trainable parameters": size,
            "gradients": size,
            "optimizer states": states * trainable,
            "buffers": copies + buckets,
        }
    # DeepSpeed turns everything into 16 bit and keeps an fp32 copy of what is trained, shared out from stage 1 on
    width = 2 if is_autocast(arguments) else 4
    weights = architecture.weight_bytes
    if not architecture.quantized_bytes:
        weights = width * architecture.frozen_parameters
    whole = {stage: setting.processes if setting.zero >= stage else 1 for stage in (1, 2, 3)}
    live = min(setting.live_parameters, architecture.parameters) * width
    optimizer = 0 if "optimizer" in setting.offloads else (4 + states) * trainable / whole[1]
    return {
        "weights": 0 if setting.zero == 3 and "param" in setting.offloads else weights / whole[3],
        "trainable parameters": width * trainable / whole[3],
        "gradients": width * trainable / whole[2],
        "optimizer states": optimizer,
        "buffers": live if setting.zero == 3 and setting.processes > 1 else 0,
    }


def state_bytes(arguments: Mapping[str, Any]) -> float:
    """Bytes of optimizer states per trainable parameter on the GPU; none if they are paged to host memory."""
    return 0 if _optimizer(arguments).startswith("paged_") else saved_state_bytes(arguments)


def saved_state_bytes(arguments: Mapping[str, Any]) -> float:
    """Bytes of optimizer states per trainable parameter, wherever they are."""
    return _STATE_BYTES.get(_optimizer(arguments).removeprefix("paged_"), _ADAMW_BYTES)


def _optimizer(arguments: Mapping[str, Any]) -> str:
    return str(arguments.get("optim", "adamw_torch"))


def _activations(
    architecture: Architecture, arguments: Mapping[str, Any], setting: Setting, tokens: int
) -> dict[str, float]:
    """Return what the forward pass leaves for the backward pass, for one batch of the longest samples.

    With gradient checkpointing, the host's default, only the input of every layer stays. The peak is then at the end
    of the forward pass, with the logits, or where one layer is computed again in the backward pass.
    """
    autocast = is_autocast(arguments)
    width = 2 if autocast or architecture.weight_type in ("bfloat16", "float16") else 4
    in_batch = tokens * int(arguments.get("per_device_train_batch_size", 8))
    # autocast turns weights in another precision into its own, layer by layer; DeepSpeed did so at the start
    own = architecture.weight_type == ("float16" if arguments.get("fp16") else "bfloat16")
    recasts = autocast and not own and not architecture.quantized_bytes and setting.zero is None
    recast = width * architecture.layer_parameters if recasts else 0
    layer = architecture.layer_bytes_per_token * in_batch + recast
    gradients = _GRADIENT_BYTES * architecture.layer_width * in_batch
    logits = 0 if arguments.get("enable_liger_kernel") else architecture.vocabulary * in_batch * _LOGIT_BYTES
    if arguments.get("disable_gradient_checkpointing"):
        return {"activations": architecture.layers * layer, "layer or logits": max(gradients, logits)}
    inputs = architecture.layers * width * architecture.hidden_size * in_batch
    return {"activations": inputs, "layer or logits": max(layer + gradients, logits)}
