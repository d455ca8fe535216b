"""The tiny base: files, tokenizer, corpus, and that it answers in the styles it was taught."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from sefe_plugin.answers.styles import BRIEF, DETAILED, FORMAT_LINES, MULTIPLE_CHOICE, SHORT_ANSWER, STYLES, YES_NO
from sefe_plugin.asd.rules import BOX
from sefe_plugin.benchmarks import minicoin
from sefe_plugin.benchmarks.minicoin import corpus, forward, held_out, tasks, tiny_llava
from sefe_plugin.benchmarks.minicoin.data import part_of


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
    words = [word for kind in corpus.WORDS for word in kind]
    words += ["A", "B", "C", "D", "Yes", "No", "yes", "no"]
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
    prompt, answer = forward.encode(tokenizer, sample)
    with torch.no_grad():
        image_tokens = model.model.multi_modal_projector(forward.vision_features(model, [sample.picture]))
        loss = forward.answer_losses(model, tokenizer, image_tokens, [prompt], [answer])[0]
        whole = model(
            input_ids=torch.tensor([prompt + answer]),
            pixel_values=forward.pixels([sample.picture]),
            labels=torch.tensor([[-100] * len(prompt) + answer]),
        ).loss
    # Two orders of summation in fp32.
    assert loss.item() / len(answer) == pytest.approx(whole.item(), rel=1e-4, abs=1e-5)


@pytest.fixture(scope="module")
def recorded():
    return json.loads((BASE / held_out.HELD_OUT).read_text(encoding="utf-8"))


def test_base_knows_the_five_styles_and_boxes(recorded):
    """What the tasks build on; guessing gives 1/2, 1/4 to 1/2, and at most 1/4 for the others."""
    bounds = {YES_NO: 0.85, MULTIPLE_CHOICE: 0.8, SHORT_ANSWER: 0.85, BRIEF: 0.7, DETAILED: 0.7, held_out.BOX_IOU: 0.5}
    assert {key: recorded[key] for key, bound in bounds.items() if recorded[key] < bound} == {}


def test_recorded_accuracy_is_the_shipped_models(loaded, tokenizer, recorded):
    found = held_out.measure(loaded[0], tokenizer, seed=1, count=600)
    assert set(found) == set(recorded)
    for key, share in found.items():
        # Other samples of the same kind: over four standard deviations of the rarest kind's share, about 30 samples.
        assert share == pytest.approx(recorded[key], abs=0.35 if key.endswith("on text") else 0.15), (key, found)


def test_corpus_covers_all_styles_in_the_words_of_the_rules(samples):
    assert {sample.style for sample in samples} == {*STYLES, BOX}
    for sample in samples:
        line = FORMAT_LINES[SHORT_ANSWER if sample.style == BOX else sample.style]
        assert sample.question.endswith("\n" + line)


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


def test_pictures_of_the_corpus_are_no_pictures_of_a_task():
    rng = random.Random(0)
    assert {part_of(corpus.random_picture(rng)) for _ in range(300)} == {"pretraining"}
    assert {part_of(corpus.random_picture(rng, part="validation")) for _ in range(50)} == {"validation"}
