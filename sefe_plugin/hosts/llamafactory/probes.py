"""What `sefe doctor` tries out, each in a process of its own: a crash or a hang there is a finding as well."""

import importlib
import json
import logging
import sys
from dataclasses import fields
from typing import Any


#: Starts the line of the answer, among whatever else the imported packages print.
ANSWER = "sefe-doctor: "


def start_up() -> dict[str, Any]:
    """Find whether this interpreter has the start-up hook, and which of the plugin's keys the host then lacks."""
    from sefe_plugin.hosts.hook import ANCHORS, AnchorFinder

    if AnchorFinder not in sys.meta_path:
        return {"hook": False}
    for anchor in ANCHORS:
        importlib.import_module(anchor)
    from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments

    from sefe_plugin.recipe.options import plugin_keys

    known = {field.name for cls in (ModelArguments, DataArguments, FinetuningArguments) for field in fields(cls)}
    return {"hook": True, "absent": sorted(set(plugin_keys()) - known), "keys": len(plugin_keys())}


def devices() -> dict[str, Any]:
    """Find what the host trains on, and use every GPU once."""
    import torch
    from llamafactory.extras.misc import get_device_count, get_device_name
    from transformers.utils import is_torch_bf16_gpu_available

    found = {"kind": get_device_name(), "count": get_device_count(), "cuda": torch.version.cuda, "gpus": []}
    for index in range(torch.cuda.device_count() if found["kind"] == "gpu" else 0):
        properties = torch.cuda.get_device_properties(index)
        matrix = torch.ones(64, 64, device=f"cuda:{index}")
        (matrix @ matrix).sum().item()
        found["gpus"].append(
            {
                "name": properties.name,
                "memory": properties.total_memory,
                "capability": f"{properties.major}.{properties.minor}",
                "bf16": is_torch_bf16_gpu_available(),
            }
        )
    return found


def four_bit() -> dict[str, Any]:
    """Answer with one 4-bit layer of bitsandbytes."""
    import bitsandbytes
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32).to(device)
    output = layer(torch.ones(2, 64, device=device))
    return {"device": device, "finite": bool(output.isfinite().all())}


def deepspeed() -> dict[str, Any]:
    """Import DeepSpeed, and look for the compiler that some of its parts are built with."""
    from deepspeed.accelerator import get_accelerator
    from torch.utils.cpp_extension import CUDA_HOME

    return {"accelerator": get_accelerator().device_name(), "cuda_home": CUDA_HOME}


def main(name: str) -> None:
    """Run one probe and print its answer, or the error that it ended with, as one line of JSON."""
    try:
        answer = {"start_up": start_up, "devices": devices, "four_bit": four_bit, "deepspeed": deepspeed}[name]()
    except Exception as error:  # whatever a package raises when it is imported or used is what was looked for
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    print(f"\n{ANSWER}{json.dumps(answer)}", flush=True)  # noqa: T201 - its way to answer


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(sys.argv[1])
