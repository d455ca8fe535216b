"""What the tiny base knows: its answers to held-out samples of its corpus, by answer style."""

import random
from collections import defaultdict

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from sefe_plugin.answers.styles import SHORT_ANSWER
from sefe_plugin.benchmarks.minicoin.corpus import box_sample, random_picture, sample_about
from sefe_plugin.benchmarks.minicoin.draw import Scene
from sefe_plugin.benchmarks.minicoin.forward import answer_losses, encode, pixels, vision_features
from sefe_plugin.evaluation.generate import generate_answers
from sefe_plugin.evaluation.scorers import SCORERS


#: File beside the base that holds what `measure` found when the base was built.
HELD_OUT = "held_out.json"
#: Key of the share of boxes that overlap the thing.
BOX_IOU = "box, IoU > 0.5"
#: Share of questions on text alone.
_TEXT_SHARE = 0.15
_BATCH = 32


def measure(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, seed: int, count: int = 2000
) -> dict[str, float]:
    """Return what `style_accuracy` and `box_accuracy` find on `count` and `count` / 5 samples of a seed."""
    exact = style_accuracy(model, tokenizer, random.Random(f"mini-coin held out {seed}"), count)
    boxes = box_accuracy(model, tokenizer, random.Random(f"mini-coin held out boxes {seed}"), count // 5)
    return {**exact, BOX_IOU: boxes}


@torch.no_grad()
def style_accuracy(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, rng: random.Random, count: int
) -> dict[str, float]:
    """Return the share of `count` samples that greedy decoding answers exactly, by answer style.

    The pictures are of the validation part, so neither the base nor any task is trained on them. Questions on text
    alone are counted apart, as "<style> on text".
    """
    pictures = [None if rng.random() < _TEXT_SHARE else random_picture(rng, part="validation") for _ in range(count)]
    samples = [sample_about(picture, rng) for picture in pictures]
    found = defaultdict(list)
    for start in range(0, count, _BATCH):
        part = samples[start : start + _BATCH]
        shown = [sample.picture for sample in part if sample.picture]
        image_tokens = model.model.multi_modal_projector(vision_features(model, shown))
        prompts, answers = zip(*(encode(tokenizer, sample) for sample in part), strict=True)
        right = answer_losses(model, tokenizer, image_tokens, prompts, answers)[1]
        for sample, hit in zip(part, right.tolist(), strict=True):
            found[sample.style if sample.picture else f"{sample.style} on text"].append(hit)
    return {style: round(sum(hits) / len(hits), 3) for style, hits in sorted(found.items())}


def box_accuracy(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, rng: random.Random, count: int
) -> float:
    """Return the share of `count` boxes, asked for as the corpus does, that overlap the thing by an IoU over 0.5."""
    hits = 0
    for start in range(0, count, _BATCH):
        scenes = [_scene(rng) for _ in range(min(_BATCH, count - start))]
        samples = [box_sample(scene, SHORT_ANSWER, rng) for scene in scenes]
        prompts = [encode(tokenizer, sample)[0] for sample in samples]
        inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        answers = generate_answers(
            model,
            [{**inputs, "pixel_values": pixels(scenes)}],
            lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
            max_new_tokens=24,
        )
        for sample, answer in zip(samples, answers, strict=True):
            hits += SCORERS["box"].rule(answer, {"answer_bbox": sample.answer}).correct
    return round(hits / count, 3)


def _scene(rng: random.Random) -> Scene:
    while not isinstance(picture := random_picture(rng, part="validation"), Scene):
        pass
    return picture
