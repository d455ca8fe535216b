"""LLaMA-Factory's recipe keys, read from the source of its argument classes.

Importing those classes takes ten seconds, because it imports PyTorch; parsing their source takes a tenth of one, so
that a recipe is checked before anything heavy starts.
"""

import ast
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sefe_plugin.hosts.llamafactory.switches import SWITCH_KEYS
from sefe_plugin.recipe.keys import HostKey, HostKeys, Range


#: Source file -> section of a recipe its keys belong to.
_SOURCES = {
    ("llamafactory", "hparams/model_args.py"): "model",
    ("llamafactory", "hparams/finetuning_args.py"): "method",
    ("llamafactory", "hparams/data_args.py"): "dataset",
    ("llamafactory", "hparams/training_args.py"): "train",
    ("llamafactory", "hparams/generating_args.py"): "generation",
    ("transformers", "training_args.py"): "train",
    ("transformers", "training_args_seq2seq.py"): "train",
}
#: Source files of the enumerations that these classes name: what such a key may be.
_ENUM_SOURCES = (
    ("llamafactory", "extras/constants.py"),
    ("transformers", "trainer_utils.py"),
    ("transformers", "training_args.py"),
)

_OUTPUT_KEYS = ("output_dir", "logging_steps", "save_steps", "save_strategy", "plot_loss", "report_to", "run_name")

#: Keys for which the host takes a list as well as names separated by commas.
_NAMES = (
    "dataset",
    "eval_dataset",
    "lora_target",
    "oft_target",
    "additional_target",
    "galore_target",
    "apollo_target",
    "freeze_trainable_modules",
    "freeze_extra_modules",
)

#: Keys for which the host takes true and false as well, beside what its annotation says.
_SWITCHES = ("fsdp", "resume_from_checkpoint")

#: Keys of mappings for which a text may name a file.
_FILES = ("accelerator_config", "deepspeed", "fsdp_config")

#: Keys that name a file or folder, or may; such as a sequence refuses are left out.
_PATHS = (
    *_FILES,
    "adapter_folder",
    "cache_dir",
    "dataset_dir",
    "generation_config",
    "logging_dir",
    "media_dir",
    "model_name_or_path",
    "new_special_tokens_config",
    "offload_folder",
    "output_dir",
    "profiler_output_dir",
    "swanlab_logdir",
    "tokenized_path",
)

#: Keys with one possible value in a sequence, and why.
_FIXED = {
    "stage": ("sft", "tasks are trained by supervised fine-tuning"),
    "do_train": (True, "every task is trained"),
}

#: Keys that cannot be part of a sequence, and why.
_REFUSED = {
    "dataset": "each task names its own dataset",
    "adapter_name_or_path": "the sequence carries the adapters itself",
    "create_new_adapter": "the sequence carries the adapters itself",
    "do_predict": "the sequence scores the test sets itself",
    "predict_with_generate": "the sequence scores the test sets itself",
    "resume_from_checkpoint": "the same command resumes by itself",
    "overwrite_output_dir": "the same command resumes by itself; for a fresh start choose another `output_dir`",
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision", "export_hub_model_id"),
        "LLaMA-Factory would push every task, each over the one before; `sefe export RUN --out DIR --push REPO_ID` "
        "pushes the model of all tasks, afterwards",
    ),
}

#: What LlamaBoard writes into an output folder before it starts a training there.
_FILES_OF_THE_BOARD = ("llamaboard_config.yaml", "training_args.yaml")

#: Keys in which tasks cannot differ.
_WHOLE_SEQUENCE = (
    "output_dir",
    "model_name_or_path",
    # each task is followed by the test sets of all before it, whose questions are asked as its own are
    "dataset_dir",
    "media_dir",
    "template",
    "default_system",
    "tool_format",
    "enable_thinking",
    "preserve_thinking",
    "image_max_pixels",
    "image_min_pixels",
    "image_do_pan_and_scan",
    "crop_to_patches",
    "max_new_tokens",
)

