"""The keys of every task, tried by the host's own parser, and its adapter built without weights."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
from llamafactory.data.template import TEMPLATES
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
from llamafactory.model.loader import load_config
from llamafactory.model.patcher import patch_config
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import Trainer, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from sefe_plugin.carry import CARRIES
from sefe_plugin.hosts.llamafactory.architecture import adapt, build_base
from sefe_plugin.hosts.llamafactory.host import section_of
from sefe_plugin.methods import methods
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.job import task_arguments
from sefe_plugin.words import near


#: Keys without which the host's parser says nothing of the others.
_NEEDED = ("model_name_or_path", "template", "dataset", "output_dir", "stage", "do_train", "finetuning_type")

#: Keys of which only the machine that trains can say whether it has what they need.
DEVICE_KEYS = (
    "bf16",
    "fp16",
    "tf32",
    "pure_bf16",
    "bf16_full_eval",
    "fp16_full_eval",
    "deepspeed",
    "fsdp",
    "fsdp_config",
)


class Parsed(NamedTuple):
    """The host's arguments of a task."""

    model: Any
    data: Any
    training: Any
    finetuning: Any
    generating: Any


class Keys:
    """The keys of the tasks of a recipe, each task as if it were the first.

    Args:
        recipe: The checked recipe, with its data if a benchmark brings it.
        folder: An empty folder that stands for the run's.
        here: Whether this machine is the one that trains.

    Attributes:
        errors: One sentence each.
        notes: What was not tried, one sentence each.
        parsed: The host's arguments of the tasks, by their index; absent where they cannot be parsed.
    """

    def __init__(self, recipe: Recipe, folder: Path, here: bool):
        self._recipe, self._here = recipe, here
        self.errors: list[str] = []
        self.notes: list[str] = []
        self.parsed: dict[int, Parsed] = {}
        self._loaded: dict[str, Mapping[str, Any]] = {}
        keys = [task_arguments(recipe.arguments, [task], 0, RunFolder(folder)) for task in recipe.tasks]
        untried = sorted({key for key in DEVICE_KEYS if any(k.get(key) for k in keys)})
        if untried and not here:
            self.notes.append(f"{_ticked(untried)} cannot be tried here: only the machine that trains can tell.")
            keys = [{key: value for key, value in k.items() if key not in untried} for k in keys]
        sound = []
        for index, known in enumerate(keys):
            parsed, errors = _parse(known, here)
            self._add(index, errors)
            if parsed is not None:
                self.parsed[index] = parsed
                sound += [] if errors else [index]
        self._try_template()
        if sound:
            self._try_adapters(keys, sound)

    def loaded(self, index: int, for_questions: bool = False) -> Mapping[str, Any] | None:
        """Return the host's tokenizer and processor of a task; None where they are not on this machine.

        Args:
            index: Of the task.
            for_questions: Whether test sets are asked with them, which fills the tokenizer's lines from the left.
        """
        model_args = self.parsed[index].model
        key = repr((for_questions, sorted(vars(model_args).items(), key=str)))
        if key not in self._loaded:
            try:
                loaded = load_tokenizer(copy.copy(model_args))
            except (OSError, ValueError):
                self._loaded[key] = None
            else:
                # from a folder without tokenizer files, Transformers makes one that knows only special tokens
                known = len(loaded["tokenizer"]) > len(loaded["tokenizer"].all_special_tokens) + 1
                self._loaded[key] = loaded if known else None
        return self._loaded[key]

    def _add(self, index: int, errors: Sequence[str]) -> None:
        """Add errors of a task; what the recipe says for all tasks is told once."""
        overrides = self._recipe.tasks[index].overrides
        for error in errors:
            own = any(f"`{key}`" in error for key in overrides)
            told = f"{self._where(index)}{error}" if own else error
            if told not in self.errors:
                self.errors.append(told)

    def _where(self, index: int) -> str:
        return f"task {index + 1} ({self._recipe.tasks[index].name}): "

    def _try_template(self) -> None:
        name = self._recipe.arguments["template"]
        if name not in TEMPLATES:
            self.errors.append(f"`template` must be a template of LLaMA-Factory; got {name!r}.{near(name, TEMPLATES)}")

    def _try_adapters(self, keys: Sequence[Mapping[str, Any]], tasks: Sequence[int]) -> None:
        """Build the model of each of some tasks with what is trained, and let method and carry look at it."""
        first = self.parsed[tasks[0]]
        try:
            config = load_config(copy.copy(first.model))
        except (OSError, ValueError) as error:
            self.parsed.clear()  # without a model no record can be tried either
            reason = " ".join(str(error).split())
            self.errors.append(
                f"`model_name_or_path`: the configuration of {first.model.model_name_or_path} cannot be read "
                f"({reason}). Download the model, or only its config.json, or give the path of a folder that holds it."
            )
            return
        built: dict[str, tuple[list[str], tuple[str, ...]]] = {}
        matrices: dict[int, tuple[str, ...]] = {}
        method = methods()[self._recipe.arguments["cl_method"]]
        carry = CARRIES[self._recipe.arguments["carry"]]
        for index, parsed in ((index, self.parsed[index]) for index in tasks):
            shape = repr(
                [sorted(vars(part).items(), key=str) for part in (parsed.model, _untested(parsed.finetuning))]
            )
            if shape not in built:
                built[shape] = self._try_adapter(copy.deepcopy(config), index, carry)
            errors, matrices[index] = built[shape]
            self._add(index, errors)
        owners = [
            f"`{key}: {self._recipe.arguments[key]}`"
            for key, part in (("cl_method", method), ("carry", carry))
            if part.same_matrices
        ]
        if owners and not self.errors:
            self._compare(keys, matrices, " and ".join(owners))

    def _try_adapter(self, config, index: int, carry) -> tuple[list[str], tuple[str, ...]]:
        """Return what is wrong with what a task trains, and the names of the matrices that it adapts."""
        parsed = self.parsed[index]
        model_args, finetuning_args = copy.deepcopy(parsed.model), _untested(parsed.finetuning)
        kind = f"`model_name_or_path`: {config.model_type}"
        try:
            if self._here and (loaded := self.loaded(index)) is not None:
                patch_config(copy.deepcopy(config), loaded["tokenizer"], model_args, {}, True)
        except Exception as error:  # of precision, attention, quantization and what they need
            return [f"{kind} cannot be loaded as the recipe says: {_quote(error)}."], ()
        if reason := _unbuildable(config, model_args):
            return self._leave(f"{kind} {reason}")
        unset_hf_deepspeed_config()  # a model without weights has nothing to partition
        try:
            base = build_base(config)
        except Exception as error:  # the host has more ways to build a model
            return self._leave(f"{kind} cannot be built without its weights ({error})")
        names = [name for name, _ in base.named_modules()]
        if errors := list(_absent_targets(names, finetuning_args)):
            return errors, ()
        try:
            model = adapt(config, base, model_args, finetuning_args)
        except Exception as error:  # whatever the host says here, it would say when the task starts
            return [f"{kind} cannot be adapted as the recipe says: {_quote(error)}."], ()
        adapted = tuple(name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer))
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return ["nothing is trained: all weights are frozen. Set one of the `freeze_...` keys to false."], ()
        errors = list(_unadapted_targets(adapted, finetuning_args))
        return errors + carry.model_errors(model), adapted

    def _leave(self, reason: str) -> tuple[list[str], tuple[str, ...]]:
        """Leave the adapters of a model to the host."""
        note = f"{reason}: what is trained of it LLaMA-Factory tries only when a task starts."
        if note not in self.notes:
            self.notes.append(note)
        return [], ()

    def _compare(
        self, keys: Sequence[Mapping[str, Any]], matrices: Mapping[int, tuple[str, ...]], owners: str
    ) -> None:
        """Refuse tasks that adapt other matrices than the first."""
        first, *others = matrices
        for index in others:
            if differing := sorted(set(matrices[first]) ^ set(matrices[index])):
                tasks = (self._recipe.tasks[first], self._recipe.tasks[index])
                changed = sorted(
                    key
                    for key in {
                        key for task in tasks for key in task.overrides if section_of(key) in ("model", "method")
                    }
                    if keys[first].get(key) != keys[index].get(key)
                )
                self.errors.append(
                    f"{self._where(index)}{_ticked(changed)} makes it adapt other matrices than task {first + 1} "
                    f"({tasks[0].name}), such as {differing[0].removeprefix('base_model.model.')}; "
                    f"{owners} needs the same in every task. Give all tasks the same value."
                )


