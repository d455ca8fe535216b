"""Whether the adapter of a task loads in plain PEFT, and merges again into the merged model; on the CPU."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from torch import nn

from sefe_plugin.files import ADAPTER_CONFIG_FILE
from sefe_plugin.hosts.llamafactory.adapter import merge_adapter
from sefe_plugin.hosts.llamafactory.host import section_of
from sefe_plugin.methods import methods
from sefe_plugin.methods.peft_types import added_types
from sefe_plugin.run.spare import was_removed
from sefe_plugin.words import counted


#: How far a merged matrix may be from the one merged again, as a share of its weight change. On another device sums
#: are rounded otherwise; a change that is missing is a share of 1.
TOLERANCE = 0.05

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def check_models(keys: Mapping[str, Any], folder: Path) -> Iterator[tuple[bool | None, str]]:
    """Load the base and the adapter of a task, merge them, and compare with the task's merged model.

    Args:
        keys: The task's recipe.
        folder: The task's folder.

    Yields:
        Whether it is well (None: it cannot be checked), and what was looked at.
    """
    if not (folder / ADAPTER_CONFIG_FILE).is_file():
        return
    merged = folder / "merged"
    base = keys["model_name_or_path"]
    if Path(base).is_absolute() and not Path(base).is_dir():
        reason = "was removed on purpose" if was_removed(Path(base)) else "is not there"
        yield None, f"adapter and merged model: not checked, the base {base} {reason}"
        return
    dtype = _dtype(merged) if merged.is_dir() else "auto"
    model = _load(keys, base, dtype)
    method = methods()[keys["cl_method"]](keys)
    with warnings.catch_warnings(), method.building(model):
        known = f"PEFT as {method.peft_type}" if method.peft_type in added_types() else "plain PEFT"
        warnings.simplefilter("error", UserWarning)  # PEFT only warns of weights that are missing
        try:
            model = PeftModel.from_pretrained(model, folder)
        except (UserWarning, RuntimeError, KeyError) as error:
            raise ValueError(f"the adapter does not load in {known}: {error}") from error
    adapted = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
    yield True, f"adapter: loads in {known}, {counted(len(adapted), 'matrix', 'matrices')}"
    if not merged.is_dir():
        return
    weights = {
        f"{name.removeprefix('base_model.model.')}.weight": layer.get_base_layer().weight
        for name, layer in adapted.items()
    }
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    again = merge_adapter(model)
    changed = {name: (weights[name] - before[name]).float().norm().item() for name in weights}
    yield _compare(again, _load(keys, str(merged), dtype), changed)


def _compare(again: nn.Module, merged: nn.Module, changed: Mapping[str, float]) -> tuple[bool, str]:
    ours, theirs = again.state_dict(), merged.state_dict()
    if odd := sorted(ours.keys() ^ theirs.keys()):
        return False, f"merged: other tensors than base and adapter, such as {odd[0]}"
    apart = {name: value for name, value in ours.items() if not value.equal(theirs[name])}
    for name, value in apart.items():
        distance = (value.float() - theirs[name].float()).norm().item()
        if distance > TOLERANCE * changed.get(name, 0.0):
            change = f", whose change is {changed[name]:.3g}" if name in changed else ", which is not adapted"
            return False, f"merged: {name}{change}, is {distance:.3g} off what base and adapter make"
    same = f"{len(ours) - len(apart)} of {len(ours)} tensors equal bit by bit"
    return True, f"merged: the same when merged again, {same}" + (", the others rounded otherwise" if apart else "")


def _load(keys: Mapping[str, Any], model: str, dtype: str) -> nn.Module:
    """Load a model as the host exports one: whole, and on the CPU."""
    from llamafactory.hparams import get_infer_args
    from llamafactory.model import load_model, load_tokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    kept = {key: value for key, value in keys.items() if section_of(key) == "model" and "quantization" not in key}
    kept |= {"model_name_or_path": model, "adapter_name_or_path": None, "infer_dtype": dtype}
    kept |= {"template": keys["template"], "finetuning_type": "lora", "export_dir": "-", "export_device": "cpu"}
    model_args, _, finetuning_args, _ = get_infer_args(kept)
    return load_model(load_tokenizer(model_args)["tokenizer"], model_args, finetuning_args)


def _dtype(folder: Path) -> str:
    """Return the precision of a saved model."""
    with safe_open(sorted(folder.glob("*.safetensors"))[0], framework="numpy") as weights:
        name = next(iter(weights.keys()))
        return _DTYPES.get(weights.get_slice(name).get_dtype(), "auto")
