"""One patch per anchor in LLaMA-Factory, each called once with the module right after it has run.

LLaMA-Factory has no plugin entry points for keys, adapters, dataset steps or callbacks. Remove a patch when the host
offers a public way for its purpose. Each changes nothing for a run that uses none of the plugin's keys, and raises
`HostChangedError` when its anchor is gone, which happens only in a host version this plugin was not tested with.
"""

import sys
from collections.abc import Callable
from dataclasses import field, make_dataclass
from functools import wraps
from types import ModuleType

from sefe_plugin.methods import methods
from sefe_plugin.options import option_types, own_options
from sefe_plugin.recipe.options import (
    SEQUENCE_KEYS,
    DataOptions,
    ImageOptions,
    key_value_errors,
    method_options,
)


class HostChangedError(RuntimeError):
    """An anchor in LLaMA-Factory is not where this plugin expects it."""


def _anchor(module: ModuleType, name: str):
    if name not in vars(module):
        raise HostChangedError(
            f"{module.__name__}.{name} does not exist in this version of LLaMA-Factory. Install a version that "
            "sefe-plugin supports, or set SEFE_PLUGIN_DISABLE=1 to use LLaMA-Factory without it."
        )
    return vars(module)[name]


def patch_cli(module: ModuleType) -> None:
    """Let `llamafactory-cli train` run a sequence of tasks, and check recipes that use the plugin's keys."""
    host_main = _anchor(module, "main")

    @wraps(host_main)
    def main():
        if sys.argv[1:2] == ["train"]:
            from sefe_plugin.hosts.llamafactory.sequence import intercept

            if intercept(sys.argv[2:]):
                return
        host_main()

    module.main = main


def patch_model_args(module: ModuleType) -> None:
    """Add the keys of the model's view of images to the host's arguments and to `--help`."""
    module.ModelArguments = _with_options(_anchor(module, "ModelArguments"), [ImageOptions])


def patch_finetuning_args(module: ModuleType) -> None:
    """Add the keys of the methods and of the sequence to the host's arguments and to `--help`."""

    def check(arguments) -> None:
        for key in SEQUENCE_KEYS:
            if getattr(arguments, key) is not None:
                raise ValueError(f"`{key}` describes a sequence: start it with `llamafactory-cli train RECIPE.yaml`.")
        if arguments.cl_method is not None and arguments.cl_method not in methods():
            raise ValueError(f"`cl_method` must be one of {tuple(methods())}; got {arguments.cl_method!r}.")

    module.FinetuningArguments = _with_options(_anchor(module, "FinetuningArguments"), method_options(), check)


def patch_data_args(module: ModuleType) -> None:
    """Add the keys of the data to the host's arguments and to `--help`."""
    module.DataArguments = _with_options(_anchor(module, "DataArguments"), [DataOptions])


def _with_options(
    host_class: type, options: list[type], check: Callable[[object], None] = lambda arguments: None
) -> type:
    """Return the host's dataclass of arguments with options of the plugin, under the host's name and in its place.

    Args:
        host_class: The host's class.
        options: Dataclasses of options.
        check: What else to check once the values are read.
    """
    keys = [
        (name, option_types(cls)[name], field(default=declared.default, metadata={"help": declared.metadata["help"]}))
        for cls in options
        for name, declared in own_options(cls).items()
    ]

    def __post_init__(self):  # noqa: N807 - the dataclass's own
        host_class.__post_init__(self)
        for name, annotation, _ in keys:
            value = getattr(self, name)
            if annotation == list[str] | None and isinstance(value, str):
                setattr(self, name, [word.strip() for word in value.split(",")])
        check(self)
        if errors := key_value_errors(vars(self)):
            raise ValueError(" ".join(errors))

    ours = make_dataclass(host_class.__name__, keys, bases=(host_class,), namespace={"__post_init__": __post_init__})
    ours.__doc__ = host_class.__doc__
    # so that it can be sent to other processes
    ours.__module__, ours.__qualname__ = host_class.__module__, host_class.__qualname__
    return ours