#: Keys that say how a task is computed or shown, not what it learns.
_COMPUTING = (
    "dataloader_num_workers",
    "ddp_timeout",
    "disable_gradient_checkpointing",
    "logging_steps",
    "per_device_eval_batch_size",
    "plot_loss",
    "preprocessing_num_workers",
    "report_to",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "vllm_config",
    "vllm_enforce_eager",
    "vllm_gpu_util",
    "vllm_maxlen",
)

#: Keys that hold secrets, and what to do in place of them.
_SECRETS = {
    "hf_hub_token": "Set the environment variable HF_TOKEN, or run `hf auth login` once",
    "hub_token": "Set the environment variable HF_TOKEN, or run `hf auth login` once",
    "ms_hub_token": "Run `modelscope login` once",
    "om_hub_token": "Download the model first, and name its folder",
    "swanlab_api_key": "Set the environment variable SWANLAB_API_KEY, or run `swanlab login` once",
    "swanlab_lark_webhook_url": "A sequence sends no messages to Lark",
    "swanlab_lark_secret": "A sequence sends no messages to Lark",
}

#: What Transformers, PEFT, TRL, other trainers and other recipes call a key.
_OTHER_NAMES = {
    "accumulation_steps": "gradient_accumulation_steps",
    "alpha": "lora_alpha",
    "attn_implementation": "flash_attn",
    "base_model": "model_name_or_path",
    "batch_size": "per_device_train_batch_size",
    "bits": "quantization_bit",
    "chat_template": "template",
    "data_dir": "dataset_dir",
    "dropout": "lora_dropout",
    "epochs": "num_train_epochs",
    "eval_batch_size": "per_device_eval_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
    "image_dir": "media_dir",
    "image_folder": "media_dir",
    "load_in_4bit": "quantization_bit",
    "load_in_8bit": "quantization_bit",
    "lora_modules": "lora_target",
    "lora_r": "lora_rank",
    "lora_target_modules": "lora_target",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "max_seq_len": "cutoff_len",
    "max_seq_length": "cutoff_len",
    "max_tokens": "max_new_tokens",
    "max_train_samples": "max_samples",
    "micro_batch_size": "per_device_train_batch_size",
    "model": "model_name_or_path",
    "model_id": "model_name_or_path",
    "model_max_length": "cutoff_len",
    "model_name": "model_name_or_path",
    "model_path": "model_name_or_path",
    "modules_to_save": "additional_target",
    "num_epochs": "num_train_epochs",
    "num_workers": "dataloader_num_workers",
    "optimizer": "optim",
    "out": "output_dir",
    "out_dir": "output_dir",
    "output": "output_dir",
    "output_path": "output_dir",
    "r": "lora_rank",
    "rank": "lora_rank",
    "save_dir": "output_dir",
    "scheduler": "lr_scheduler_type",
    "sequence_len": "cutoff_len",
    "steps": "max_steps",
    "target_modules": "lora_target",
    "train_batch_size": "per_device_train_batch_size",
    "warmup": "warmup_steps",
}

_ABOVE_0 = Range("more than 0", lambda number: number > 0)
_AT_LEAST_0 = Range("at least 0", lambda number: number >= 0)
_AT_LEAST_1 = Range("at least 1", lambda number: number >= 1)
_BELOW_1 = Range("at least 0 and less than 1", lambda number: 0 <= number < 1)

#: Numbers beyond which the host stops when a task has begun, or trains nothing without a word.
_RANGES = {
    **dict.fromkeys(("adam_epsilon", "learning_rate", "lora_alpha", "num_train_epochs"), _ABOVE_0),
    **dict.fromkeys(
        ("dataloader_num_workers", "max_grad_norm", "val_size", "warmup_steps", "weight_decay"), _AT_LEAST_0
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "lora_dropout"), _BELOW_1),
    **dict.fromkeys(
        (
            "cutoff_len",
            "gradient_accumulation_steps",
            "lora_rank",
            "max_new_tokens",
            "max_samples",
            "per_device_eval_batch_size",
            "per_device_train_batch_size",
            "preprocessing_num_workers",
        ),
        _AT_LEAST_1,
    ),
}

_BATCH = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}

_PARAMETRISATIONS = {"lora": {"finetuning_type": "lora"}, "full": {"finetuning_type": "full"}}


