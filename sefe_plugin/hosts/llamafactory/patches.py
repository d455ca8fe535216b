"""What takes the place of LLaMA-Factory's own functions and classes: each function here is given theirs.

LLaMA-Factory has no plugin entry points for keys, adapters, dataset steps or callbacks. Remove a patch when the host
offers a public way for its purpose. Each changes nothing for a run that uses none of the plugin's keys. Where they go
is written in `patch_table.py`.
"""

import sys
from collections.abc import Callable
from dataclasses import field, make_dataclass
from functools import wraps
from pathlib import Path

from sefe_plugin.methods import methods
from sefe_plugin.options import option_types, own_options
from sefe_plugin.recipe.combinations import key_value_errors
from sefe_plugin.recipe.options import (
    DATA_OPTIONS,
    SEQUENCE_KEYS,
    ImageOptions,
    method_options,
)


_looked_at: list[str] = []


def command(host_function: Callable[[], None]) -> tuple[Callable[[], None]]:
    """Let `train` run a sequence of tasks, and check recipes that use the plugin's keys.

    `llamafactory-cli` comes by here twice: at `cli.main`, before the host imports anything heavy, and at
    `launcher.launch`, where `python -m llamafactory.cli` comes by alone, since it runs a copy of `cli` as `__main__`.
    """

    @wraps(host_function)
    def function():
        from sefe_plugin.recipe.errors import RecipeError

        if sys.argv[1:2] == ["train"] and sys.argv != _looked_at:
            from sefe_plugin.hosts.llamafactory.sequence import intercept

            _looked_at[:] = sys.argv
            if intercept(sys.argv[2:]):
                return
        try:
            host_function()
        except RecipeError as error:
            raise SystemExit(str(error)) from None

    return (function,)


def include(host_function: Callable) -> tuple[Callable]:
    """Resolve `include` of a recipe that the host itself reads: one for an ordinary run, a chat or an export."""

    @wraps(host_function)
    def read_args(args=None):
        from sefe_plugin.recipe.include import INCLUDE

        found = host_function(args)
        if args is None and isinstance(found, dict) and INCLUDE in found:
            from sefe_plugin.hosts.llamafactory.host import read_recipe

            return read_recipe(Path(sys.argv[1]), sys.argv[2:])
        return found

    return (read_args,)


def model_keys(host_class: type) -> tuple[type]:
    """Add the keys of the model's view of images to the host's arguments and to `--help`."""
    return (_with_options(host_class, [ImageOptions]),)


def method_keys(host_class: type) -> tuple[type]:
    """Add the keys of the methods and of the sequence to the host's arguments and to `--help`."""

    def check(arguments) -> list[str]:
        errors = [
            f"`{key}` describes a sequence: start it with `llamafactory-cli train RECIPE.yaml`."
            for key in SEQUENCE_KEYS
            if getattr(arguments, key) is not None
        ]
        if arguments.cl_method is not None and arguments.cl_method not in methods():
            errors.append(f"`cl_method` must be one of {tuple(methods())}; got {arguments.cl_method!r}.")
        return errors

    return (_with_options(host_class, method_options(), check),)


def data_keys(host_class: type) -> tuple[type]:
    """Add the keys of the data to the host's arguments and to `--help`."""
    return (_with_options(host_class, [*DATA_OPTIONS]),)


def _with_options(
    host_class: type, options: list[type], check: Callable[[object], list[str]] = lambda arguments: []
) -> type:
    """Return the host's dataclass of arguments with options of the plugin, under the host's name and in its place.

    Args:
        host_class: The host's class.
        options: Dataclasses of options.
        check: Lists what else is wrong once the values are read.
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
        if errors := check(self) + key_value_errors(vars(self)):
            from sefe_plugin.recipe.errors import RecipeError

            raise RecipeError("This run", errors)

    ours = make_dataclass(host_class.__name__, keys, bases=(host_class,), namespace={"__post_init__": __post_init__})
    ours.__doc__ = host_class.__doc__
    # so that it can be sent to other processes
    ours.__module__, ours.__qualname__ = host_class.__module__, host_class.__qualname__
    return ours


def run_check(host_function: Callable) -> tuple[Callable]:
    """Check a run that uses the plugin's keys as a whole, by whatever way its arguments have come."""

    @wraps(host_function)
    def get_train_args(args=None):
        parsed = host_function(args)
        from sefe_plugin.hosts.llamafactory.run_check import check_run

        check_run(parsed)
        return parsed

    return (get_train_args,)


