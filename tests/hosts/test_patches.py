"""Every patch's contract with the installed LLaMA-Factory: fails when the host moves an anchor."""

import dataclasses
import importlib
import inspect
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sefe_plugin.hosts.hook import ANCHORS, AnchorFinder
from sefe_plugin.hosts.llamafactory import patches
from sefe_plugin.options import own_options
from sefe_plugin.recipe.options import DataOptions, ImageOptions, method_options, plugin_keys


@pytest.fixture(scope="module", autouse=True)
def hook_is_active():
    assert AnchorFinder in sys.meta_path, "install the plugin, so that its start-up hook is active: pip install -e ."


#: Anchored host functions and the parameters that the patches rely on.
SIGNATURES = {
    ("llamafactory.cli", "main"): [],
    ("llamafactory.model.loader", "load_tokenizer"): ["model_args"],
    ("llamafactory.model.loader", "load_model"): [
        "tokenizer",
        "model_args",
        "finetuning_args",
        "is_trainable",
        "add_valuehead",
    ],
    ("llamafactory.train.sft.trainer", "create_custom_optimizer"): ["model", "training_args", "finetuning_args"],
    ("llamafactory.model.adapter", "_setup_lora_tuning"): [
        "config",
        "model",
        "model_args",
        "finetuning_args",
        "is_trainable",
        "cast_trainable_params_to_fp32",
    ],
    ("llamafactory.data.loader", "_get_merged_dataset"): [
        "dataset_names",
        "model_args",
        "data_args",
        "training_args",
        "stage",
        "return_dict",
    ],
    ("llamafactory.data.loader", "align_dataset"): ["dataset", "dataset_attr", "data_args", "training_args"],
    ("llamafactory.train.tuner", "run_sft"): [
        "model_args",
        "data_args",
        "training_args",
        "finetuning_args",
        "generating_args",
        "callbacks",
    ],
}


@pytest.mark.parametrize(("module", "name"), SIGNATURES)
def test_function_is_wrapped_and_the_host_keeps_its_signature(module, name):
    function = getattr(importlib.import_module(module), name)
    assert function.__code__.co_filename == inspect.getsourcefile(patches)
    assert list(inspect.signature(function.__wrapped__).parameters) == SIGNATURES[module, name]


@pytest.mark.parametrize(
    ("module", "name", "ours"),
    [
        ("llamafactory.hparams.finetuning_args", "FinetuningArguments", method_options()),
        ("llamafactory.hparams.data_args", "DataArguments", [DataOptions]),
        ("llamafactory.hparams.model_args", "ModelArguments", [ImageOptions]),
    ],
)
def test_arguments_are_the_hosts_with_our_keys(module, name, ours):
    cls = getattr(importlib.import_module(module), name)
    (host,) = cls.__bases__
    assert host.__module__ == cls.__module__ == module
    names = {field.name for field in dataclasses.fields(cls)}
    assert names == {f.name for f in dataclasses.fields(host)} | {key for part in ours for key in own_options(part)}
    arguments = cls(model_name_or_path="x") if name == "ModelArguments" else cls()
    assert pickle.loads(pickle.dumps(arguments)) == arguments  # Ray sends arguments to its workers


def test_every_importer_gets_the_same_arguments():
    import llamafactory.hparams.parser as parser
    from llamafactory.hparams.data_args import DataArguments
    from llamafactory.hparams.finetuning_args import FinetuningArguments

    assert parser.FinetuningArguments is FinetuningArguments
    assert parser.DataArguments is DataArguments
    assert "cl_method" in {field.name for field in dataclasses.fields(FinetuningArguments)}


@pytest.mark.parametrize("anchor", ANCHORS)
def test_patch_raises_when_its_anchor_is_gone(anchor):
    module = importlib.import_module("types").ModuleType(anchor)
    with pytest.raises(patches.HostChangedError, match=anchor):
        getattr(patches, ANCHORS[anchor])(module)


def test_pad_images_reaches_every_importer(tmp_path):
    from llamafactory.hparams.model_args import ModelArguments
    from llamafactory.model import load_tokenizer
    from llamafactory.train.sft import workflow

    from sefe_plugin.benchmarks.minicoin import BASE

    assert workflow.load_tokenizer is load_tokenizer
    for pad, expected in ((False, "CLIPImageProcessor"), (True, "LlavaImageProcessor")):
        processor = load_tokenizer(ModelArguments(model_name_or_path=str(BASE), pad_images=pad))["processor"]
        assert type(processor.image_processor).__name__.startswith(expected)


def test_adapter_module_uses_the_names_that_are_exchanged():
    import llamafactory.model.adapter as adapter

    source = inspect.getsource(adapter._setup_lora_tuning.__wrapped__)
    assert "LoraConfig(" in source
    assert "PeftModel.from_pretrained(model, adapter_to_resume, is_trainable=is_trainable" in source


def test_sequence_keys_are_refused_where_one_task_is_trained(tmp_path):
    from llamafactory.hparams.finetuning_args import FinetuningArguments

    with pytest.raises(ValueError, match="start it with `llamafactory-cli train"):
        FinetuningArguments(benchmark="minicoin")
    with pytest.raises(ValueError, match=r"`reglora_key_ratio` must be a share in \(0, 1\]"):
        FinetuningArguments(cl_method="reglora", reglora_key_ratio=2.0)
    with pytest.raises(ValueError, match="`cl_method` must be one of"):
        FinetuningArguments(cl_method="regloar")
    files = [str(tmp_path / name) for name in "ab"]
    for file in files:
        Path(file).touch()
    assert FinetuningArguments(reglora_key_elements=", ".join(files)).reglora_key_elements == files


def test_tokenized_data_is_refused_with_asd():
    from llamafactory.hparams.data_args import DataArguments

    with pytest.raises(ValueError, match="tokenized dataset skips the step"):
        DataArguments(dataset="x", asd_ratio=0.2, tokenized_path="y")


def test_help_shows_every_key():
    code = "import sys; from llamafactory.cli import main; sys.argv = ['llamafactory-cli', 'train', '--help']; main()"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"--{key}" in out for key in plugin_keys())


def test_hook_is_silent_in_other_programs():
    code = textwrap.dedent("""
        import sys
        import json, http.client
        print([name for name in sys.modules if name.startswith("sefe_plugin")])
    """)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(eval_list(out)) <= {"sefe_plugin", "sefe_plugin.hosts", "sefe_plugin.hosts.hook"}


def eval_list(text: str) -> list[str]:
    import ast

    return ast.literal_eval(text)
