"""The plugin's recipe keys: name, type, default, help and rule, each written once.

The host's argument classes inherit these dataclasses, so the keys appear in `llamafactory-cli train --help`; the
recipe check uses the same rules before anything starts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal


#: Keys with a few possible values, the default first.
CHOICES = {
    "reglora_reduction": ("official_mean", "per_task_sum"),
    "reglora_selection": ("top", "random"),
    "reglora_offload": ("none", "cpu"),
    "carry": ("merge", "stack"),
    "scoring_backend": ("generate", "vllm"),
}


@dataclass
class MethodArguments:
    """Keys of the method and of the sequence."""

    use_reglora: bool = field(
        default=False,
        metadata={"help": "Train LoRA as RegLoRA: penalise changes of the key elements of earlier tasks (SEFE)."},
    )
    reglora_weight: float = field(
        default=2500.0,
        metadata={"help": "Weight lambda of the RegLoRA penalty, at least 0. SEFE uses 2500 for a 7B model."},
    )
    reglora_key_ratio: float = field(
        default=0.02,
        metadata={
            "help": "Share M in (0, 1] of each |dW| = |B A| that becomes key elements. SEFE uses 0.02. "
            "With 1.0, a control, the penalty is plain L1 on the whole of dW."
        },
    )
    reglora_reduction: Literal["official_mean", "per_task_sum"] = field(
        default="official_mean",
        metadata={
            "help": "official_mean: mean over the key elements of all earlier tasks, as in the official code. "
            "per_task_sum: the paper's sum over earlier tasks of each task's mean."
        },
    )
    reglora_selection: Literal["top", "random"] = field(
        default="top",
        metadata={
            "help": "top: the key elements are the largest of |dW|, as in SEFE. random: a control, as many elements "
            "of each matrix, drawn uniformly from a stream for each seed, task and matrix."
        },
    )
    reglora_offload: Literal["none", "cpu"] = field(
        default="none",
        metadata={
            "help": "Where the key elements of earlier tasks stay: none, on the device of the model, one byte per "
            "element and task; cpu, in host memory, brought to the device matrix by matrix."
        },
    )
    reglora_key_elements: list[str] | None = field(
        default=None,
        metadata={
            "help": "Key element files of earlier tasks, oldest first, as a list or separated by commas. "
            "A sequence fills this in."
        },
    )
    projector_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the multimodal projector, above 0, where it differs from `learning_rate`. "
            "Needs a projector that is trained: `additional_target: multi_modal_projector`. SEFE uses 2e-5."
        },
    )
    tasks: list[dict] | None = field(
        default=None,
        metadata={
            "help": "Sequence of tasks to train one after the other: a list of mappings with name, dataset, "
            "test_dataset, scorer, and any other key to override for that task."
        },
    )
    benchmark: str | None = field(
        default=None,
        metadata={"help": "Ready sequence of tasks in place of `tasks`: coin, minicoin or minicoin16."},
    )
    task_order: list[str] | None = field(
        default=None,
        metadata={
            "help": "Order of a benchmark's tasks: coin (its own), reversed, shuffled (one fixed order), or the names "
            "of all its tasks as a list."
        },
    )
    carry: Literal["merge", "stack"] = field(
        default="merge",
        metadata={
            "help": "How a sequence carries a task on. merge: its adapter becomes part of the next task's base, as in "
            "SEFE; with `quantization_bit`, of the 16-bit base, which is quantized again. stack: the base stays as "
            "it is, and all earlier adapters are kept frozen beside the new one; exact for a quantized base."
        },
    )
    test_sets: list[dict] | None = field(
        default=None,
        metadata={
            "help": "Test sets to score by generation after training: a list of mappings with name, dataset, scorer. "
            "A sequence fills this in."
        },
    )
    scoring_backend: Literal["generate", "vllm"] = field(
        default="generate",
        metadata={
            "help": "What answers the test sets: generate, the trained model in its own process; vllm, vLLM on "
            "all visible devices, in a process that a sequence starts after it (pip install 'sefe-plugin[vllm]')."
        },
    )
    merge_adapter: bool = field(
        default=False,
        metadata={
            "help": "After training, also save the base model with the adapter merged in, in `output_dir`/merged. "
            "A sequence fills this in."
        },
    )
    stacked_adapter: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the adapters of earlier tasks, stacked into one, to keep frozen beside the new "
            "adapter. A sequence with `carry: stack` fills this in."
        },
    )


@dataclass
class ImageArguments:
    """Keys of the model's view of images."""

    pad_images: bool = field(
        default=False,
        metadata={
            "help": "Pad images to a square where the model's processor would crop their centre, as LLaVA and CoIN's "
            "boxes have it. Nothing changes for processors that see the whole image."
        },
    )


@dataclass
class DatasetArguments:
    """Keys of the data."""

    asd_ratio: float | None = field(
        default=None,
        metadata={
            "help": "Share X in [0, 1] of the training samples rewritten into the other answer styles (ASD, by "
            "rules). SEFE uses 0.2; off when absent."
        },
    )


#: Keys that describe a whole sequence and never reach a single run.
SEQUENCE_KEYS = ("tasks", "benchmark", "task_order")

