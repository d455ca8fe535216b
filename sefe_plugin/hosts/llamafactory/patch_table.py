"""Every patch of LLaMA-Factory in one table, applied to a module right after it has run; and its undo.

A patch raises `HostChangedError` when its anchor is gone, which happens only in a host version that this plugin was
not tested with. `docs/patches.md` shows the table, with what is changed outside of LLaMA-Factory.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sefe_plugin.hosts import hook
from sefe_plugin.hosts.llamafactory import patches
from sefe_plugin.methods import methods
from sefe_plugin.methods.base import METHOD_LOG
from sefe_plugin.patching import VARIABLE, Patch, is_on, switched_off
from sefe_plugin.recipe.options import plugin_keys
from sefe_plugin.words import near


class HostChangedError(RuntimeError):
    """An anchor in LLaMA-Factory is not where this plugin expects it."""


@dataclass(frozen=True)
class HostPatch(Patch):
    """A patch of LLaMA-Factory.

    Attributes:
        replace: Given what the anchors name, returns what is to take their places, in the same order.
    """

    replace: Callable[..., tuple[Any, ...]] = tuple


_HPARAMS = "llamafactory.hparams"
_TASK_KEYS = ("cl_method", "test_sets", "merge_adapter")

#: What is changed in LLaMA-Factory.
TABLE = (
    HostPatch(
        "command",
        "llamafactory.cli",
        ("main",),
        "`llamafactory-cli train` runs sequences, and checks recipes before anything heavy is imported",
        replace=patches.command,
    ),
    HostPatch(
        "command",
        "llamafactory.launcher",
        ("launch",),
        "the same for `python -m llamafactory.cli train`",
        replace=patches.command,
    ),
    HostPatch(
        "command",
        "llamafactory.v1.launcher",
        ("launch",),
        "the same with `USE_V1=1`, under which the plugin's keys are refused",
        replace=patches.command,
    ),
    HostPatch(
        "include",
        f"{_HPARAMS}.parser",
        ("read_args",),
        "`include` in recipes that the host itself reads",
        replace=patches.include,
    ),
    HostPatch(
        "model_keys",
        f"{_HPARAMS}.model_args",
        ("ModelArguments",),
        "the plugin's keys of the model",
        replace=patches.model_keys,
    ),
    HostPatch(
        "method_keys",
        f"{_HPARAMS}.finetuning_args",
        ("FinetuningArguments",),
        "the plugin's keys of methods and sequences",
        replace=patches.method_keys,
    ),
    HostPatch(
        "data_keys",
        f"{_HPARAMS}.data_args",
        ("DataArguments",),
        "the plugin's keys of the data",
        replace=patches.data_keys,
    ),
    HostPatch(
        "run_check",
        f"{_HPARAMS}.parser",
        ("get_train_args",),
        "runs with the plugin's keys are checked as a whole, whatever way they are started",
        replace=patches.run_check,
    ),
    HostPatch(
        "pad_images",
        "llamafactory.model.loader",
        ("load_tokenizer",),
        "images are padded to a square",
        keys=("pad_images",),
        needs=("model_keys",),
        replace=patches.pad_images,
    ),
    HostPatch(
        "whole_checkpoint",
        "llamafactory.model.loader",
        ("load_model",),
        "a sequence starts from whole checkpoints only",
        needs=("method_keys",),
        replace=patches.whole_checkpoint,
    ),
    HostPatch(
        "weight_names",
        "llamafactory.model.loader",
        ("load_model",),
        "saved weights have the names of the model's own modules, which every version of transformers reads",
        needs=("method_keys",),
        replace=patches.weight_names,
    ),
    HostPatch(
        "adapter",
        "llamafactory.model.adapter",
        ("_setup_lora_tuning",),
        "the method's adapter in place of plain LoRA, on top of stacked ones",
        keys=("cl_method", "stacked_adapter"),
        needs=("method_keys",),
        replace=patches.adapter,
    ),
    HostPatch(
        "asd",
        "llamafactory.data.loader",
        ("_get_merged_dataset", "align_dataset", "split_dataset"),
        "a share of each training dataset in other answer styles",
        keys=("asd_ratio",),
        needs=("data_keys",),
        replace=patches.asd,
    ),
    HostPatch(
        "added",
        "llamafactory.data.loader",
        ("get_dataset", "_get_preprocessed_dataset"),
        "samples of earlier tasks and general ones beside a task's own, and image tokens by the sizes of images",
        keys=("replay_ratio", "mix"),
        needs=("data_keys",),
        replace=patches.added,
    ),
    HostPatch(
        "projector",
        "llamafactory.train.sft.trainer",
        ("create_custom_optimizer",),
        "a learning rate of its own for the multimodal projector",
        keys=("projector_learning_rate",),
        needs=("method_keys",),
        replace=patches.projector,
    ),
    HostPatch(
        "sample_loss",
        "llamafactory.train.sft.trainer",
        ("CustomSeq2SeqTrainer",),
        "a loss in which samples weigh the same, however long their answers are",
        keys=("asd_loss",),
        needs=("method_keys",),
        replace=patches.sample_loss,
    ),
    HostPatch(
        "task",
        "llamafactory.train.tuner",
        ("run_sft",),
        "the method's callback in a training; scores and the merged model after it",
        keys=_TASK_KEYS,
        needs=("method_keys",),
        replace=patches.task,
    ),
    HostPatch(
        "merge_on_disk",
        "llamafactory.train.tuner",
        ("load_model",),
        "an export with `cl_method` merges the adapter part by part from disk, where that gives the same",
        needs=("method_keys",),
        replace=patches.merge_on_disk,
    ),
)

#: What is changed for a while, or in other packages.
ELSEWHERE = (
    Patch(
        "adapter",
        "llamafactory.model.adapter",
        ("LoraConfig", "PeftModel"),
        "the class of the method's adapter",
        lasts="while an adapter is built",
    ),
    Patch(
        "whole_checkpoint",
        "transformers.modeling_utils",
        ("log_state_dict_report",),
        "weights that a checkpoint lacks are an error, not a warning",
        lasts="while a sequence loads its model",
    ),
    METHOD_LOG,
)


def all_patches() -> list[Patch]:
    """Return all patches, those of methods among them; several methods may share one."""
    shared = dict.fromkeys(patch for method in methods().values() for patch in method.patches)
    return [*TABLE, *ELSEWHERE, *shared]


def unknown_names() -> list[str]:
    """List the names in SEFE_PLUGIN_DISABLE that no patch has, one sentence each."""
    known = {patch.name for patch in all_patches()}
    return [
        f"{VARIABLE} names no patch {name!r}; the patches are {', '.join(sorted(known))}.{near(name, known)}"
        for name in sorted(switched_off() - known)
    ]


def switched_off_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List the keys of a recipe that need a patch which is switched off, and unknown names of patches."""
    method = methods().get(str(arguments.get("cl_method")))
    errors = unknown_names()
    for patch in (*TABLE, *(method.patches if method else ())):
        keys = ("cl_method",) if patch not in TABLE else patch.keys
        errors += [
            f"`{key}` needs the patch {patch.name}, which {VARIABLE}={','.join(sorted(switched_off()))} switches off. "
            "Drop one of the two."
            for key in keys
            if arguments.get(key) and arguments[key] != plugin_keys()[key].option.default and not is_on(patch)
        ]
    return errors


