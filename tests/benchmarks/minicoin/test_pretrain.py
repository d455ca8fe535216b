"""The build of the base: seeded, complete, and learning; here with a few steps on a few pictures."""

import json
import random

import pytest
import torch
from transformers import AutoTokenizer

from sefe_plugin.answers.styles import STYLES
from sefe_plugin.asd.rules import BOX
from sefe_plugin.benchmarks.minicoin import BASE, corpus, forward, held_out, pretrain, tiny_llava


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


def test_shipped_tokenizer_is_what_the_build_makes(tmp_path):
    texts = pretrain._tokenizer_texts(random.Random("mini-coin tokenizer 0"))
    tiny_llava.make_tokenizer(texts).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == (BASE / "tokenizer.json").read_text()


def test_equal_seeds_build_equal_files_and_record_what_was_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrain, "_PICTURES", 48)
    monkeypatch.setattr(pretrain, "measure", lambda *arguments: held_out.measure(*arguments, count=150))
    found, again = (pretrain.build(tmp_path / name, 0, vision_steps=1, language_steps=2) for name in ("one", "two"))
    assert found == again == json.loads((tmp_path / "one" / held_out.HELD_OUT).read_text(encoding="utf-8"))
    assert set(found) == {BOX, held_out.BOX_IOU, *STYLES, *(f"{style} on text" for style in STYLES)}
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_language_training_lowers_the_loss_and_leaves_the_vision_tower_alone(monkeypatch, tokenizer):
    monkeypatch.setattr(pretrain, "_PICTURES", 48)
    torch.manual_seed(0)
    model = tiny_llava.make_model(tokenizer)
    rng = random.Random(1)
    pictures = [corpus.random_picture(rng) for _ in range(32)]
    prompts, answers = zip(*(forward.encode(tokenizer, corpus.drill_about(p, rng)) for p in pictures), strict=True)

    def loss() -> float:
        with torch.no_grad():
            image_tokens = model.model.multi_modal_projector(forward.vision_features(model, pictures))
            return forward.answer_losses(model, tokenizer, image_tokens, prompts, answers)[0].mean().item()

    before, tower = loss(), [weight.clone() for weight in model.model.vision_tower.parameters()]
    pretrain.train_language(model, tokenizer, random.Random(2), 25)
    assert loss() < 0.9 * before
    assert all(map(torch.equal, tower, model.model.vision_tower.parameters()))


def test_batches_hold_every_kind_of_sample_once_and_grow_less_textual(tokenizer):
    rng = random.Random(3)
    pictures = [corpus.random_picture(rng) for _ in range(20)]
    batches = list(pretrain._batches(tokenizer, pictures, rng, 48))
    assert len(batches) == 48
    texts = [sum(index is None for index in chosen) / len(chosen) for chosen, _, _ in batches]
    assert sum(texts[:16]) > 2 * sum(texts[-16:])
    image = tokenizer.convert_tokens_to_ids(tiny_llava.IMAGE_TOKEN)
    for chosen, prompts, _ in batches:
        for index, prompt in zip(chosen, prompts, strict=True):
            assert prompt.count(image) == (0 if index is None else tiny_llava.IMAGE_TOKENS)