def pad_images(host_tokenizer: Callable) -> tuple[Callable]:
    """Pad images to a square with `pad_images`."""

    @wraps(host_tokenizer)
    def load_tokenizer(model_args):
        loaded = host_tokenizer(model_args)
        if model_args.pad_images and loaded["processor"] is not None:
            from sefe_plugin.hosts.llamafactory.images import pad_images

            pad_images(loaded["processor"])
        return loaded

    return (load_tokenizer,)


def whole_checkpoint(host_model: Callable) -> tuple[Callable]:
    """Let a sequence start from whole checkpoints only."""

    @wraps(host_model)
    def load_model(tokenizer, model_args, finetuning_args, *args, **kwargs):
        if finetuning_args.test_sets is None:
            return host_model(tokenizer, model_args, finetuning_args, *args, **kwargs)
        from sefe_plugin.hosts.llamafactory.base_check import whole_checkpoint

        with whole_checkpoint():
            return host_model(tokenizer, model_args, finetuning_args, *args, **kwargs)

    return (load_model,)


def weight_names(host_model: Callable) -> tuple[Callable]:
    """Let a task's models be saved with the names that their own modules have."""

    @wraps(host_model)
    def load_model(tokenizer, model_args, finetuning_args, *args, **kwargs):
        model = host_model(tokenizer, model_args, finetuning_args, *args, **kwargs)
        if finetuning_args.cl_method or finetuning_args.test_sets is not None or finetuning_args.merge_adapter:
            from sefe_plugin.hosts.llamafactory.weight_names import keep_own_names

            keep_own_names(model)
        return model

    return (load_model,)


def adapter(host_function: Callable) -> tuple[Callable]:
    """Make the host build, or continue, a method's adapter in place of plain LoRA, on top of stacked ones if any."""

    @wraps(host_function)
    def _setup_lora_tuning(config, model, model_args, finetuning_args, is_trainable, cast_trainable_params_to_fp32):
        arguments = (config, model, model_args, finetuning_args, is_trainable, cast_trainable_params_to_fp32)
        if not is_trainable:
            if finetuning_args.stacked_adapter:
                raise ValueError(
                    "`stacked_adapter` is for training. To chat with or export the model of all tasks, remove it and "
                    "name the folder `stacked` of the last task as `adapter_name_or_path`."
                )
            if finetuning_args.cl_method is None:
                return host_function(*arguments)
            with methods()[finetuning_args.cl_method](vars(finetuning_args)).building(model):
                return host_function(*arguments)
        if not (finetuning_args.cl_method or finetuning_args.stacked_adapter or finetuning_args.test_sets):
            return host_function(*arguments)
        from sefe_plugin.hosts.llamafactory.adapter import set_up_adapter

        module = sys.modules["llamafactory.model.adapter"]
        return set_up_adapter(module, host_function, *arguments)

    return (_setup_lora_tuning,)


def asd(host_merge: Callable, host_align: Callable, host_split: Callable) -> tuple[Callable, Callable, Callable]:
    """Rewrite the share `asd_ratio` of every training dataset, in place or beside it (`asd_extra`).

    That happens after the dataset is aligned, and before it is tokenized.

    With `val_size` the host first holds a part back, which stays as it is.
    """
    names = iter(())  # of the training datasets that are still to be aligned, one after the other
    waiting = None  # the training arguments of a run whose datasets are marked, and not yet split

    @wraps(host_merge)
    def _get_merged_dataset(dataset_names, model_args, data_args, training_args, *args, **kwargs):
        nonlocal names, waiting
        is_training = dataset_names is data_args.dataset
        diversified = is_training and data_args.asd_ratio and training_args.do_train
        names = iter(dataset_names if diversified else ())
        if is_training:
            waiting = training_args if diversified and data_args.val_size else None
        return host_merge(dataset_names, model_args, data_args, training_args, *args, **kwargs)

    @wraps(host_align)
    def align_dataset(dataset, dataset_attr, data_args, training_args):
        aligned = host_align(dataset, dataset_attr, data_args, training_args)
        name = next(names, None)
        if name is None:
            return aligned
        from sefe_plugin.hosts.llamafactory.dataset import await_split, diversify_dataset

        if waiting is not None:
            return await_split(aligned, name)
        return diversify_dataset(aligned, name, data_args, training_args)

    @wraps(host_split)
    def split_dataset(dataset, eval_dataset, data_args, seed):
        nonlocal waiting
        train, held_out = host_split(dataset, eval_dataset, data_args, seed)
        if waiting is None:
            return train, held_out
        from sefe_plugin.hosts.llamafactory.dataset import diversify_training_part

        parts, waiting = diversify_training_part({**train, **held_out}, data_args, waiting), None
        return {"train": parts.pop("train")}, parts

    return _get_merged_dataset, align_dataset, split_dataset


