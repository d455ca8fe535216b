"""Datasets beside a task's own, for methods that look at other data than they train on."""

from collections.abc import Sequence
from copy import copy

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.model import load_tokenizer
from torch.utils.data import Dataset


#: What is done with training data alone.
_OFF = {
    "eval_dataset": None,
    "val_size": 0.0,
    "tokenized_path": None,
    "mix_strategy": "concat",
    "interleave_probs": None,
    "asd_ratio": None,
    "replay_ratio": None,
    "replay_to": None,
    "mix": None,
}


def load_general(model_args, data_args, training_args, names: Sequence[str]) -> Dataset:
    """Load datasets as the host loads what it trains, without ASD and without what joins a task's own samples.

    Args:
        model_args: The host's arguments for the model.
        data_args: Its arguments for the data.
        training_args: Its training arguments.
        names: Entries of `dataset_info.json`.

    Returns:
        Tokenized samples.
    """
    own = copy(data_args)
    vars(own).update(_OFF, dataset=list(names))
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], own)
    return get_dataset(template, model_args, own, training_args, stage="sft", **loaded)["train_dataset"]
