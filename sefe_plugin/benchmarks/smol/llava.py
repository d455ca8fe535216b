"""A LLaVA with a real language model: mini-CoIN's vision tower, a small projector, and SmolLM2 or another Llama.

The projector is trained with tower and language model frozen, in two steps:
first each image token is drawn to the mean embedding of the words that name what it shows, then the language model
answers mini-CoIN's pre-training questions about pictures (`minicoin.corpus`), and only the projector learns.
"""

import logging
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration
from transformers import PreTrainedTokenizerBase as Tokenizer

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.benchmarks.minicoin.corpus import random_picture, sample_about
from sefe_plugin.benchmarks.minicoin.draw import POSITIONS, Picture
from sefe_plugin.benchmarks.minicoin.forward import answer_losses, encode, vision_features
from sefe_plugin.benchmarks.minicoin.tiny_llava import IMAGE_TOKEN, IMAGE_TOKENS, make_processor
from sefe_plugin.files import is_whole_safetensors, replacing, replacing_folder


logger = logging.getLogger(__name__)

NAMING_STEPS, ANSWERING_STEPS = 3000, 800
_BATCH, _NAMING_BATCH = 8, 64
_NAMING_RATE, _ANSWERING_RATE = 1e-3, 5e-4
#: Pictures that it is trained on.
PICTURES = 4000