def added(host_get: Callable, host_preprocess: Callable) -> tuple[Callable, Callable]:
    """Add samples of earlier tasks (`replay_ratio`) and general ones (`mix`) to the training part.

    It comes after the host has held back `val_size` and before it tokenizes. The tokens of a task's images are found
    from their sizes.
    """
    loading = None  # the model's arguments of the run whose data is loaded

    @wraps(host_get)
    def get_dataset(template, model_args, *args, **kwargs):
        nonlocal loading
        loading = model_args
        from sefe_plugin.hosts.llamafactory.data_phase import reading

        with reading() as read:
            if read is None:
                return host_get(template, model_args, *args, **kwargs)
            from sefe_plugin.hosts.llamafactory.image_sizes import by_size

            parts = host_get(by_size(template, decode=True), model_args, *args, **kwargs)
            read(parts)
        return parts

    @wraps(host_preprocess)
    def _get_preprocessed_dataset(dataset, data_args, training_args, stage, *args, is_eval=False, **kwargs):
        if training_args.do_train and not is_eval and (data_args.replay_ratio or data_args.mix):
            from sefe_plugin.hosts.llamafactory.added import with_added

            def load(name: str):
                merge = sys.modules["llamafactory.data.loader"]._get_merged_dataset
                return merge([name], loading, data_args, training_args, stage)

            dataset = with_added(dataset, load, data_args, training_args)
        return host_preprocess(dataset, data_args, training_args, stage, *args, is_eval=is_eval, **kwargs)

    return get_dataset, _get_preprocessed_dataset


def task(host_function: Callable) -> tuple[Callable]:
    """Add the callbacks of a task to supervised fine-tuning, and score and merge after it."""

    @wraps(host_function)
    def run_sft(model_args, data_args, training_args, finetuning_args, generating_args, callbacks=None):
        arguments = (model_args, data_args, training_args, finetuning_args, generating_args)
        if not (finetuning_args.cl_method or finetuning_args.test_sets or finetuning_args.merge_adapter):
            return host_function(*arguments, callbacks)
        from sefe_plugin.hosts.llamafactory.task import run_task

        return run_task(host_function, arguments, callbacks)

    return (run_sft,)


def merge_on_disk(host_load: Callable) -> tuple[Callable]:
    """Let the host's export merge the adapter of a task part by part from disk, where that gives the same."""

    @wraps(host_load)
    def load_model(tokenizer, model_args, finetuning_args, *args, **kwargs):
        adapters = model_args.adapter_name_or_path
        if finetuning_args.cl_method is None or model_args.export_dir is None or not adapters or len(adapters) > 1:
            return host_load(tokenizer, model_args, finetuning_args, *args, **kwargs)
        from sefe_plugin.hosts.llamafactory.merging import load_to_export

        return load_to_export(host_load, tokenizer, model_args, finetuning_args, *args, **kwargs)

    return (load_model,)


def projector(host_function: Callable) -> tuple[Callable]:
    """Train the multimodal projector at `projector_learning_rate`."""

    @wraps(host_function)
    def create_custom_optimizer(model, training_args, finetuning_args):
        if finetuning_args.projector_learning_rate is None:
            return host_function(model, training_args, finetuning_args)
        from sefe_plugin.hosts.llamafactory.optimizer import projector_optimizer

        return projector_optimizer(model, training_args, finetuning_args.projector_learning_rate)

    return (create_custom_optimizer,)


def sample_loss(host_class: type) -> tuple[type]:
    """Give the host's Trainer a loss that weighs samples, with `asd_loss: sample`."""
    from sefe_plugin.hosts.llamafactory.sample_loss import sample_weighted

    return (sample_weighted(host_class, lambda trainer: trainer.finetuning_args.asd_loss == "sample"),)