#: (module, name, host's, ours) of every exchanged name, in the order of exchange.
_exchanged: list[tuple[str, str, Any, Any]] = []


def apply_to(module: ModuleType) -> None:
    """Apply to a module of LLaMA-Factory, once it has run, its patches that are switched on.

    Raises:
        HostChangedError: If an anchor is gone.
        ValueError: If SEFE_PLUGIN_DISABLE names a patch that does not exist.
    """
    if errors := unknown_names():
        if module.__name__ == "llamafactory.cli":  # a command ends with a message, not with a traceback
            module.main = lambda: sys.exit("\n".join(errors))
            return
        raise ValueError(" ".join(errors))
    for patch in TABLE:
        if patch.module != module.__name__ or not is_on(patch):
            continue
        found = [_anchor(module, name) for name in patch.anchors]
        for name, old, new in zip(patch.anchors, found, patch.replace(*found), strict=True):
            _exchange(module, name, old, new)
            _exchanged.append((module.__name__, name, old, new))


def apply() -> list[str]:
    """Apply the patches that are switched on: at once to what is imported, to the rest when it is.

    Returns:
        The names of the applied patches.
    """
    hook.insert()
    done = {(module, name) for module, name, _, _ in _exchanged}
    for name in hook.ANCHORS:
        if name in sys.modules and not any(module == name for module, _ in done):
            apply_to(sys.modules[name])
    return list(dict.fromkeys(patch.name for patch in TABLE if is_on(patch)))


def undo() -> None:
    """Take all patches back: LLaMA-Factory and PEFT are as they were."""
    hook.remove()
    for module, name, old, new in reversed(_exchanged):
        if module in sys.modules:
            _exchange(sys.modules[module], name, new, old)
    _exchanged.clear()
    for patch in all_patches():
        if patch.undo is not None:
            patch.undo()


def _anchor(module: ModuleType, name: str) -> Any:
    if name not in vars(module):
        raise HostChangedError(
            f"{module.__name__}.{name} does not exist in this version of LLaMA-Factory. Install a version that "
            f"sefe-plugin supports, or set {VARIABLE}=1 to use LLaMA-Factory without it."
        )
    return vars(module)[name]


def _exchange(module: ModuleType, name: str, old: Any, new: Any) -> None:
    """Put an object in the place of another, also where modules of the host have imported it before.

    A name that someone else has changed since is left alone. A function that `module` itself has imported is exchanged
    there alone.
    """
    if vars(module)[name] is old:
        setattr(module, name, new)
    if old.__module__ != module.__name__:
        return
    for other in _host_modules():
        for key, value in list(vars(other).items()):
            if value is old:
                setattr(other, key, new)
            elif isinstance(value, list) and any(item is old for item in value):
                value[:] = [new if item is old else item for item in value]


def _host_modules() -> Iterator[ModuleType]:
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "llamafactory" and isinstance(module, ModuleType):
            yield module


def markdown_table() -> str:
    """Return the table of `docs/patches.md`."""
    lines = ["| name | what is exchanged | what for | lasts | keys that need it |", "| --- | --- | --- | --- | --- |"]
    for patch in all_patches():
        names = ", ".join(f"`{name}`" for name in patch.anchors)
        keys = ", ".join(f"`{key}`" for key in patch.keys)
        lines.append(f"| `{patch.name}` | `{patch.module}`: {names} | {patch.purpose} | {patch.lasts} | {keys} |")
    return "\n".join(lines)
