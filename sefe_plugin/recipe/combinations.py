"""What the plugin's keys need of other keys."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sefe_plugin.carry import CARRIES
from sefe_plugin.carry.adapter_files import check_adapter
from sefe_plugin.files import ADAPTER_CONFIG_FILE, MODEL_CONFIG_FILE, is_file
from sefe_plugin.methods import methods
from sefe_plugin.recipe.options import option_faults


#: Optimizers of the host that make parameter groups of their own.
_OWN_GROUPS = ("use_galore", "use_apollo", "loraplus_lr_ratio", "use_badam", "use_adam_mini", "use_muon")

#: Keys of the host under which a row of a batch has no loss, or one that is no mean over samples.
_OTHER_LOSSES = {
    **dict.fromkeys(("packing", "neat_packing"), "a row then holds several samples"),
    **dict.fromkeys(("use_dft_loss", "use_asft_loss", "use_eaft_loss"), "each is a loss of its own"),
    **dict.fromkeys(("enable_liger_kernel", "use_unsloth"), "its models return no logits in a training"),
    "label_smoothing_factor": "the host smooths the mean over tokens only",
    "moe_aux_loss_coef": "the models add that loss only to one of their own",
}


def key_value_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List what is wrong with the values of the plugin's keys, and with what they need of other keys.

    Args:
        arguments: Recipe keys and values, the host's among them; absent keys have their defaults.

    Returns:
        One sentence for each error: key, rule, value, remedy. Empty when all is well.
    """
    errors = option_faults(arguments)
    sound = {key: value for key, value in arguments.items() if key not in errors}
    rules = (
        _projector_errors,
        _method_errors,
        _keep_errors,
        _stack_errors,
        _scoring_errors,
        _loss_errors,
        _asd_errors,
        _added_errors,
    )
    return [*errors.values(), *(error for rule in rules for error in rule(sound))]


def _projector_errors(arguments: Mapping[str, Any]) -> list[str]:
    if arguments.get("projector_learning_rate") is None:
        return []
    errors = []
    is_full = arguments.get("finetuning_type") == "full" and arguments.get("freeze_multi_modal_projector") is False
    if not arguments.get("additional_target") and not is_full:
        errors.append(
            "`projector_learning_rate` needs a projector that is trained: add its module's name, for LLaVA "
            "`additional_target: multi_modal_projector`, or with full fine-tuning "
            "`freeze_multi_modal_projector: false`."
        )
    if arguments.get("quantization_bit"):
        errors.append(
            "`projector_learning_rate` cannot be combined with `quantization_bit`: a quantized projector cannot be "
            "trained. Drop one."
        )
    return errors + [
        f"`{key}` cannot be combined with `projector_learning_rate`: it sets learning rates itself. Drop one."
        for key in _OWN_GROUPS
        if arguments.get(key)
    ]


def _method_errors(arguments: Mapping[str, Any]) -> list[str]:
    name, known = arguments.get("cl_method"), methods()
    if name is None or name not in known:
        return []  # an unknown name is told by `recipe.checks`, with the known ones
    errors = []
    if arguments.get("stage", "sft") != "sft":
        errors.append(f"`cl_method` works in `stage: sft` only; got {arguments['stage']!r}.")
    trained = arguments.get("finetuning_type")
    if trained is not None and trained != known[name].parametrisation:
        errors.append(
            f"`cl_method: {name}` needs `finetuning_type: {known[name].parametrisation}`; got {trained!r}. Change one."
        )
    return errors + known[name].errors(arguments)


def _keep_errors(arguments: Mapping[str, Any]) -> list[str]:
    carry = CARRIES.get(str(arguments.get("carry")))
    if carry is None or carry.passing is not None or arguments.get("keep_merged", "all") == "all":
        return []
    reason = (
        "its models are the results of the tasks themselves"
        if carry.result == MODEL_CONFIG_FILE
        else "it leaves no merged models"
    )
    return [
        f"`keep_merged: last` has no effect with `carry: {arguments['carry']}`: {reason}, and all stay. Remove it, or "
        "set `carry: merge`."
    ]


def _stack_errors(arguments: Mapping[str, Any]) -> list[str]:
    stacked = arguments.get("stacked_adapter")
    if stacked is None:
        return []
    if not is_file(Path(stacked) / ADAPTER_CONFIG_FILE):
        return [f"`stacked_adapter`: {stacked} holds no adapter. Train the earlier task first."]
    try:
        check_adapter(Path(stacked))
    except ValueError as error:
        return [f"`stacked_adapter`: {error}"]
    return []


def _scoring_errors(arguments: Mapping[str, Any]) -> list[str]:
    errors = _scored_base_errors(arguments)
    if arguments.get("scoring_backend") != "vllm":
        return errors
    python = arguments.get("scoring_python")
    if python is None and find_spec("vllm") is None:
        errors.append(
            "`scoring_backend: vllm` needs vLLM, which is not installed here. Install it in an environment of its own "
            "and name that one's interpreter: `scoring_python: PATH`. Or use `scoring_backend: generate`."
        )
    if python is not None and not (is_file(python) and os.access(python, os.X_OK)):
        errors.append(
            f"`scoring_python` must be the path of a Python interpreter, such as `envs/vllm/bin/python`; got "
            f"{python!r}, which is no file that can be run. Mend the path, or remove the key."
        )
    return errors


def _scored_base_errors(arguments: Mapping[str, Any]) -> list[str]:
    if not (arguments.get("pad_images") and arguments.get("scoring_backend") == "vllm"):
        return []
    return [
        f"`{key}` with `scoring_backend: vllm` cannot be combined with `pad_images`: vLLM takes the base's own "
        "processor, which does not pad. Set `scoring_backend: generate`."
        for key in ("score_unseen", "retention_sets")
        if arguments.get(key)
    ]


def _loss_errors(arguments: Mapping[str, Any]) -> list[str]:
    if arguments.get("asd_loss", "token") == "token":
        return []
    return [
        f"`{key}` cannot be combined with `asd_loss: sample`: {reason}. Drop one of the two."
        for key, reason in _OTHER_LOSSES.items()
        if arguments.get(key)
    ]


def _asd_errors(arguments: Mapping[str, Any]) -> list[str]:
    if not arguments.get("asd_ratio"):
        alone = arguments.get("asd_extra") and arguments.get("asd_ratio") is None
        return ["`asd_extra` has no effect without `asd_ratio`. Add that, or remove it."] if alone else []
    errors = []
    if arguments.get("tokenized_path"):
        errors.append(
            "`tokenized_path` cannot be combined with `asd_ratio`: a tokenized dataset skips the step that rewrites "
            "samples, and would silently train without ASD. Drop one of the two."
        )
    if arguments.get("streaming"):
        errors.append(
            "`streaming` cannot be combined with `asd_ratio`: an exact share needs the number of samples. Drop one of "
            "the two."
        )
    return errors


def _added_errors(arguments: Mapping[str, Any]) -> list[str]:
    errors = []
    if arguments.get("replay_size") is not None and not arguments.get("replay_ratio"):
        errors.append("`replay_size` has no effect without `replay_ratio`. Add that, or remove it.")
    reasons = {
        "streaming": "an exact share needs the number of samples",
        "tokenized_path": "a tokenized dataset skips the step that adds samples, and would train without them",
        "disable_shuffling": "all added samples would come after the task's own",
    }
    return errors + [
        f"`{key}` cannot be combined with `{added}`: {reason}. Drop one of the two."
        for added in ("replay_ratio", "mix")
        if arguments.get(added)
        for key, reason in reasons.items()
        if arguments.get(key)
    ]