def _unbuildable(config, model_args) -> str | None:
    """Tell why a model is not built here as the host builds it, as a clause whose subject is the model."""
    if "auto_map" in config.to_dict():
        return "has code of its own"
    if model_args.use_unsloth or model_args.use_kt:
        return "is adapted by another library"
    return None


def _parse(keys: Mapping[str, Any], here: bool) -> tuple[Parsed | None, list[str]]:
    """Let the host parse the keys of a task; each key that it refuses is told, then left out."""
    keys, errors = dict(keys), []
    while True:
        try:
            parsed = Parsed(*get_train_args(dict(keys)))
        except Exception as error:  # the host raises many kinds, all of which end a task
            culprit = _culprit(keys, error)
            if culprit is None:
                return None, [*errors, f"LLaMA-Factory refuses the keys: {_quote(error)}."]
            errors.append(
                f"`{culprit}` cannot be {keys[culprit]!r}: {_quote(error)}.{_near_in(keys[culprit], str(error))}"
            )
            del keys[culprit]
            continue
        return parsed, errors + list(_misfits(parsed, keys)) + (list(_late_errors(parsed)) if here else [])


def _culprit(keys: Mapping[str, Any], error: Exception) -> str | None:
    """Return the key without which the host does not raise this error."""
    named = [key for key in keys if key not in _NEEDED]
    for key in sorted(named, key=lambda key: key not in str(error) and str(keys[key]) not in str(error)):
        try:
            get_train_args({other: value for other, value in keys.items() if other != key})
        except Exception as other:
            if str(other) == str(error):
                continue
        return key
    return None


