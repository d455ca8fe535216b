"""A LLaVA of mini-CoIN's vision tower and any Llama: assembled, its projector trained, written and loaded."""

import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.corpus import random_picture
from sefe_plugin.benchmarks.minicoin.forward import vision_features
from sefe_plugin.benchmarks.smol import llava
from sefe_plugin.cli import main


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A random Llama with the tokenizer of the tiny base, which has an image token already."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def projector(language_model, tmp_path_factory):
    file = tmp_path_factory.mktemp("projector") / "projector.safetensors"
    llava.train_projector(file, language_model, seed=1, naming_steps=20, answering_steps=2, pictures=40)
    return file


def test_the_projector_is_drawn_to_the_words_of_a_picture(language_model):
    torch.manual_seed(0)
    model, tokenizer = llava.assemble(language_model)
    rng = random.Random(0)
    pictures = [random_picture(rng) for _ in range(80)]
    features, named = vision_features(model, pictures), llava.named(model, tokenizer, pictures).detach()
    projector = model.model.multi_modal_projector

    def distance():
        with torch.no_grad():
            return ((projector(features) - named).pow(2).mean() / named.var(dim=(0, 1)).mean()).item()

    before = distance()
    llava.draw_to(projector, features, named, rng, 150)
    assert distance() < 0.6 < before


def test_equal_seeds_give_equal_projectors_in_bf16(language_model, projector, tmp_path):
    llava.train_projector(
        tmp_path / "p.safetensors", language_model, 1, naming_steps=20, answering_steps=2, pictures=40
    )
    one, two = load_file(projector), load_file(tmp_path / "p.safetensors")
    assert {weight.dtype for weight in one.values()} == {torch.bfloat16}
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_model_loads_and_its_parts_are_those_it_was_made_of(language_model, projector, tmp_path):
    assert (
        main(
            [
                "smol",
                "llava",
                str(tmp_path / "m"),
                "--language-model",
                str(language_model),
                "--projector",
                str(projector),
            ]
        )
        == 0
    )
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "m")
    processor = AutoProcessor.from_pretrained(tmp_path / "m")
    inputs = processor(
        text="USER: <image>\nWhat is it? ASSISTANT:",
        images=random_picture(random.Random(1)).draw(),
        return_tensors="pt",
    )
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 4
    assert model(**inputs).logits.isfinite().all()
    ids = processor.tokenizer("a red circle", return_tensors="pt").input_ids
    alone = AutoModelForCausalLM.from_pretrained(language_model)
    with torch.no_grad():
        expected = alone(ids).logits
        assert torch.allclose(model(ids).logits[..., : expected.shape[-1]], expected, atol=1e-5)
    tower = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32).model.vision_tower.state_dict()
    assert all(torch.equal(weight, tower[name]) for name, weight in model.model.vision_tower.state_dict().items())


def test_a_projector_of_another_size_is_refused_and_nothing_is_written(language_model, projector, tmp_path, capsys):
    save_file({name: weight[:1] for name, weight in load_file(projector).items()}, tmp_path / "cut.safetensors")
    command = ["smol", "llava", str(tmp_path / "m"), "--projector", str(tmp_path / "cut.safetensors")]
    assert main([*command, "--language-model", str(language_model)]) == 1
    assert "is no projector for" in capsys.readouterr().err
    assert main([*command, "--language-model", str(tmp_path / "none")]) == 1
    assert "holds no model" in capsys.readouterr().err
    assert main([*command[:-1], "none.safetensors", "--language-model", str(language_model)]) == 1
    assert "`sefe smol projector none.safetensors` trains one" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["cut.safetensors"]


def test_damaged_weights_are_refused_and_nothing_is_written(language_model, projector, tmp_path, capsys):
    model, bad, out = tmp_path / "model", tmp_path / "bad.safetensors", tmp_path / "m"
    shutil.copytree(language_model, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    bad.write_bytes(b"no weights")
    command = ["smol", "llava", str(out), "--language-model", str(model), "--projector"]
    assert main([*command, str(bad)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" is no whole safetensors file. ")[0] for line in said] == [str(weights), str(bad)]
    assert main([*command, str(projector)]) == 1
    assert "Copy the language model again; `sefe smol fetch FOLDER` writes" in capsys.readouterr().err
    assert main(["smol", "projector", str(tmp_path / "new"), "--language-model", str(model), "--steps", "0"]) == 1
    assert f"{weights} is no whole" in capsys.readouterr().err
    assert {*tmp_path.iterdir()} == {model, bad}


def test_a_projector_overwrites_no_file_and_takes_no_negative_number_of_steps(language_model, tmp_path, capsys):
    file = tmp_path / "mine.safetensors"
    command = ["smol", "projector", str(file), "--language-model", str(language_model)]
    assert main([*command, "--steps", "-1"]) == 1
    assert "--steps must be a whole number of at least 0; got -1." in capsys.readouterr().err
    assert not file.exists()
    file.write_text("mine")
    assert main([*command, "--steps", "0"]) == 1
    assert "mine.safetensors exists. Name another one, or remove it first." in capsys.readouterr().err
    assert file.read_text() == "mine"