def build(folder: Path, language_model: Path, projector: Path) -> None:
    """Write the model as a folder for `model_name_or_path`, with `template: llava` and `default_system: ""`.

    Args:
        folder: Where to; whole or not at all. A folder that is there is replaced.
        language_model: A folder of a Llama, such as `sefe smol fetch` writes.
        projector: Weights of the projector, as `train_projector` writes them.

    Raises:
        ValueError: If a file of weights is damaged, or the projector was trained for a language model of another size.
    """
    faults = _damaged(language_model)
    if not is_whole_safetensors(projector):
        faults.append(
            f"{projector} is no whole safetensors file. Copy it again, or train one with `sefe smol projector FILE "
            f"--language-model {language_model}`."
        )
    if faults:
        raise ValueError("\n".join(faults))
    model, tokenizer = assemble(language_model)
    own, weights = model.model.multi_modal_projector, load_file(projector)
    expected = {name: tuple(weight.shape) for name, weight in own.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if found != expected:
        raise ValueError(
            f"{projector} is no projector for {language_model}: it holds {found}, asked for is {expected}. Train one "
            f"with `sefe smol projector FILE --language-model {language_model}`."
        )
    own.load_state_dict(weights)
    with replacing_folder(folder) as draft:
        model.save_pretrained(draft, save_original_format=False)
        make_processor(tokenizer).save_pretrained(draft)
        tokenizer.save_pretrained(draft)


def assemble(language_model: Path) -> tuple[LlavaForConditionalGeneration, Tokenizer]:
    """Return a LLaVA in fp32 with mini-CoIN's vision tower, a new projector and a language model, and its tokenizer.

    The tokenizer has one token more, for an image, and the embeddings are padded to a multiple of 64 rows. The
    projector's weights come from PyTorch's global random stream.

    Args:
        language_model: As in `build`.

    Raises:
        ValueError: If a file of the language model's weights is damaged.
    """
    if faults := _damaged(language_model):
        raise ValueError("\n".join(faults))
    seen = LlavaForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32)
    spoken = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(language_model, padding_side="left")
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    spoken.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    config = LlavaConfig(
        vision_config=seen.config.vision_config,
        text_config=spoken.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=spoken.config.tie_word_embeddings,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(seen.model.vision_tower.state_dict())
    model.model.language_model.load_state_dict(spoken.model.state_dict())
    model.lm_head.load_state_dict(spoken.lm_head.state_dict())
    model.generation_config = spoken.generation_config
    return model, tokenizer


def _damaged(language_model: Path) -> list[str]:
    """List the files of a language model's weights that are damaged."""
    return [
        f"{file} is no whole safetensors file. Copy the language model again; `sefe smol fetch FOLDER` writes SmolLM2."
        for file in sorted(language_model.glob("*.safetensors"))
        if not is_whole_safetensors(file)
    ]


def train_projector(
    file: Path,
    language_model: Path,
    seed: int = 0,
    naming_steps: int = NAMING_STEPS,
    answering_steps: int = ANSWERING_STEPS,
    pictures: int = PICTURES,
) -> None:
    """Train a projector from nothing and write it, in bf16.

    Equal arguments give equal weights on one machine with one version of PyTorch and one number of threads.

    Args:
        file: Where to; a safetensors file.
        language_model: As in `build`.
        seed: Seed of the weights, pictures and questions.
        naming_steps: Optimizer steps towards the words that name an image token's quadrant.
        answering_steps: Optimizer steps through the language model.
        pictures: Number of different pictures.
    """
    torch.manual_seed(seed)
    model, tokenizer = assemble(language_model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.requires_grad_(requires_grad=False).to(device)
    rng = random.Random(f"smol projector {seed}")
    shown = [random_picture(rng) for _ in range(pictures)]
    features = vision_features(model, shown)
    projector = model.model.multi_modal_projector.requires_grad_()
    draw_to(projector, features, named(model, tokenizer, shown), rng, naming_steps)
    answer(model, tokenizer, shown, features, rng, answering_steps)
    weights = {key: weight.bfloat16().cpu() for key, weight in projector.state_dict().items()}
    with replacing(file) as draft:
        save_file(weights, draft)


def draw_to(projector: torch.nn.Module, features: Tensor, named: Tensor, rng: random.Random, steps: int) -> None:
    """Draw each image token to an embedding.

    Args:
        projector: The projector, trained in place.
        features: Of the vision tower, (pictures, image tokens, vision hidden size).
        named: The embeddings, (pictures, image tokens, hidden size).
        rng: Draws the batches.
        steps: Optimizer steps.
    """
    scale = named.var(dim=(0, 1)).mean()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=_NAMING_RATE)
    for step in range(steps):
        rows = rng.sample(range(len(features)), min(_NAMING_BATCH, len(features)))
        loss = F.mse_loss(projector(features[rows]), named[rows]) / scale
        _step(optimizer, loss, projector)
        if step % 500 == 499:
            logger.info("naming step %d: loss %.3f", step + 1, loss.item())


def answer(
    model: LlavaForConditionalGeneration,
    tokenizer: Tokenizer,
    pictures: list[Picture],
    features: Tensor,
    rng: random.Random,
    steps: int,
) -> None:
    """Train the projector by the language model's answers to questions about pictures; a sample counts once."""
    projector = model.model.multi_modal_projector
    optimizer = torch.optim.AdamW(projector.parameters(), lr=_ANSWERING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, max(steps, 1))
    for step in range(steps):
        rows = rng.sample(range(len(pictures)), _BATCH)
        samples = [sample_about(pictures[row], rng) for row in rows]
        prompts, answers = zip(*(encode(tokenizer, sample) for sample in samples), strict=True)
        losses, right = answer_losses(model, tokenizer, projector(features[rows]), list(prompts), list(answers))
        lengths = torch.tensor([len(ids) for ids in answers], device=losses.device)
        loss = (losses / lengths).mean()
        _step(optimizer, loss, projector)
        schedule.step()
        if step % 20 == 19:
            logger.info("answering step %d: loss %.3f, right %.2f", step + 1, loss.item(), right.float().mean())


def named(model: LlavaForConditionalGeneration, tokenizer: Tokenizer, pictures: list[Picture]) -> Tensor:
    """Return the mean embedding of the words that name each quadrant, (pictures, image tokens, hidden size)."""
    table, embeddings = model.get_input_embeddings().weight, {}

    def embedding(word: str) -> Tensor:
        if word not in embeddings:
            embeddings[word] = table[tokenizer.encode(f" {word}", add_special_tokens=False)].mean(0)
        return embeddings[word]

    return torch.stack(
        [
            torch.stack(
                [
                    torch.stack([embedding(word) for word in (*words, POSITIONS[cell])]).mean(0)
                    for cell, words in enumerate(picture.visual_words())
                ]
            )
            for picture in pictures
        ]
    )


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, projector: torch.nn.Module) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
    optimizer.step()
