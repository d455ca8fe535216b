"""LLaMA-Factory's recipe keys, read from the source of its argument classes.

Importing those classes takes ten seconds, because it imports PyTorch; parsing their source takes a tenth of one, so
that a recipe is checked before anything heavy starts.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sefe_plugin.recipe.keys import HostKey, HostKeys


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
    "use_hyper_parallel": "its training is not the one that this plugin extends",
    "overwrite_output_dir": "the same command resumes by itself; for a fresh start choose another `output_dir`",
}

#: Keys in which tasks cannot differ.
_WHOLE_SEQUENCE = (
    "output_dir",
    "model_name_or_path",
    "dataset_dir",  # each task is followed by the test sets of all before it
    "media_dir",
    "template",
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

_BATCH = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}

_PARAMETRISATIONS = {"lora": {"finetuning_type": "lora"}, "full": {"finetuning_type": "full"}}


@cache
def host_keys() -> HostKeys:
    """Return what a sequence has to know of LLaMA-Factory's keys."""
    return HostKeys(_read_keys(), _FIXED, _REFUSED, _WHOLE_SEQUENCE, _COMPUTING, _BATCH, _PARAMETRISATIONS)


def _read_keys() -> dict[str, HostKey]:
    """Return every key that LLaMA-Factory accepts in a training recipe, with its section and type.

    Raises:
        RuntimeError: if a source file of the installed host is not where it is expected.
    """
    keys = {}
    for (package, file), section in _SOURCES.items():
        source = Path(find_spec(package).submodule_search_locations[0]) / file
        if not source.is_file():
            raise RuntimeError(f"{source} does not exist: this version of {package} is not supported.")
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and _is_dataclass(node):
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_init(field):
                        name = field.target.id
                        keys[name] = HostKey("output" if name in _OUTPUT_KEYS else section, _types(field.annotation))
    for name in _NAMES:
        keys[name] = HostKey(keys[name].section, (*keys[name].types, "names"))
    return keys


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(isinstance(decorator, ast.Name) and decorator.id == "dataclass" for decorator in node.decorator_list)


def _is_init(field: ast.AnnAssign) -> bool:
    """Tell keys from `field(init=False)`, which is none."""
    keywords = field.value.keywords if isinstance(field.value, ast.Call) else []
    return not any(k.arg == "init" and isinstance(k.value, ast.Constant) and k.value.value is False for k in keywords)


def _types(annotation: ast.expr) -> tuple | None:
    """Return the alternatives of an annotation: type names and literal values; None when any value may be right."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _types(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return ("None",)
    if isinstance(annotation, ast.Name) and annotation.id in ("int", "float", "bool", "str", "list", "dict"):
        return (annotation.id,)
    if isinstance(annotation, ast.BinOp):
        return _union([annotation.left, annotation.right])
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if annotation.value.id == "Optional":
            return _union([*inner, ast.Constant(None)])
        if annotation.value.id == "Union":
            return _union(inner)
        if annotation.value.id == "Literal":
            return tuple(("literal", item.value) for item in inner)
        if annotation.value.id in ("list", "dict"):
            return (annotation.value.id,)
    return None


def _union(members: list[ast.expr]) -> tuple | None:
    alternatives = [_types(member) for member in members]
    return None if None in alternatives else tuple(item for types in alternatives for item in types)
