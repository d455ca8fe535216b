"""One ordinary run that uses keys of the plugin: what is wrong with them, whatever way it is started."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sefe_plugin.carry.adapter_files import check_adapter
from sefe_plugin.carry.quantized import merge_errors
from sefe_plugin.carry.ways import merges_apart
from sefe_plugin.files import ADAPTER_CONFIG_FILE, is_file
from sefe_plugin.methods import DEFAULT, methods
from sefe_plugin.methods.base import Method
from sefe_plugin.recipe.checks import name_errors, other_methods_errors, other_training_errors, value_errors
from sefe_plugin.recipe.data_trial import mix_errors
from sefe_plugin.recipe.keys import HostKeys, key_faults, without
from sefe_plugin.recipe.options import KEYS_OF_SEQUENCE_ALONE


def single_run_errors(arguments: Mapping[str, Any], host: HostKeys, in_sequence: bool = False) -> list[str]:
    """List the errors of a recipe for one ordinary run that uses keys of the plugin.

    Args:
        arguments: All keys of the recipe, command-line overrides applied.
        host: The host's keys.
        in_sequence: Whether the run is a task's own, started by a sequence.
    """
    faults = key_faults(arguments, host)
    sound = without(arguments, faults)
    errors = [*faults.values(), *run_errors(sound, in_sequence), *other_training_errors(sound, host)]
    return errors + _adapter_errors(sound)


def run_errors(arguments: Mapping[str, Any], in_sequence: bool = False) -> list[str]:
    """List what is wrong with the plugin's keys, and with others beside them, in one ordinary run.

    Args:
        arguments: Keys that the host knows; absent ones have their defaults.
        in_sequence: Whether the run is a task's own, started by a sequence.
    """
    unnamed = name_errors(arguments)
    errors = unnamed + value_errors(arguments)
    if not unnamed:
        errors += other_methods_errors(arguments)
    errors += [
        f"`{key}` belongs to a sequence. Add `tasks` or `benchmark`, or remove it."
        for key in KEYS_OF_SEQUENCE_ALONE
        if key in arguments
    ]
    if arguments.get("replay_ratio") and arguments.get("replay_from") is None:
        errors.append(
            "`replay_ratio` draws from earlier tasks, and a single run has none. Add `tasks` or `benchmark`, or "
            "remove it."
        )
    if not (errors or in_sequence):
        errors += _phase_errors(arguments)
    if not errors:
        errors += _continued_errors(arguments)
    if arguments.get("stage", "sft") != "sft":
        errors += [
            f"`{key}` works in `stage: sft` only; got {arguments['stage']!r}. Remove one."
            for key in ("test_sets", "merge_adapter", "projector_learning_rate", "replay_ratio", "mix")
            if arguments.get(key)
        ]
    if not arguments.get("do_train"):
        if arguments.get("merge_adapter"):
            errors.append("`merge_adapter` follows training. Set `do_train: true`, or remove it.")
        is_trained = arguments.get("adapter_name_or_path") or arguments.get("finetuning_type") == "full"
        if arguments.get("test_sets") and not (is_trained or in_sequence):  # a sequence scores its base too
            errors.append(
                "`test_sets` needs a trained model. Set `do_train: true`, or name its adapter by "
                "`adapter_name_or_path`."
            )
    is_scored = in_sequence or arguments.get("scoring_backend", "generate") == "generate"
    if arguments.get("test_sets") and not is_scored:
        errors.append(
            "`scoring_backend` belongs to a sequence. Set `scoring_backend: generate`, or remove `test_sets`."
        )
    if arguments.get("mix") and not errors:
        keys = {**arguments, "dataset": None, "eval_dataset": None}
        errors += mix_errors(
            (test_set["name"], {**keys, "test_dataset": test_set["dataset"]})
            for test_set in arguments.get("test_sets") or ()
        )
    if arguments.get("merge_adapter") and not errors:
        if arguments.get("finetuning_type", "lora") != "lora":
            errors.append(f"`merge_adapter` needs `finetuning_type: lora`; got {arguments['finetuning_type']!r}.")
        if merges_apart(arguments):
            errors.append(
                "`merge_adapter` cannot merge into weights that are quantized or partitioned (DeepSpeed ZeRO-3). "
                "Remove it, and merge afterwards with `llamafactory-cli export`."
            )
        errors += merge_errors(arguments, "merge_adapter", "Remove it.")
    if arguments.get("finetuning_type") == "full":
        errors += merge_errors(arguments, "finetuning_type: full", "Train an adapter, or take another base.")
    return errors


def _phase_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List what the last training of a task needs of those before it, which a single run does not make."""
    name = arguments.get("cl_method")
    if name is None or not arguments.get("do_train") or arguments.get("test_sets") is not None:
        return []  # a task of a sequence has them, if only none, also where its keys are only tried
    *before, last = methods()[name].phases({"output_dir": ".", **arguments})
    return [
        f"`cl_method: {name}` trains every task {len(before) + 1} times, and a single run is the last of these "
        f"trainings, which needs `{key}`. Add `tasks` or `benchmark`, or name the file that an earlier one has left."
        for key in last.keys
        if before and arguments.get(key) is None
    ]


def _continued_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List what is wrong with a run that has files of earlier tasks, and not the adapter that must go on."""
    name = arguments.get("cl_method")
    method = methods()[name] if name else Method
    if method.carries != ("continue",) or not arguments.get("do_train") or not arguments.get(str(method.earlier)):
        return []
    if arguments.get("adapter_name_or_path") and not arguments.get("create_new_adapter"):
        return []
    return [
        f"`{method.earlier}` is of an adapter that goes on with `cl_method: {name}`. Name its folder as "
        "`adapter_name_or_path`, without `create_new_adapter`."
    ]


def _adapter_errors(arguments: Mapping[str, Any]) -> list[str]:
    """List local adapters of a single run that cannot be read; the host leaves that to PyTorch."""
    errors, method = [], methods().get(str(arguments.get("cl_method") or DEFAULT))
    for folder in map(str.strip, (arguments.get("adapter_name_or_path") or "").split(",")):
        if is_file(Path(folder) / ADAPTER_CONFIG_FILE):
            try:
                check_adapter(Path(folder), method.peft_type if method else Method.peft_type)
            except ValueError as error:
                errors.append(f"`adapter_name_or_path`: {error}")
    return errors