def patch_model_loader(module: ModuleType) -> None:
    """Pad images to a square with `pad_images`, and let a sequence start from whole checkpoints only."""
    host_tokenizer, host_model = _anchor(module, "load_tokenizer"), _anchor(module, "load_model")

    @wraps(host_tokenizer)
    def load_tokenizer(model_args):
        loaded = host_tokenizer(model_args)
        if model_args.pad_images and loaded["processor"] is not None:
            from sefe_plugin.hosts.llamafactory.images import pad_images

            pad_images(loaded["processor"])
        return loaded

    @wraps(host_model)
    def load_model(tokenizer, model_args, finetuning_args, *args, **kwargs):
        if not finetuning_args.test_sets:
            return host_model(tokenizer, model_args, finetuning_args, *args, **kwargs)
        from sefe_plugin.hosts.llamafactory.base_check import whole_checkpoint

        with whole_checkpoint():
            return host_model(tokenizer, model_args, finetuning_args, *args, **kwargs)

    module.load_tokenizer, module.load_model = load_tokenizer, load_model


def patch_adapter(module: ModuleType) -> None:
    """Make the host build, or continue, a method's adapter in place of plain LoRA, on top of stacked ones if any."""
    host_function = _anchor(module, "_setup_lora_tuning")
    for name in ("LoraConfig", "PeftModel"):
        _anchor(module, name)

    @wraps(host_function)
    def _setup_lora_tuning(config, model, model_args, finetuning_args, is_trainable, cast_trainable_params_to_fp32):
        arguments = (config, model, model_args, finetuning_args, is_trainable, cast_trainable_params_to_fp32)
        if not is_trainable:
            return host_function(*arguments)
        if not (finetuning_args.cl_method or finetuning_args.stacked_adapter or finetuning_args.test_sets):
            return host_function(*arguments)
        from sefe_plugin.hosts.llamafactory.adapter import set_up_adapter

        return set_up_adapter(module, host_function, *arguments)

    module._setup_lora_tuning = _setup_lora_tuning


def patch_loader(module: ModuleType) -> None:
    """Rewrite the share `asd_ratio` of every training dataset, after it is aligned and before it is tokenized."""
    host_merge, host_align = _anchor(module, "_get_merged_dataset"), _anchor(module, "align_dataset")
    names = iter(())  # of the training datasets that are still to be aligned, one after the other

    @wraps(host_merge)
    def _get_merged_dataset(dataset_names, model_args, data_args, training_args, *args, **kwargs):
        nonlocal names
        diversified = dataset_names is data_args.dataset and data_args.asd_ratio and training_args.do_train
        names = iter(dataset_names if diversified else ())
        return host_merge(dataset_names, model_args, data_args, training_args, *args, **kwargs)

    @wraps(host_align)
    def align_dataset(dataset, dataset_attr, data_args, training_args):
        aligned = host_align(dataset, dataset_attr, data_args, training_args)
        name = next(names, None)
        if name is None:
            return aligned
        from sefe_plugin.hosts.llamafactory.dataset import diversify_dataset

        return diversify_dataset(aligned, name, data_args.asd_ratio, training_args)

    module._get_merged_dataset, module.align_dataset = _get_merged_dataset, align_dataset


def patch_tuner(module: ModuleType) -> None:
    """Add the callbacks of a task to supervised fine-tuning, and score and merge after it."""
    host_function = _anchor(module, "run_sft")

    @wraps(host_function)
    def run_sft(model_args, data_args, training_args, finetuning_args, generating_args, callbacks=None):
        arguments = (model_args, data_args, training_args, finetuning_args, generating_args)
        if not (finetuning_args.cl_method or finetuning_args.test_sets or finetuning_args.merge_adapter):
            return host_function(*arguments, callbacks)
        from sefe_plugin.hosts.llamafactory.task import run_task

        return run_task(host_function, arguments, callbacks)

    module.run_sft = run_sft


def patch_sft_trainer(module: ModuleType) -> None:
    """Train the multimodal projector at `projector_learning_rate`."""
    host_function = _anchor(module, "create_custom_optimizer")

    @wraps(host_function)
    def create_custom_optimizer(model, training_args, finetuning_args):
        if finetuning_args.projector_learning_rate is None:
            return host_function(model, training_args, finetuning_args)
        from sefe_plugin.hosts.llamafactory.optimizer import projector_optimizer

        return projector_optimizer(model, training_args, finetuning_args.projector_learning_rate)

    module.create_custom_optimizer = create_custom_optimizer
