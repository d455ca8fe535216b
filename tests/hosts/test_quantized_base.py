"""A base whose own files hold 4-bit weights: refused where an adapter would be merged in, carried by stacking."""

import json
import subprocess
import sys

import pytest

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.recipe.errors import RecipeError


@pytest.fixture(scope="module")
def quantized_base(tmp_path_factory):
    """The tiny LLaVA, saved in 4 bit as such models are published."""
    import shutil

    import torch
    from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration

    folder = tmp_path_factory.mktemp("base") / "tiny-llava-bnb-4bit"
    shutil.copytree(BASE, folder)
    (folder / "model.safetensors").unlink()
    skipped = ["vision_tower", "multi_modal_projector", "lm_head"]
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=skipped)
    model = LlavaForConditionalGeneration.from_pretrained(BASE, quantization_config=four_bit, dtype=torch.float32)
    model.save_pretrained(folder)
    return folder


def test_merging_is_refused_before_the_start_and_stacking_works(train_here, small_recipe, tmp_path, quantized_base):
    recipe = small_recipe(tmp_path, 2, num_train_epochs=1, model_name_or_path=str(quantized_base))
    with pytest.raises(RecipeError, match=r"is quantized \(bitsandbytes\). Set `carry: stack`"):
        train_here(recipe)
    assert not (tmp_path / "run").exists()
    report = train_here(recipe, "carry=stack", "lora_target=q_proj,v_proj")
    assert report["accuracy_matrix"][1][1] is not None
    assert json.loads((tmp_path / "run" / "2_TextVQA" / "stacked" / "adapter_config.json").read_text())["r"] == 8


def test_a_base_of_the_hub_is_looked_at_before_the_first_training(tmp_path, quantized_base, monkeypatch):
    """What only the host can fetch, such as a model of another hub, is told by the first task."""
    from types import SimpleNamespace

    from sefe_plugin.hosts.llamafactory import base_check

    config = SimpleNamespace(to_dict=lambda: json.loads((quantized_base / "config.json").read_text()))
    monkeypatch.setattr(base_check, "load_config", lambda model_args: config)
    model = SimpleNamespace(model_name_or_path="owner/model")
    for asked, key in (
        (SimpleNamespace(merge_adapter=True, finetuning_type="lora"), "merge_adapter"),
        (SimpleNamespace(merge_adapter=False, finetuning_type="full"), "finetuning_type: full"),
    ):
        with pytest.raises(RecipeError, match=f"`{key}` needs a base in full precision; 'owner/model' is quantized"):
            base_check.check_base(model, asked)
    base_check.check_base(model, SimpleNamespace(merge_adapter=False, finetuning_type="lora"))


def test_a_single_run_is_refused_too(tmp_path, quantized_base, environment):
    keys = ["merge_adapter=true", f"model_name_or_path={quantized_base}", f"output_dir={tmp_path / 'out'}"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("stage: sft\ndo_train: true\ndataset: x\ntemplate: llava\n")
    code = "import sys; from llamafactory.cli import main; sys.argv = ['llamafactory-cli', *sys.argv[1:]]; main()"
    command = [sys.executable, "-c", code, "train", str(recipe), *keys]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert "`merge_adapter` needs a base in full precision" in result.stderr
    assert "Traceback" not in result.stderr
