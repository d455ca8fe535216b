"""The tiny base on samples of its corpus: token ids as LLaMA-Factory makes them, pixels, features, answer losses."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from sefe_plugin.benchmarks.minicoin.corpus import PretrainSample
from sefe_plugin.benchmarks.minicoin.draw import Picture
from sefe_plugin.benchmarks.minicoin.tiny_llava import IMAGE_TOKEN, IMAGE_TOKENS


def encode(tokenizer: PreTrainedTokenizerFast, sample: PretrainSample) -> tuple[list[int], list[int]]:
    """Return prompt and answer token ids, as LLaMA-Factory's template `llava` without a system text makes them."""
    question = sample.question.replace(IMAGE_TOKEN, IMAGE_TOKEN * IMAGE_TOKENS)
    prompt = tokenizer.encode(f"USER: {question} ASSISTANT:", add_special_tokens=False)
    answer = tokenizer.encode(sample.answer, add_special_tokens=False)
    return prompt, [*answer, tokenizer.eos_token_id]


def pixels(pictures: list[Picture]) -> Tensor:
    """Return the pictures as the processor prepares them: (pictures, 3, side, side), in [-1, 1]."""
    images = [picture.draw() for picture in pictures]
    raw = torch.frombuffer(bytearray(b"".join(image.tobytes() for image in images)), dtype=torch.uint8)
    return raw.view(len(images), images[0].height, images[0].width, 3).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def vision_features(model: LlavaForConditionalGeneration, pictures: list[Picture]) -> Tensor:
    """Return the vision tower's patch features, (pictures, image tokens, vision hidden size)."""
    tower = model.model.vision_tower
    parts = [pictures[start : start + 500] for start in range(0, len(pictures), 500)]
    return torch.cat([tower(pixel_values=pixels(part).to(tower.device)).last_hidden_state[:, 1:] for part in parts])


def answer_losses(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    image_tokens: Tensor,
    prompts: list[list[int]],
    answers: list[list[int]],
) -> tuple[Tensor, Tensor]:
    """Run the language model on image tokens already projected.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        image_tokens: Projected features of the pictures in the batch, in order, (pictures, image tokens, hidden size).
        prompts: Token ids of the prompts; those with a picture hold `IMAGE_TOKENS` image tokens.
        answers: Token ids of the answers.

    Returns:
        Loss of the answer, summed over its tokens; whether greedy decoding gives exactly the answer. Each (batch,).
    """
    device = image_tokens.device
    rows = [torch.tensor(prompt + answer) for prompt, answer in zip(prompts, answers, strict=True)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id).to(device)
    embedded = model.get_input_embeddings()(ids)
    image_mask = (ids == model.config.image_token_id).unsqueeze(-1)
    embedded = embedded.masked_scatter(image_mask, image_tokens)
    # Padding stands at the right, where a causal model's earlier positions cannot see it.
    hidden = model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, :-1]
    asked = torch.zeros_like(ids, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        asked[row, len(prompt) : len(prompt) + len(answer)] = True
    asked = asked[:, 1:]
    logits, targets = model.lm_head(hidden[asked]), ids[:, 1:][asked]
    owner = asked.nonzero()[:, 0]
    token_losses = F.cross_entropy(logits, targets, reduction="none")
    losses = torch.zeros(len(rows), device=device).index_add(0, owner, token_losses)
    wrong = torch.zeros(len(rows), device=device).index_add(0, owner, (logits.argmax(-1) != targets).float())
    return losses, wrong == 0
