"""`include` by every way that reads a recipe: a sequence, its plan, and what LLaMA-Factory reads itself."""

import sys
from pathlib import Path

import pytest
import yaml

from sefe_plugin.files import shipped_folder
from sefe_plugin.hosts.llamafactory.host import read_recipe, read_recipe_with_places
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.hosts.llamafactory.plan import make_plan
from sefe_plugin.hosts.llamafactory.sequence import intercept
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe


BASE = shipped_folder("recipes") / "minicoin_sefe.yaml"


@pytest.fixture
def own(tmp_path) -> Path:
    """A recipe that includes a copy of a shipped one in another folder."""
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "base.yaml").write_text(BASE.read_text())
    file = tmp_path / "own.yaml"
    file.write_text(f"include: bases/base.yaml\noutput_dir: {tmp_path / 'run'}\nlora_rank: 8\n")
    return file


def test_a_sequence_by_include_is_the_sequence_written_out(own, tmp_path):
    whole = {**yaml.safe_load(BASE.read_text()), "output_dir": str(tmp_path / "run"), "lora_rank": 8, "seed": 3}
    written, included = (
        load_recipe(keys, "x", host_keys()).to_dict() for keys in (whole, read_recipe(own, ["seed=3"]))
    )
    assert included == written  # which the manifest records, and the task files come from
    assert "include" not in included


def test_a_key_on_the_command_line_stands_in_no_file(own):
    _, places = read_recipe_with_places(own, ["seed=3"])
    assert "benchmark" in places
    assert not {"seed", "lora_rank", "output_dir"} & set(places)
    with pytest.raises(RecipeError, match="`include` stands in a recipe file, not on the command line"):
        read_recipe(own, ["include=other.yaml"])


def test_errors_of_a_sequence_name_the_file_of_the_key(own, capsys):
    base = own.parent / "bases" / "base.yaml"
    base.write_text(base.read_text().replace("reglora_key_ratio: 0.02", "reglora_key_ratio: 2.0"))
    place = f"(`reglora_key_ratio` stands in {base}.)"
    with pytest.raises(SystemExit):
        intercept([str(own)])
    assert place in capsys.readouterr().err
    with pytest.raises(RecipeError) as caught:
        make_plan(own, [])
    assert place in str(caught.value)


def test_a_base_that_is_no_recipe_is_named(own):
    base = own.parent / "bases" / "base.yaml"
    base.write_text("- a\n")
    with pytest.raises(RecipeError, match=r"bases/base.yaml cannot start: 1 error.\n  - it must hold keys and values"):
        read_recipe(own, [])


def test_an_ordinary_run_is_read_by_the_host_with_its_include(tmp_path, monkeypatch):
    """For `train` without keys of the plugin, `export` and `chat`: the host's own parser."""
    from llamafactory.hparams import get_infer_args, read_args

    (tmp_path / "base.yaml").write_text("model_name_or_path: x\ntemplate: llava\nadapter_name_or_path: y\n")
    (tmp_path / "own.yaml").write_text("include: base.yaml\ntemplate: qwen\n")
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", str(tmp_path / "own.yaml"), "infer_dtype=float16"])
    assert intercept([str(tmp_path / "own.yaml")]) is False
    expected = {"model_name_or_path": "x", "adapter_name_or_path": "y", "template": "qwen", "infer_dtype": "float16"}
    assert read_args() == expected
    model, data, _, _ = get_infer_args()
    assert (model.model_name_or_path, data.template) == ("x", "qwen")
    assert read_args({"include": "base.yaml"}) == {"include": "base.yaml"}  # a mapping is no recipe file