def _misfits(parsed: Parsed, keys: Mapping[str, Any]) -> Iterator[str]:
    """Tell values that the host's parser lets pass although they are not what its classes declare."""
    for part in parsed:
        types = get_type_hints(type(part)) if is_dataclass(part) else {}
        for name in (field.name for field in fields(part) if field.name in keys):
            value, members = vars(part)[name], get_args(types[name]) or (types[name],)
            enums = [member for member in members if isinstance(member, type) and issubclass(member, Enum)]
            choices = [choice.value for enum in enums for choice in enum]
            if (
                enums
                and value is not None
                and not isinstance(value, Enum)
                and value not in choices
                and str not in members
            ):
                yield f"`{name}` must be one of {tuple(choices)}; got {value!r}.{near(value, map(str, choices))}"
            elif (
                isinstance(value, str)
                and not enums
                and set(members) - {NoneType}
                and set(members) <= {int, float, bool, NoneType}
            ):
                yield f"`{name}` must be a number; got the text {value!r}. Write it without quotes."


def _late_errors(parsed: Parsed) -> Iterator[str]:
    """Tell what the host would refuse only when it has loaded the model: trackers, optimizer, schedule, precision."""
    training = parsed.training
    parameter = nn.Parameter(torch.zeros(1))
    attempts = {
        "report_to": lambda: get_reporting_integration_callbacks(training.report_to),
        "optim": lambda: Trainer.get_optimizer_cls_and_kwargs(training, nn.Linear(1, 1)),
        "lr_scheduler_type": lambda: get_scheduler(
            training.lr_scheduler_type,
            torch.optim.SGD([parameter], lr=1.0),
            num_warmup_steps=training.get_warmup_steps(10),
            num_training_steps=10,
            scheduler_specific_kwargs=training.lr_scheduler_kwargs,
        ),
    }
    for key, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:  # libraries that are absent, names that are unknown
            value = getattr(vars(training)[key], "value", vars(training)[key])
            yield f"`{key}` cannot be {value!r}: {_quote(error)}.{_near_in(value, str(error))}"
    if training.fp16 and training.device.type == "cpu":
        yield "`fp16` needs a GPU, and this machine shows none. Remove it."


def _absent_targets(names: Sequence[str], finetuning_args) -> Iterator[str]:
    """Tell the targets that name no module."""
    if finetuning_args.finetuning_type != "lora":
        return
    leaves = {name.rsplit(".", 1)[-1] for name in names} - {""}
    for key in ("lora_target", "additional_target"):
        for target in vars(finetuning_args)[key] or ():
            if not (key == "lora_target" and target == "all") and not any(target in name for name in names):
                yield f"`{key}` names {target!r}, which is no module of the model.{near(target, leaves)}"


def _unadapted_targets(adapted: Sequence[str], finetuning_args) -> Iterator[str]:
    """Tell the targets that are modules of the model, but are not adapted."""
    if finetuning_args.finetuning_type != "lora":
        return
    for target in finetuning_args.lora_target:
        if target != "all" and not any(target in name for name in adapted):
            yield (
                f"`lora_target` names {target!r}, which LLaMA-Factory leaves as it is, frozen by "
                "`freeze_vision_tower`, `freeze_multi_modal_projector` or `freeze_language_model`. Change one of them."
            )


def _untested(finetuning_args):
    """Return the arguments without what is done after the training."""
    changed = copy.copy(finetuning_args)
    changed.test_sets, changed.merge_adapter = None, False
    return changed


def _near_in(value: Any, text: str) -> str:
    """Return a hint at the word of a message that is most like a value."""
    return near(str(value), [word for word in re.findall(r"[\w.-]{3,}", text) if word != str(value)])


def _ticked(keys: Sequence[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


def _quote(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"LLaMA-Factory says {text!r}" if text else f"LLaMA-Factory stops with {type(error).__name__}"
