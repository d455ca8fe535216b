"""The plugin's own recipe keys, each written once, beside those of the methods."""

from collections.abc import Mapping
from dataclasses import Field, dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from sefe_plugin.data.added import AddedOptions
from sefe_plugin.methods import DEFAULT, methods
from sefe_plugin.options import Scope, keys_of_scope, option, option_errors, option_types, own_options


@dataclass
class ImageOptions:
    """Keys of the model's view of images."""

    pad_images: bool = option(
        False,
        "Pad images to a square where the model's processor would crop their centre, as LLaVA and CoIN's boxes have "
        "it. Nothing changes for processors that see the whole image.",
    )


@dataclass
class SequenceOptions:
    """Keys of the sequence, and of what is the same for all methods."""

    cl_method: str | None = option(
        None,
        "Continual-learning method; docs/methods.md lists them, and other packages may add some. A sequence without "
        f"it trains {DEFAULT}.",
        scope="sequence",
    )
    tasks: list[dict] | None = option(
        None,
        "Sequence of tasks to train one after the other: a list of mappings with name, dataset, and any other key to "
        "override for that task; and test_dataset with scorer, a name or a mapping of name and options "
        "(docs/scorers.md), for a task that is not only trained.",
        scope="sequence",
    )
    benchmark: str | None = option(
        None,
        "Ready sequence of tasks in place of `tasks`: coin, ucit, dcl, trigap, minicoin, minicoin16 or styles.",
        scope="sequence",
    )
    task_order: list[str] | None = option(
        None,
        "Order of a benchmark's tasks: coin (its own), reversed, shuffled (one fixed order), or the names of all its "
        "tasks.",
        scope="sequence",
    )
    task_keys: list[dict] | None = option(
        None,
        "Keys that differ for tasks of a benchmark: a list of mappings with the name of a task and any key to "
        "override for it, such as num_train_epochs; `dataset` names other training data, as "
        "`dataset_info.json` of `dataset_dir` or a benchmark that draws its data declares it.",
        scope="sequence",
    )
    score_unseen: bool = option(
        False,
        "Score all tasks after every task, and before the first with the untouched base, so that the report can say "
        "what training on a task does for tasks that come later (docs/transfer.md).",
        scope="sequence",
    )
    retention_sets: list[dict] | None = option(
        None,
        "Test sets that belong to no task, such as those of general abilities, scored before the first task with the "
        "untouched base, and after every task: a list of mappings with name, dataset and scorer (docs/transfer.md).",
        scope="sequence",
    )
    single_task_run: str | None = option(
        None,
        "Run folder of a finished sequence with `carry: none`, which holds every task of this one. The report then "
        "says how much better or worse a task is learned in the sequence than alone. It stands outside `tasks`.",
        scope="reporting",
    )
    carry: Literal["merge", "stack", "continue", "replace", "none"] | None = option(
        None,
        "How a sequence carries a task on. merge: its adapter becomes part of the next task's base, as in SEFE; with "
        "`quantization_bit`, of the 16-bit base, which is quantized again. stack: the base stays as it is, and all "
        "earlier adapters are kept frozen beside the new one; exact for a quantized base. continue: the same adapter "
        "goes on. replace: the model of a task is the base of the next (full fine-tuning). none: nothing is carried "
        "on, every task starts from the untouched base. The method's first way where it is left out.",
        scope="sequence",
    )
    keep_merged: Literal["all", "last"] = option(
        "all",
        "Which merged models of `carry: merge` stay on disk. all: that of every task. last: as soon as a task is "
        "complete, the merged model of the task before it is removed, which nothing reads any more. It stands outside "
        "`tasks`; `sefe clean RUN` does the same afterwards.",
        scope="reporting",
    )
    keep_checkpoints: bool = option(
        False,
        "Keep the checkpoints of complete tasks, `checkpoint-*` in a task's folder. A training that was stopped goes "
        "on from them. When its task is complete nothing reads them any more, and they are removed.",
        scope="reporting",
    )
    projector_learning_rate: float | None = option(
        None,
        "Learning rate of the multimodal projector, above 0, where it differs from `learning_rate`. Needs a projector "
        "that is trained: `additional_target: multi_modal_projector`, or `freeze_multi_modal_projector: false` with "
        "full fine-tuning. SEFE uses 2e-5.",
        rule="a number above 0 (SEFE: 2e-5)",
        holds=lambda value: value > 0,
    )
    asd_loss: Literal["token", "sample"] = option(
        "token",
        "What the loss of a batch is a mean over: token, all tokens of all answers, as LLaMA-Factory has it; sample, "
        "the mean of each answer, so that an explanation of 50 words, which ASD writes, weighs as much as a letter. "
        "Exact whatever the accumulation and the number of processes. It works without `asd_ratio`, too.",
    )
    scoring_backend: Literal["generate", "vllm"] = option(
        "generate",
        "What answers the test sets: generate, the trained model in its own process; vllm, vLLM on all visible "
        "devices, in a process that a sequence starts after it (docs/engines.md).",
        scope="computing",
    )
    scoring_python: str | None = option(
        None,
        "Python interpreter of another environment, which holds vLLM for `scoring_backend: vllm`. It needs neither "
        "LLaMA-Factory nor this plugin. The interpreter of the sequence where it is left out.",
        scope="computing",
    )
    test_sets: list[dict] | None = option(
        None,
        "Test sets to score by generation after training: a list of mappings with name, dataset, scorer. A sequence "
        "fills this in.",
        scope="filled_in",
    )
    merge_adapter: bool = option(
        False,
        "After training, also save the base model with the adapter merged in, in `output_dir`/merged. A sequence "
        "fills this in.",
        scope="filled_in",
    )
    stacked_adapter: str | None = option(
        None,
        "Folder of the adapters of earlier tasks, stacked into one, to keep frozen beside the new adapter. A sequence "
        "with `carry: stack` fills this in.",
        scope="filled_in",
    )


