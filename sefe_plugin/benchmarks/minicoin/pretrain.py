"""Build the tiny base: the one scripted and seeded run that makes the shipped model files.

First the vision tower learns to name what each quadrant of a picture shows. It is then frozen, and the language model
and the projector learn the corpus in the five styles on its features, while image tokens are drawn towards the
embeddings of the words that name their quadrant.
"""

import json
import logging
import math
import random
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from sefe_plugin.benchmarks.minicoin.corpus import WORDS, drill_about, random_picture, sample_about
from sefe_plugin.benchmarks.minicoin.draw import (
    AUTHORS,
    COLORS,
    KNOWN_WORDS,
    MARKS,
    NEW_WORDS,
    POSITIONS,
    SHAPES,
    SIZES,
    Picture,
)
from sefe_plugin.benchmarks.minicoin.forward import answer_losses, encode, pixels, vision_features
from sefe_plugin.benchmarks.minicoin.held_out import HELD_OUT, measure, style_accuracy
from sefe_plugin.benchmarks.minicoin.tasks import TASKS
from sefe_plugin.benchmarks.minicoin.tiny_llava import IMAGE_TOKEN, IMAGE_TOKENS, make_model, make_tokenizer, save
from sefe_plugin.files import write_text


logger = logging.getLogger(__name__)

VISION_STEPS, LANGUAGE_STEPS = 800, 7500
_VISION_BATCH, _BATCH = 96, 32
_VISION_RATE, _RATE = 2e-3, 2e-3
_ALIGN_WEIGHT = 0.3
_PICTURES = 12_000
#: Shares at the first step and from a third of the steps on: of texts without a picture, and of drills.
_TEXT_SHARES, _DRILL_SHARES = (0.6, 0.15), (0.8, 0.25)
#: Batches that are drawn together and then sorted by length.
_GROUP = 16
_PLACES = ("moved left", "centred", "moved right", "moved up", "level", "moved down")
#: Everything the vision tower learns to tell; the first part has words that the language model learns from pictures.
_SAID = (*SHAPES, *COLORS, *SIZES, *KNOWN_WORDS, *MARKS, *POSITIONS)
_VISUAL = {word: i for i, word in enumerate((*_SAID, *NEW_WORDS, *AUTHORS, *_PLACES, "sign", "creature", "cover"))}


def build(
    folder: Path, seed: int = 0, vision_steps: int = VISION_STEPS, language_steps: int = LANGUAGE_STEPS
) -> dict[str, float]:
    """Make the base from nothing and write its files; takes about 35 minutes of one CPU core.

    Equal arguments give equal weights on one machine with one version of PyTorch and one number of threads; elsewhere
    sums are rounded otherwise, and the weights differ while the accuracy stays about the same.

    Args:
        folder: Where the model, tokenizer and processor files go.
        seed: Seed of the weights, pictures and questions.
        vision_steps: Optimizer steps of the vision tower.
        language_steps: Optimizer steps of language model and projector.

    Returns:
        What `held_out.measure` finds on the model as it is saved; also written to `folder`.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(_tokenizer_texts(random.Random(f"mini-coin tokenizer {seed}")))
    model = make_model(tokenizer)
    train_vision(model, random.Random(f"mini-coin vision {seed}"), vision_steps)
    train_language(model, tokenizer, random.Random(f"mini-coin language {seed}"), language_steps)
    save(model, tokenizer, folder)
    found = measure(model.float(), tokenizer, seed)
    write_text(folder / HELD_OUT, json.dumps(found, indent=1) + "\n")
    return found


def train_vision(model: LlavaForConditionalGeneration, rng: random.Random, steps: int) -> None:
    """Train the vision tower to name the content of each quadrant, with one linear head that is then dropped."""
    tower = model.model.vision_tower
    head = torch.nn.Linear(tower.config.hidden_size, len(_VISUAL))
    weights = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=_VISION_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_share(step, steps))
    for step in range(steps):
        pictures = [
            random_picture(rng, KNOWN_WORDS + NEW_WORDS, ("blurred", "dim", "dead")) for _ in range(_VISION_BATCH)
        ]
        logits = head(tower(pixel_values=pixels(pictures)).last_hidden_state[:, 1:])
        target = _named(pictures)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / _VISION_BATCH
        _step(optimizer, schedule, loss, weights)
        if step % 100 == 99:
            right = ((logits > 0) == (target > 0)).all(-1).float().mean()
            logger.info("vision step %d: loss %.3f, quadrants named exactly %.3f", step + 1, loss.item(), right)


def train_language(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, rng: random.Random, steps: int
) -> None:
    """Train language model and projector on the corpus; a sample counts by the root of its answer's length."""
    pictures = [random_picture(rng) for _ in range(_PICTURES)]
    features = vision_features(model, pictures)
    names = _named(pictures)[..., : len(_SAID)]
    name_ids = torch.tensor([tokenizer.encode(word, add_special_tokens=False)[0] for word in _SAID])
    model.model.vision_tower.requires_grad_(False)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_share(step, steps))
    batches = _batches(tokenizer, pictures, rng, steps)
    for step in range(steps):
        chosen, prompts, answers = next(batches)
        shown = [index for index in chosen if index is not None]
        image_tokens = model.model.multi_modal_projector(features[shown])
        losses = answer_losses(model, tokenizer, image_tokens, prompts, answers)[0]
        loss = (losses / torch.tensor([len(answer) for answer in answers]).sqrt()).mean()
        align = _alignment_loss(model, image_tokens, names[shown], name_ids)
        _step(optimizer, schedule, loss + _ALIGN_WEIGHT * align, weights)
        if step % 100 == 99:
            logger.info("language step %d: loss %.4f, alignment %.3f", step + 1, loss.item(), align.item())
        if step % 500 == 499:
            logger.info("right by style: %s", style_accuracy(model, tokenizer, random.Random(step), 500))


