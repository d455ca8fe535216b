"""Every patch's contract with the installed LLaMA-Factory: fails when the host moves an anchor."""

import dataclasses
import importlib
import inspect
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from operator import attrgetter
from pathlib import Path

import pytest
import yaml

from sefe_plugin.hosts.hook import AnchorFinder
from sefe_plugin.hosts.llamafactory import patch_table, patches
from sefe_plugin.options import own_options
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.options import DATA_OPTIONS, ImageOptions, method_options, plugin_keys


@pytest.fixture(scope="module", autouse=True)
def hook_is_active():
    assert AnchorFinder in sys.meta_path, "install the plugin, so that its start-up hook is active: pip install -e ."


#: Every anchored function and the parameters that the patches rely on; None for classes, which have tests below.
SIGNATURES = {
    ("llamafactory.cli", "main"): [],
    ("llamafactory.launcher", "launch"): [],
    ("llamafactory.v1.launcher", "launch"): [],
    ("llamafactory.hparams.model_args", "ModelArguments"): None,
    ("llamafactory.hparams.finetuning_args", "FinetuningArguments"): None,
    ("llamafactory.hparams.data_args", "DataArguments"): None,
    ("llamafactory.hparams.parser", "get_train_args"): ["args"],
    ("llamafactory.hparams.parser", "read_args"): ["args"],
    ("llamafactory.model.adapter", "LoraConfig"): None,
    ("llamafactory.model.adapter", "PeftModel"): None,
    ("peft.utils", "PeftType"): None,
    ("transformers.modeling_utils", "log_state_dict_report"): [
        "model",
        "pretrained_model_name_or_path",
        "ignore_mismatched_sizes",
        "loading_info",
        "logger",
    ],
    ("transformers.trainer_callback", "CallbackHandler.on_log"): ["self", "args", "state", "control", "logs"],
    ("llamafactory.model.loader", "load_tokenizer"): ["model_args"],
    ("llamafactory.model.loader", "load_model"): [
        "tokenizer",
        "model_args",
        "finetuning_args",
        "is_trainable",
        "add_valuehead",
    ],
    ("llamafactory.train.sft.trainer", "CustomSeq2SeqTrainer"): None,
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
    ("llamafactory.data.loader", "split_dataset"): ["dataset", "eval_dataset", "data_args", "seed"],
    ("llamafactory.data.loader", "get_dataset"): [
        "template",
        "model_args",
        "data_args",
        "training_args",
        "stage",
        "tokenizer",
        "processor",
    ],
    ("llamafactory.data.loader", "_get_preprocessed_dataset"): [
        "dataset",
        "data_args",
        "training_args",
        "stage",
        "template",
        "tokenizer",
        "processor",
        "is_eval",
    ],
    ("llamafactory.train.tuner", "run_sft"): [
        "model_args",
        "data_args",
        "training_args",
        "finetuning_args",
        "generating_args",
        "callbacks",
    ],
    ("llamafactory.train.tuner", "load_model"): [
        "tokenizer",
        "model_args",
        "finetuning_args",
        "is_trainable",
        "add_valuehead",
    ],
}


def test_every_anchor_of_the_table_has_its_contract():
    anchors = {(patch.module, name) for patch in patch_table.all_patches() for name in patch.anchors}
    assert anchors == SIGNATURES.keys()


@pytest.mark.parametrize(("module", "name"), SIGNATURES)
def test_the_anchor_is_there_as_expected(module, name):
    anchor = attrgetter(name)(importlib.import_module(module))
    if SIGNATURES[module, name] is None:
        assert isinstance(anchor, type)
    else:
        assert list(inspect.signature(inspect.unwrap(anchor)).parameters) == SIGNATURES[module, name]


@pytest.mark.parametrize(
    ("module", "name"), [(patch.module, name) for patch in patch_table.TABLE for name in patch.anchors]
)
def test_the_anchor_is_exchanged(module, name):
    anchor = getattr(importlib.import_module(module), name)
    if SIGNATURES[module, name] is not None:
        assert anchor.__code__.co_filename == inspect.getsourcefile(patches)