@dataclass
class DataOptions:
    """Keys of the data."""

    asd_ratio: float | None = option(
        None,
        "Share X in [0, 1] of the training samples rewritten into the other answer styles (ASD, by rules). SEFE uses "
        "0.2; off when absent.",
        symbol="X",
        rule="a share in [0, 1] (SEFE: 0.2; leave it out to switch ASD off)",
        holds=lambda value: 0 <= value <= 1,
    )
    asd_extra: bool = option(
        False,
        "Whether `asd_ratio` trains the rewritten samples beside the originals: the task keeps all of its own samples "
        "and a step of training is as long as ever, but there are X more of them. False rewrites in place (SEFE).",
    )
    max_test_samples: int | None = option(
        None,
        "Most records of each test set that are answered: the first ones, as `max_samples` takes them of training "
        "data. A retention set has the key of the whole recipe.",
        rule="a whole number of at least 1 (leave it out for all records)",
        holds=lambda value: value >= 1,
        scope="testing",
    )
    trial_samples: int = option(
        20_000,
        "Most records of a dataset, for training or test, that a sequence tries before it starts, with the steps of "
        "LLaMA-Factory up to the model; of a larger dataset that many, evenly spread. 0 tries none.",
        rule="a whole number of at least 0",
        holds=lambda value: value >= 0,
        scope="computing",
    )
    media_outside: bool = option(
        False,
        "Whether records may name pictures, videos and sounds outside of `media_dir` (`dataset_dir` where it is left "
        "out): absolute paths, `..`, and links that lead out of it.",
        scope="computing",
    )


#: Keys that a task may set for its own test set, and the sequence for all.
TEST_KEYS = keys_of_scope(DataOptions, "testing")

#: The dataclasses of the keys in the section "dataset".
DATA_OPTIONS = (DataOptions, AddedOptions)

#: Keys that name a file or folder of the user's, beside those of the host.
PATH_KEYS = ("single_task_run", "scoring_python")

#: Keys that describe a whole sequence and never reach a single run.
SEQUENCE_KEYS = ("tasks", "benchmark", "task_order", "task_keys")

#: Keys that are a task's own: the last two belong together, and a task without them is trained only.
TASK_KEYS = ("name", "dataset", "test_dataset", "scorer")

#: Keys beside them that only the sequence reads: none of its tasks' own runs has them.
KEYS_OF_SEQUENCE_ALONE = (
    "carry",
    "keep_merged",
    "keep_checkpoints",
    "score_unseen",
    "retention_sets",
    "single_task_run",
    *TEST_KEYS,
)


class PluginKey(NamedTuple):
    """One recipe key of the plugin.

    Attributes:
        section: The section of a recipe that it belongs to.
        option: Its declaration.
        type: Its annotation.
        method: Name of the method whose option it is; None for the plugin's own.
    """

    section: str
    option: Field
    type: Any
    method: str | None = None


@cache
def plugin_keys() -> dict[str, PluginKey]:
    """Return every recipe key of the plugin and of all methods."""
    sections = [(ImageOptions, "model", None), (SequenceOptions, "method", None)]
    sections += [(options, "dataset", None) for options in DATA_OPTIONS]
    sections += [(method.Options, "method", name) for name, method in methods().items()]
    keys = {}
    for options, section, method in sections:
        types = option_types(options)
        for key, declared in own_options(options).items():
            keys[key] = PluginKey(section, declared, types[key], method)
    return keys


def method_options() -> list[type]:
    """Return the dataclasses of the keys in the section "method": the sequence's own, then those of all methods."""
    return [SequenceOptions, *(method.Options for method in methods().values())]


def all_keys_of_scope(scope: Scope) -> tuple[str, ...]:
    """Return the keys of one scope, of the plugin and of all methods."""
    return tuple(key for options in _all_options() for key in keys_of_scope(options, scope))


def _all_options() -> list[type]:
    return [ImageOptions, *method_options(), *DATA_OPTIONS]


def option_faults(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Tell which keys of the plugin have a value of a wrong type or against their rule: key -> one sentence."""
    faults = {}
    for options in _all_options():
        faults |= option_errors(options, arguments)
    return faults