def _batches(
    tokenizer: PreTrainedTokenizerFast, pictures: list[Picture], rng: random.Random, steps: int
) -> Iterator[tuple[list[int | None], list[list[int]], list[list[int]]]]:
    """Yield (index of the picture or None, prompts, answers) for batches of samples of similar length.

    Texts and drills are frequent at first: looking things up in a text prepares for looking them up in a picture.
    """
    for step in range(0, steps, _GROUP):
        early = max(0.0, 1 - 3 * step / steps)
        text_share, drill_share = (last + early * (first - last) for first, last in (_TEXT_SHARES, _DRILL_SHARES))
        drawn = []
        for _ in range(_GROUP * _BATCH):
            index = None if rng.random() < text_share else rng.randrange(len(pictures))
            ask = drill_about if rng.random() < drill_share else sample_about
            sample = ask(None if index is None else pictures[index], rng)
            drawn.append((index, *encode(tokenizer, sample)))
        drawn.sort(key=lambda entry: len(entry[1]) + len(entry[2]))
        batches = [drawn[start : start + _BATCH] for start in range(0, len(drawn), _BATCH)]
        rng.shuffle(batches)
        for batch in batches:
            yield tuple(map(list, zip(*batch, strict=True)))


def _alignment_loss(
    model: LlavaForConditionalGeneration, image_tokens: Tensor, names: Tensor, name_ids: Tensor
) -> Tensor:
    """Cross-entropy of each image token, read by the tied output layer, against the words that name its quadrant."""
    table = model.get_input_embeddings().weight[name_ids]
    scores = (F.normalize(image_tokens, dim=-1) @ F.normalize(table, dim=-1).T) * 10
    return -(scores.log_softmax(-1) * names).sum() / names.sum()


def _named(pictures: list[Picture]) -> Tensor:
    """Return which visual words name each quadrant, 0 or 1, (pictures, quadrants, words)."""
    target = torch.zeros(len(pictures), IMAGE_TOKENS, len(_VISUAL))
    for row, picture in enumerate(pictures):
        for cell, words in enumerate(picture.visual_words()):
            target[row, cell, [_VISUAL[word] for word in (*words, POSITIONS[cell])]] = 1
    return target


def _rate_share(step: int, steps: int) -> float:
    """Warm up over 100 steps, then decay along a cosine to zero."""
    return min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _step(
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loss: Tensor,
    weights: list[Tensor],
) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    schedule.step()


def _tokenizer_texts(rng: random.Random) -> Iterator[str]:
    """Yield texts of the corpus and of the tasks, and every word that is to be one token."""
    for _ in range(4000):
        sample = rng.choice((sample_about, drill_about))(random_picture(rng), rng)
        yield f"USER: {sample.question.replace(IMAGE_TOKEN, '')} ASSISTANT:"
        yield sample.answer
    for task in TASKS:
        for _ in range(300):
            item = task.make(rng)
            yield f"{item.text} ASSISTANT:"
            yield item.answer
    for kind in WORDS:
        yield from 10 * kind