@pytest.mark.parametrize(
    ("module", "name", "ours"),
    [
        ("llamafactory.hparams.finetuning_args", "FinetuningArguments", method_options()),
        ("llamafactory.hparams.data_args", "DataArguments", [*DATA_OPTIONS]),
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


@pytest.mark.parametrize("module", sorted({patch.module for patch in patch_table.TABLE}))
def test_a_patch_raises_when_its_anchor_is_gone(module):
    with pytest.raises(patch_table.HostChangedError, match=module):
        patch_table.apply_to(importlib.import_module("types").ModuleType(module))


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


def test_help_shows_every_key(warm):
    command = [shutil.which("llamafactory-cli", path=warm["PATH"]), "train", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=warm).stdout
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


def test_the_page_shows_the_table():
    page = Path(__file__).parents[2] / "docs" / "patches.md"
    begin, end = "<!-- begin of the table -->\n", "\n<!-- end of the table -->"
    assert page.read_text().split(begin)[1].split(end)[0] == patch_table.markdown_table()


def test_explicit_calls_apply_and_undo_every_patch():
    """Without the start-up hook: what is imported already is changed at once, and all is as before afterwards."""
    code = textwrap.dedent("""
        import sys, types
        import llamafactory.cli, llamafactory.launcher, llamafactory.train.tuner, llamafactory.train.dpo.trainer
        from peft import PeftType, mapping
        import sefe_plugin.hosts.llamafactory as plugin
        from sefe_plugin.hosts.llamafactory.patch_table import TABLE
        assert not any(name.startswith("sefe_plugin.methods.reglora.tuner") for name in sys.modules)

        def state():
            found = {name: dict(vars(m)) for name, m in sys.modules.items() if name.startswith("llamafactory")}
            found["parser"] = list(sys.modules["llamafactory.hparams.parser"]._TRAIN_ARGS)
            tables = [v for k, v in vars(mapping).items() if k.startswith("PEFT_TYPE_TO")]
            found["peft"] = [list(PeftType), list(PeftType.__members__), *map(dict, tables)]
            return found

        def differences(a, b):
            return sorted(f"{m}.{k}" for m in a if isinstance(a[m], dict) for k in a[m] if a[m][k] is not b[m][k])

        before = state()
        applied = plugin.apply()
        assert applied == list(dict.fromkeys(patch.name for patch in TABLE)), applied
        assert plugin.apply() == applied
        changed = differences(before, state())
        for patch in TABLE:
            if patch.module in sys.modules:
                assert {f"{patch.module}.{name}" for name in patch.anchors} <= set(changed), patch
        assert "llamafactory.train.tuner.get_train_args" in changed  # imported before by others
        assert "llamafactory.train.dpo.trainer.create_custom_optimizer" not in changed
        from sefe_plugin import RegLoraConfig
        from llamafactory.hparams import get_train_args
        keys = {"model_name_or_path": "x", "output_dir": "x", "do_train": True, "stage": "sft", "dataset": "x",
                "template": "llava", "cl_method": "reglora", "reglora_weight": 5.0, "use_cpu": True}
        assert get_train_args(dict(keys))[3].reglora_weight == 5.0
        plugin.undo()
        after = state()
        assert differences(before, after) == []
        assert before["parser"] == after["parser"] and before["peft"] == after["peft"]
        plugin.apply()
        from sefe_plugin.methods.reglora import RegLoraConfig  # registered again
        assert "REGLORA" in PeftType.__members__ and RegLoraConfig().peft_type == PeftType.REGLORA
        print("well")
    """)
    environment = os.environ | {"SEFE_PLUGIN_DISABLE": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.splitlines()[-1:] == ["well"], result.stderr


def test_what_someone_else_changed_since_is_left_alone(monkeypatch):
    module = importlib.import_module("types").ModuleType("llamafactory.cli")
    module.main = host = lambda: "host"
    host.__module__ = module.__name__
    monkeypatch.setattr(patch_table, "_exchanged", [])
    patch_table.apply_to(module)
    ((_, name, old, ours),) = patch_table._exchanged
    module.main = foreign = lambda: ours()
    patch_table._exchange(module, name, ours, old)
    assert module.main is foreign


@pytest.mark.parametrize(
    ("off", "keys", "expected"),
    [
        ("asd", {"asd_ratio": 0.2}, "`asd_ratio` needs the patch asd"),
        ("data_keys", {"asd_ratio": 0.2}, "`asd_ratio` needs the patch asd"),
        ("method_log", {"cl_method": "reglora"}, None),
        ("peft_type", {"cl_method": "reglora"}, "`cl_method` needs the patch peft_type"),
        ("peft_type", {"cl_method": "lora"}, None),
        ("projctor", {"cl_method": "lora"}, "Did you mean `projector`?"),
        ("1", {"asd_ratio": 0.2}, None),
    ],
)
def test_keys_whose_patch_is_off_are_refused(monkeypatch, off, keys, expected):
    monkeypatch.setenv("SEFE_PLUGIN_DISABLE", off)
    errors = patch_table.switched_off_errors(keys)
    assert len(errors) == (expected is not None)
    assert expected is None or expected in errors[0]


def test_a_method_says_that_its_type_is_switched_off(monkeypatch):
    from sefe_plugin.methods.peft_types import add_type
    from sefe_plugin.patching import PatchOffError

    monkeypatch.setenv("SEFE_PLUGIN_DISABLE", "peft_type")
    with pytest.raises(PatchOffError, match="which SEFE_PLUGIN_DISABLE switches off"):
        add_type("REGLORA")


BASE_KEYS = {
    "model_name_or_path": "x",
    "template": "llava",
    "stage": "sft",
    "do_train": True,
    "dataset": "x",
    "output_dir": "x",
    "use_cpu": True,
}

#: What the check of recipes refuses, by keys of several of the host's argument classes.
REFUSED = {
    "merged 4 bit": ({"merge_adapter": True, "quantization_bit": 4}, "`merge_adapter` cannot merge into weights"),
    "another stage": ({"cl_method": "reglora", "stage": "pt"}, "`cl_method` works in `stage: sft` only"),
    "scores of another stage": ({"merge_adapter": True, "stage": "pt"}, "`merge_adapter` works in `stage: sft` only"),
    "unsloth": ({"cl_method": "reglora", "use_unsloth_gc": True, "use_dora": True}, "`use_dora` cannot be combined"),
    "hyper parallel": ({"cl_method": "lora", "use_hyper_parallel": True}, "`use_hyper_parallel` is set"),
    "foreign option": ({"reglora_weight": 3.0}, "`reglora_weight` belongs to `cl_method: reglora`"),
    "carry": ({"cl_method": "lora", "carry": "stack"}, "`carry` belongs to a sequence"),
    "projector": ({"projector_learning_rate": 1e-3}, "`projector_learning_rate` needs a projector"),
    "untrained": ({"do_train": False, "test_sets": [{"name": "x"}]}, "`test_sets` needs a trained model"),
    "full": ({"cl_method": "full", "finetuning_type": "lora"}, "`cl_method: full` needs `finetuning_type: full`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_rule_is_reached_by_a_mapping(name, tmp_path):
    from llamafactory.train.tuner import run_exp

    keys, expected = REFUSED[name]
    with pytest.raises(RecipeError, match=expected):
        run_exp(BASE_KEYS | {"output_dir": str(tmp_path)} | keys)


def test_a_run_without_the_plugins_keys_is_not_checked(monkeypatch):
    from llamafactory.hparams import get_train_args

    monkeypatch.setattr("sefe_plugin.hosts.llamafactory.run_check.run_errors", lambda *given, **more: ["error"])
    get_train_args(dict(BASE_KEYS))
    with pytest.raises(RecipeError):
        get_train_args(BASE_KEYS | {"cl_method": "lora"})


def flags(keys: dict) -> list[str]:
    return [word for key, value in keys.items() for word in (f"--{key}", str(value))]


@pytest.mark.parametrize("way", ["flags", "module with flags", "module", "torchrun"])
def test_every_way_in_refuses_before_training(way, warm, tmp_path):
    keys = BASE_KEYS | {"output_dir": str(tmp_path / "out"), "merge_adapter": True, "quantization_bit": 4}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(keys))
    launcher = importlib.import_module("llamafactory.launcher").__file__
    command = {
        "flags": ["llamafactory-cli", "train", *flags(keys)],
        "module with flags": ["python", "-m", "llamafactory.cli", "train", *flags(keys)],
        "module": ["python", "-m", "llamafactory.cli", "train", str(recipe)],
        "torchrun": ["torchrun", "--nproc_per_node", "1", "--standalone", launcher, str(recipe)],
    }[way]
    command[0] = shutil.which(command[0], path=warm["PATH"])
    result = subprocess.run(command, capture_output=True, text=True, env=warm)
    assert result.returncode == 1
    assert "`merge_adapter` cannot merge into weights that are quantized" in result.stderr
    assert ("Traceback" in result.stderr) == (way == "torchrun")  # whose processes are the host's own
    assert not (tmp_path / "out").exists()


def test_a_sequence_is_recognised_in_a_module_run_as_the_command(warm, recipe):
    """`python -m` runs a copy of the command's module, in which nothing is exchanged."""
    words = ["-m", "llamafactory.cli", "train", str(recipe), "asd_ratio=3", "learning_rate=x"]
    command = [shutil.which("python", path=warm["PATH"]), *words]
    result = subprocess.run(command, capture_output=True, text=True, env=warm)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-3:-2] == [f"{recipe} cannot start: 2 errors."], result.stderr
    assert "Traceback" not in result.stderr


def test_a_sequence_that_needs_a_patch_which_is_off_is_refused_before_its_first_task(
    small_recipe, tmp_path, monkeypatch, capsys
):
    from sefe_plugin.hosts.llamafactory.sequence import intercept

    recipe = small_recipe(tmp_path, 2, cl_method="lora", asd_ratio=0)
    keys = yaml.safe_load(recipe.read_text())
    keys["tasks"][1]["asd_ratio"] = 0.5
    recipe.write_text(yaml.safe_dump(keys))
    monkeypatch.setenv("SEFE_PLUGIN_DISABLE", "asd,task")
    with pytest.raises(SystemExit):
        intercept([str(recipe)])
    said = capsys.readouterr().err
    assert "`asd_ratio` needs the patch asd" in said
    assert said.count("`cl_method` needs the patch task") == 1
    assert not (tmp_path / "run").exists()
