"""The keys of a recipe that follow from answers: the model, its template, the method, and where it runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


#: Where a model runs -> what that means.
HARDWARE = {
    "4bit": "one GPU, the base in 4 bit: 24 GB are enough for 7B parameters",
    "16bit": "one GPU or more, the base in 16 bit: 7B parameters take 40 GB and more",
    "cpu": "no GPU: for tiny models",
}

#: The answer that asks for the project's own method: it is a `cl_method` together with ASD.
SEFE = "sefe"
SEED = 42

#: Most pixels of a picture: 576 tokens of Qwen2.5-VL, as many as a picture has in LLaVA-1.5.
_PIXELS = 451584


def keys_of_answers(model: str, template: str, method: str, hardware: str) -> dict[str, dict[str, Any]]:
    """Return the keys of a recipe but for its data and its folder.

    Method, its options, ASD and the learning rate are those of the recipe for CoIN that has the name of the answer.

    Args:
        model: Folder, or name of the hub.
        template: The host's name of its template.
        method: "sefe", or a `cl_method`.
        hardware: One of `HARDWARE`.

    Returns:
        Section -> its keys.
    """
    from sefe_plugin.hosts.llamafactory.host import read_recipe
    from sefe_plugin.methods import methods
    from sefe_plugin.recipe.options import plugin_keys

    source = published_recipe(method)
    published = read_recipe(source, [])
    name = published["cl_method"] if source.stem == f"coin_{method}" else method
    asd = {"asd_ratio": published["asd_ratio"]} if method == SEFE else {}
    own = [key for key, option in plugin_keys().items() if option.method == name]
    quantized = hardware == "4bit"
    four_bit = {"quantization_bit": 4, "quantization_type": "nf4", "double_quantization": True}
    lora = {"lora_rank": 32, "lora_alpha": 64, "lora_target": "all"}
    return {
        "model": {"model_name_or_path": model, "template": template, **(four_bit if quantized else {})},
        "method": {
            "cl_method": name,
            **(lora if methods()[name].parametrisation == "lora" else {}),
            **{key: published[key] for key in own if key in published},
            # the base stays as it was quantized
            **({"carry": "stack"} if quantized and "stack" in methods()[name].carries else {}),
        },
        "dataset": {**asd, "cutoff_len": 2048, "preprocessing_num_workers": 4},
        "output": {"logging_steps": 10, "save_steps": 500, "save_total_limit": 1, "report_to": "none"},
        "train": {
            "seed": SEED,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 16,
            "learning_rate": published["learning_rate"],
            "num_train_epochs": 1.0,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.03,
            **({} if hardware == "cpu" else _precision()),
        },
        "generation": {"per_device_eval_batch_size": 8, "max_new_tokens": 64},
    }


def published_recipe(method: str) -> Path:
    """Return the recipe for CoIN of an answer; that of plain LoRA where a method has none."""
    from sefe_plugin.files import shipped_folder

    recipes = shipped_folder("recipes")
    own = recipes / f"coin_{method}.yaml"
    return own if own.is_file() else recipes / "coin_lora.yaml"


def picture_keys(entries: Mapping[str, Mapping], datasets: list[str]) -> dict[str, Any]:
    """Return the keys that pictures take; none where no dataset has some.

    Args:
        entries: Those of dataset_info.json.
        datasets: The tasks' datasets.
    """
    seen = any("images" in (entries[name].get("columns") or {}) for name in datasets)
    return {"image_max_pixels": _PIXELS} if seen else {}


def _precision() -> dict[str, bool]:
    """Return the 16-bit type of the GPU that is here, or of newer ones where none is."""
    import torch
    from transformers.utils import is_torch_bf16_gpu_available

    return {"fp16": True} if torch.cuda.is_available() and not is_torch_bf16_gpu_available() else {"bf16": True}
