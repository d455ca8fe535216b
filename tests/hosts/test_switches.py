"""Variables of the environment under which a recipe cannot start."""

import ast
from pathlib import Path

import pytest

from sefe_plugin.hosts.llamafactory.run_check import check_run
from sefe_plugin.hosts.llamafactory.sequence import intercept
from sefe_plugin.hosts.llamafactory.switches import SWITCH_KEYS, is_on, switch_errors
from sefe_plugin.recipe.errors import RecipeError


@pytest.mark.parametrize("name", ["USE_V1", "USE_MCA", "USE_MEGATRON_BRIDGE", "USE_KT", "USE_RAY"])
@pytest.mark.parametrize("keys", ["tasks: []", "cl_method: lora", "asd_ratio: 0.2"], ids=["sequence", "run", "data"])
def test_other_trainings_are_refused_before_anything_starts(name, keys, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(name, "Y")
    (tmp_path / "recipe.yaml").write_text(keys)
    with pytest.raises(SystemExit) as ended:
        intercept([str(tmp_path / "recipe.yaml")])
    assert ended.value.code == 1
    assert f"{name} is set" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "", "false", "no"])
def test_what_is_off_is_let_pass(value, monkeypatch):
    monkeypatch.setenv("USE_MCA", value)
    assert switch_errors() == []


@pytest.mark.parametrize("value", ["1", "true", "TRUE", "y", "yes", "0", "on", ""])
def test_on_is_what_the_host_takes_for_it(value, monkeypatch):
    from llamafactory.extras.misc import is_env_enabled

    monkeypatch.setenv("USE_MCA", value)
    assert is_on("USE_MCA") == is_env_enabled("USE_MCA")


def test_every_other_training_of_the_host_is_known(monkeypatch):
    """Its launcher and its tuner branch by variables and by keys: a new branch has to be looked at."""
    import llamafactory.cli
    import llamafactory.launcher
    import llamafactory.train.tuner as tuner

    named, keys = set(), set()
    for module in (llamafactory.cli, llamafactory.launcher, tuner):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "is_env_enabled":
                named.add(node.args[0].value)
            if isinstance(node, ast.Attribute) and node.attr.startswith("use_"):
                keys.add(node.attr)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "").startswith("use_"):
                named.add(node.func.id.upper())
    assert {"USE_V1", "USE_MCA", "USE_RAY", "USE_KT"} <= named
    assert "use_hyper_parallel" in keys
    harmless = {"FORCE_TORCHRUN", "OPTIM_TORCH"}
    for name in named - harmless:
        monkeypatch.setenv(name, "1")
    assert {error.split()[0] for error in switch_errors()} == named - harmless
    by_variable = {"use_mca", "use_ray"}  # these are no keys of a recipe
    assert keys - by_variable - {"use_swanlab"} <= set(SWITCH_KEYS)


@pytest.mark.parametrize(
    ("keys", "variables", "expected"),
    [
        ({"cl_method": "reglora"}, {"USE_RAY": "1"}, "USE_RAY is set"),
        ({"cl_method": "reglora", "use_hyper_parallel": True}, {}, "`use_hyper_parallel` is set"),
        ({"cl_method": "reglora", "use_kt": True}, {}, "`use_kt` is set"),
    ],
)
def test_other_trainings_are_refused_where_the_host_reads_its_arguments(keys, variables, expected, monkeypatch):
    """That is what a run that no command line started has in common with all others."""
    from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    method = {key: value for key, value in keys.items() if key != "use_kt"}
    model = ModelArguments(model_name_or_path="x")
    model.use_kt = keys.get("use_kt", False)  # which asks for KTransformers when it is read
    with pytest.raises(RecipeError, match=expected):
        check_run((model, DataArguments(), FinetuningArguments(**method)))
    check_run((model, DataArguments(), FinetuningArguments(**{**method, "cl_method": None})))
