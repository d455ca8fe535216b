"""A tiny model of each family of docs/models.md, with random weights, its real processor and mini-CoIN's words.

The files are as those of a published model: one safetensors file whose tensors have the names that the hub's have,
which transformers renames while it loads, and embeddings that are tied where small published models tie them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_qwen_vl import tokenizer_with, write_tiny_qwen2_5_vl, write_tiny_qwen2_vl, write_tiny_qwen3_vl
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedModel,
)

from sefe_plugin.benchmarks.minicoin import BASE


#: Sizes of a language model of two layers.
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
#: Sizes of a vision tower, beside those of its pictures.
_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
_SIDE = 64
_CLIP = {
    "size": {"shortest_edge": _SIDE},
    "crop_size": {"height": _SIDE, "width": _SIDE},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
#: Beginnings of names in a model of transformers 5, and in the published files of LLaVA and those built like it.
_LLAVA_NAMES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.": "",
}
_QWEN2_NAMES = {"model.language_model.": "model.", "model.visual.": "visual."}


def write_tiny_llava(folder: Path) -> None:
    """Write a LLaVA-1.5, its features from the last layer but one; a picture is four tokens."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    config = LlavaConfig(
        text_config=_llama(tokenizer),
        vision_config=CLIPVisionConfig(**_VISION, image_size=_SIDE, patch_size=32),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=4,
    )
    _save(folder, LlavaForConditionalGeneration, config)
    LlavaProcessor(
        CLIPImageProcessor(**_CLIP),
        tokenizer,
        patch_size=32,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="{{ messages }}",
    ).save_pretrained(folder)


def write_tiny_llava_next(folder: Path) -> None:
    """Write a LLaVA-NeXT, which sees a picture whole and in two halves that are padded."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    grid = [[_SIDE, 2 * _SIDE], [2 * _SIDE, _SIDE]]
    config = LlavaNextConfig(
        text_config=_llama(tokenizer),
        vision_config=CLIPVisionConfig(**_VISION, image_size=_SIDE, patch_size=32),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=4,
        image_grid_pinpoints=grid,
    )
    _save(folder, LlavaNextForConditionalGeneration, config)
    LlavaNextProcessor(
        LlavaNextImageProcessor(**_CLIP, image_grid_pinpoints=grid),
        tokenizer,
        patch_size=32,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="{{ messages }}",
    ).save_pretrained(folder)


def write_tiny_internvl(folder: Path) -> None:
    """Write an InternVL3 in the form that transformers has; a picture is four tokens."""
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = tokenizer_with(["<|im_start|>", "<|im_end|>"], {**named, "video_token": "<video>"})
    config = InternVLConfig(
        text_config={**_TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer), "tie_word_embeddings": False},
        vision_config={**_VISION, "image_size": [_SIDE, _SIDE], "patch_size": [16, 16], "attention_bias": True},
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    _save(folder, InternVLForConditionalGeneration, config)
    size = {"height": _SIDE, "width": _SIDE}
    InternVLProcessor(
        GotOcr2ImageProcessor(size=size, crop_to_patches=False),
        tokenizer,
        InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template="{{ messages }}",
    ).save_pretrained(folder)


def write_tiny_gemma3(folder: Path) -> None:
    """Write a Gemma 3, of a layer with a sliding window and one without; a picture is four tokens."""
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = tokenizer_with(["<start_of_turn>", "<end_of_turn>"], named)
    config = Gemma3Config(
        text_config={
            **_TEXT,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "vocab_size": len(tokenizer),
            "sliding_window": 32,
            "layer_types": ["sliding_attention", "full_attention"],
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**_VISION, "image_size": _SIDE, "patch_size": 16},
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    _save(folder, Gemma3ForConditionalGeneration, config)
    Gemma3Processor(
        Gemma3ImageProcessor(size={"height": _SIDE, "width": _SIDE}),
        tokenizer,
        image_seq_length=4,
        chat_template="{{ messages }}",
    ).save_pretrained(folder)


@dataclass(frozen=True)
class Family:
    """What one of the families is.

    Attributes:
        template: LLaMA-Factory's name of its template.
        write: Writes the tiny model and its processor into a folder.
        published: Beginnings of names of tensors in transformers 5, and in published files; the first that fits.
    """

    template: str
    write: Callable[[Path], None]
    published: dict[str, str]


FAMILIES = {
    "LLaVA-1.5": Family("llava", write_tiny_llava, _LLAVA_NAMES),
    "LLaVA-NeXT": Family("llava_next", write_tiny_llava_next, _LLAVA_NAMES),
    "Qwen2-VL": Family("qwen2_vl", partial(write_tiny_qwen2_vl, tied=True), _QWEN2_NAMES),
    "Qwen2.5-VL": Family("qwen2_vl", partial(write_tiny_qwen2_5_vl, tied=True), _QWEN2_NAMES),
    "Qwen3-VL": Family("qwen3_vl_nothink", partial(write_tiny_qwen3_vl, tied=True), {}),
    "InternVL3": Family("intern_vl", write_tiny_internvl, _LLAVA_NAMES),
    "Gemma 3": Family("gemma3", write_tiny_gemma3, _LLAVA_NAMES),
}


def write_family(name: str, folder: Path) -> Family:
    """Write the tiny model of a family as it would be published; returns what the family is."""
    family = FAMILIES[name]
    family.write(folder)
    _publish(folder, family.published)
    return family


def _llama(tokenizer) -> LlamaConfig:
    return LlamaConfig(
        **_TEXT,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _save(folder: Path, model_class: type[PreTrainedModel], config) -> None:
    torch.manual_seed(0)
    model = model_class(config)
    for name, parameter in model.named_parameters():
        if name.endswith("mm_input_projection_weight"):
            torch.nn.init.normal_(parameter, std=0.2)  # Gemma 3's projector starts at zero, and shows no picture
    model.save_pretrained(folder)


def _publish(folder: Path, names: dict[str, str]) -> None:
    """Write the weights anew under the names of published files: transformers saves them under others again."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    weights = {
        _published(name, names): value
        for name, value in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _published(name: str, names: dict[str, str]) -> str:
    for beginning, other in names.items():
        if name.startswith(beginning):
            return other + name.removeprefix(beginning)
    return name