@cache
def host_keys() -> HostKeys:
    """Return what a sequence has to know of LLaMA-Factory's keys."""
    return HostKeys(
        _read_keys(),
        _FIXED,
        _REFUSED,
        SWITCH_KEYS,
        _WHOLE_SEQUENCE,
        _COMPUTING,
        _BATCH,
        _PARAMETRISATIONS,
        _SECRETS,
        _FILES_OF_THE_BOARD,
        _OTHER_NAMES,
        _RANGES,
        _PATHS,
    )


def _read_keys() -> dict[str, HostKey]:
    """Return every key that LLaMA-Factory accepts in a training recipe, with its section and type.

    Raises:
        RuntimeError: if a source file of the installed host is not where it is expected.
    """
    keys = {}
    enums = {name: choices for source in _ENUM_SOURCES for name, choices in _enums(_parsed(*source)).items()}
    for (package, file), section in _SOURCES.items():
        for node in _parsed(package, file).body:
            if isinstance(node, ast.ClassDef) and _is_dataclass(node):
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_init(field):
                        name = field.target.id
                        types = _accepted(name, _types(field.annotation, enums))
                        keys[name] = HostKey("output" if name in _OUTPUT_KEYS else section, types)
    return keys


def _parsed(package: str, file: str) -> ast.Module:
    source = Path(find_spec(package).submodule_search_locations[0]) / file
    if not source.is_file():
        raise RuntimeError(f"{source} does not exist: this version of {package} is not supported.")
    return ast.parse(source.read_text(encoding="utf-8"))


def _accepted(name: str, types: tuple | None) -> tuple | None:
    """Return what the host makes of a key beside what its annotation says."""
    if types is None:
        return None
    if "dict" in types and name not in _FILES:
        types = tuple("json" if item == "str" else item for item in types)
    return types + ("names",) * (name in _NAMES) + ("bool",) * (name in _SWITCHES)


def _enums(module: ast.Module) -> dict[str, tuple]:
    """Return the enumerations of words in a source file: class -> its words, as literal values."""
    enums = {}
    for node in module.body:
        bases = [base.id for base in getattr(node, "bases", ()) if isinstance(base, ast.Name)]
        if isinstance(node, ast.ClassDef) and any(base.endswith("Enum") for base in bases):
            values = [item.value for item in node.body if isinstance(item, ast.Assign)]
            enums[node.name] = tuple(("literal", value.value) for value in values if isinstance(value, ast.Constant))
    return enums


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(isinstance(decorator, ast.Name) and decorator.id == "dataclass" for decorator in node.decorator_list)


def _is_init(field: ast.AnnAssign) -> bool:
    """Tell keys from `field(init=False)`, which is none."""
    keywords = field.value.keywords if isinstance(field.value, ast.Call) else []
    return not any(k.arg == "init" and isinstance(k.value, ast.Constant) and k.value.value is False for k in keywords)


def _types(annotation: ast.expr, enums: Mapping[str, tuple]) -> tuple | None:
    """Return the alternatives of an annotation: type names and literal values; None when any value may be right.

    A class of which no recipe can hold a value adds nothing.
    """
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _types(ast.parse(annotation.value, mode="eval").body, enums)
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return ("None",)
    if isinstance(annotation, ast.Name):
        if annotation.id in ("int", "float", "bool", "str", "list", "dict"):
            return (annotation.id,)
        return None if annotation.id == "Any" else enums.get(annotation.id, ())
    if isinstance(annotation, ast.BinOp):
        return _union([annotation.left, annotation.right], enums)
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if annotation.value.id == "Optional":
            return _union([*inner, ast.Constant(None)], enums)
        if annotation.value.id == "Union":
            return _union(inner, enums)
        if annotation.value.id == "Literal":
            return tuple(("literal", item.value) for item in inner)
        if annotation.value.id in ("list", "dict"):
            return (annotation.value.id,)
    return None


def _union(members: list[ast.expr], enums: Mapping[str, tuple]) -> tuple | None:
    alternatives = [_types(member, enums) for member in members]
    return None if None in alternatives else tuple(item for types in alternatives for item in types)
