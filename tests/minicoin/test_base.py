"""The tiny base: files, tokenizer, corpus, and that it answers in the styles it was taught."""

import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from sefe_plugin.asd.rules import BOX
from sefe_plugin.asd.styles import FORMAT_LINES, MULTIPLE_CHOICE, SHORT_ANSWER, STYLES, YES_NO
from sefe_plugin.benchmarks import minicoin
from sefe_plugin.benchmarks.minicoin import corpus, pretrain, tasks, tiny_llava


BASE = Path(minicoin.__file__).parent / "base"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def loaded():
    return LlavaForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32, output_loading_info=True)


@pytest.fixture(scope="module")
def samples():
    rng = random.Random("held out")
    return [corpus.sample_about(corpus.random_picture(rng) if i % 4 else None, rng) for i in range(400)]


def test_base_is_small_and_stored_in_bf16():
    assert sum(file.stat().st_size for file in BASE.iterdir()) < 10e6
    with safe_open(BASE / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


def test_base_loads_whole(loaded):
    info = loaded[1]
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_every_word_of_the_world_is_one_token(tokenizer):
    words = [word for kind in corpus.WORDS for word in kind if word not in corpus.POSITIONS]
    words += ["A", "B", "C", "D", "Yes", "No", "yes", "no", *FORMAT_LINES.values()]
    assert [word for word in words if len(tokenizer.encode(word, add_special_tokens=False)) != 1] == []


def test_tokenizer_round_trip(tokenizer, samples):
    rng = random.Random(0)
    texts = [text for sample in samples[:100] for text in (sample.question, sample.answer)]
    texts += [text for task in tasks.TASKS for _ in range(10) for text in task.make(rng)[1:]]
    texts += ["[0.14, 0.05, 0.36, 1.00]", "Ünseen wörds, 3.14159 € and\n\nmore", "a  b"]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_processor_counts_image_tokens(tokenizer):
    processor = AutoProcessor.from_pretrained(BASE)
    picture = tasks.random_creature(random.Random(0)).draw()
    inputs = processor(text="USER: <image>\nWhat is it? ASSISTANT:", images=picture, return_tensors="pt")
    assert (inputs["input_ids"] == tokenizer.convert_tokens_to_ids("<image>")).sum() == tiny_llava.IMAGE_TOKENS == 4
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)


def test_projected_features_stand_for_the_pictures(loaded, tokenizer, samples):
    """The short cut of pre-training (features made once) gives the logits of the whole model."""
    model, sample = loaded[0], samples[1]
    prompt, answer = pretrain.encode(tokenizer, sample)
    with torch.no_grad():
        image_tokens = model.model.multi_modal_projector(pretrain.vision_features(model, [sample.picture]))
        loss = pretrain.answer_losses(model, tokenizer, image_tokens, [prompt], [answer])[0]
        whole = model(
            input_ids=torch.tensor([prompt + answer]),
            pixel_values=pretrain.pixels([sample.picture]),
            labels=torch.tensor([[-100] * len(prompt) + answer]),
        ).loss
    # Two orders of summation in fp32.
    assert loss.item() / len(answer) == pytest.approx(whole.item(), rel=1e-4, abs=1e-5)


def test_base_answers_above_chance_in_every_style(loaded, tokenizer):
    accuracy = pretrain.style_accuracy(loaded[0], tokenizer, random.Random("held out"), 600)
    # Guessing gives 1/2, 1/4 to 1/2, and at best 1/4 for the open styles; each bound lies over three standard
    # deviations above that for the 60 to 160 samples of a style.
    for style, bound in {YES_NO: 0.65, MULTIPLE_CHOICE: 0.55, SHORT_ANSWER: 0.6}.items():
        assert accuracy[style] > bound, accuracy


def test_corpus_covers_all_styles_in_the_words_of_the_rules(samples):
    assert {sample.style for sample in samples} == {*STYLES, BOX}
    for sample in samples:
        if sample.style != BOX:
            assert sample.question.endswith("\n" + FORMAT_LINES[sample.style])


def test_corpus_holds_nothing_that_the_tasks_teach():
    taught = {word for kind in corpus.WORDS[7:] for word in kind}
    rng = random.Random(0)
    drills = [corpus.drill_about(corpus.random_picture(rng), rng).answer for _ in range(500)]
    assert not taught & set(" ".join(drills).replace(",", "").split())
    for _ in range(2000):
        picture = corpus.random_picture(rng)
        item = corpus.question_about(picture, rng)
        assert item.answer not in taught
        assert not {tasks.UNANSWERABLE, "dead"} & {item.answer, getattr(picture, "flaw", None)}