#: Keys that the sequence itself fills in for each task.
FILLED_IN_KEYS = ("reglora_key_elements", "test_sets", "merge_adapter", "stacked_adapter")

#: Optimizers of the host that make parameter groups of their own.
_OWN_GROUPS = ("use_galore", "use_apollo", "loraplus_lr_ratio", "use_badam", "use_adam_mini", "use_muon")

#: Keys of the host that RegLoRA cannot work with, and why.
_WITHOUT_REGLORA = {
    "use_dora": "DoRA's weight change is not B A",
    "pissa_init": "PiSSA's weight change is not B A",
    "use_unsloth": "Unsloth has layers of its own",
    "use_hyper_parallel": "its training is not the one that this plugin extends",
    "fsdp": "FSDP leaves no process a whole matrix",
}

#: Every key of the plugin -> the section of a recipe that it belongs to.
PLUGIN_KEYS = {
    f.name: section
    for cls, section in ((ImageArguments, "model"), (MethodArguments, "method"), (DatasetArguments, "dataset"))
    for f in fields(cls)
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def option_faults(arguments: Mapping[str, Any]) -> list[str]:
    """Lists what is wrong with the values of the plugin's keys in `arguments`.

    Args:
        arguments: recipe keys and values, the host's among them; absent keys have their defaults.

    Returns:
        One sentence per fault: key, rule, value, remedy. Empty when all is well.
    """
    faults = []

    def number(key: str, rule: str, holds, optional: bool = False) -> None:
        value = arguments.get(key)
        absent = value is None and (optional or key not in arguments)
        if not absent and not (_is_number(value) and holds(value)):
            faults.append(f"`{key}` must be {rule}; got {value!r}.")

    number("reglora_weight", "a number of at least 0 (SEFE: 2500)", lambda v: v >= 0)
    number("reglora_key_ratio", "a share in (0, 1] (SEFE: 0.02)", lambda v: 0 < v <= 1)
    number("asd_ratio", "a share in [0, 1] (SEFE: 0.2; leave it out to switch ASD off)", lambda v: 0 <= v <= 1, True)

    if arguments.get("projector_learning_rate") is not None:
        number("projector_learning_rate", "a number above 0 (SEFE: 2e-5)", lambda v: v > 0)
        if not arguments.get("additional_target"):
            faults.append(
                "`projector_learning_rate` needs a projector that is trained: add its module's name, for LLaVA "
                "`additional_target: multi_modal_projector`."
            )
        if arguments.get("quantization_bit"):
            faults.append(
                "`projector_learning_rate` cannot be combined with `quantization_bit`: a quantized projector cannot "
                "be trained. Drop one."
            )
        faults += [
            f"`{key}` cannot be combined with `projector_learning_rate`: it sets learning rates itself. Drop one."
            for key in _OWN_GROUPS
            if arguments.get(key)
        ]

    for key in ("use_reglora", "merge_adapter", "pad_images"):
        if not isinstance(arguments.get(key, False), bool):
            faults.append(f"`{key}` must be true or false; got {arguments[key]!r}.")
    for key, choices in CHOICES.items():
        if arguments.get(key, choices[0]) not in choices:
            faults.append(f"`{key}` must be one of {choices}; got {arguments[key]!r}.")

    if arguments.get("scoring_backend") == "vllm" and find_spec("vllm") is None:
        faults.append(
            "`scoring_backend: vllm` needs vLLM, which is not installed: pip install 'sefe-plugin[vllm]'. Or use "
            "`scoring_backend: generate`."
        )

    files = arguments.get("reglora_key_elements") or []
    for file in map(str.strip, files.split(",")) if isinstance(files, str) else files:
        if not Path(file).is_file():
            faults.append(f"`reglora_key_elements`: the file {file} does not exist. Train the earlier task first.")
    stacked = arguments.get("stacked_adapter")
    if stacked is not None and not (Path(stacked) / "adapter_config.json").is_file():
        faults.append(f"`stacked_adapter`: {stacked} holds no adapter. Train the earlier task first.")
    if arguments.get("use_reglora"):
        if arguments.get("finetuning_type", "lora") != "lora":
            faults.append(f"`use_reglora` needs `finetuning_type: lora`; got {arguments['finetuning_type']!r}.")
        if arguments.get("stage", "sft") != "sft":
            faults.append(f"`use_reglora` works in `stage: sft` only; got {arguments['stage']!r}.")
        faults += [
            f"`{key}` cannot be combined with `use_reglora`: {reason}. Drop one."
            for key, reason in _WITHOUT_REGLORA.items()
            if arguments.get(key)
        ]
    if arguments.get("asd_ratio"):
        if arguments.get("tokenized_path"):
            faults.append(
                "`tokenized_path` cannot be combined with `asd_ratio`: a tokenized dataset skips the step that "
                "rewrites samples, and would silently train without ASD. Drop one of the two."
            )
        if arguments.get("streaming"):
            faults.append(
                "`streaming` cannot be combined with `asd_ratio`: an exact share needs the number of samples. "
                "Drop one of the two."
            )
    return faults
