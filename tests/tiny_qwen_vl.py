"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL of some 60,000 random weights, with real processors and mini-CoIN's words."""

from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from sefe_plugin.benchmarks.minicoin import BASE


_SPECIAL = ["im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad"]


def tokenizer_with(tokens: list[str], named: dict[str, str] | None = None):
    """Return mini-CoIN's tokenizer with more special tokens, some of which are its attributes too."""
    tokenizer = AutoTokenizer.from_pretrained(BASE, extra_special_tokens=named or {})
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    return tokenizer


def _tokenizer():
    """Return the tokenizer with Qwen's special tokens, and the keys of a configuration that name them."""
    names = {name: f"<|{name}|>" for name in _SPECIAL}
    tokenizer = tokenizer_with(list(names.values()), {"image_token": names["image_pad"]})
    keys = {"vision_start": "vision_start", "vision_end": "vision_end", "image": "image_pad", "video": "video_pad"}
    return tokenizer, {f"{key}_token_id": tokenizer.convert_tokens_to_ids(names[name]) for key, name in keys.items()}


def _text(tokenizer) -> dict:
    """Return the configuration of the language model."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    }


def write_tiny_qwen2_vl(folder: Path, tied: bool = False) -> None:
    """Write a Qwen2-VL with its tokenizer and processor; a picture of mini-CoIN is four tokens."""
    tokenizer, ids = _tokenizer()
    config = Qwen2VLConfig(
        text_config=_text(tokenizer),
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2},
        tie_word_embeddings=tied,
        **ids,
    )
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    pixels = {"min_pixels": 56 * 56, "max_pixels": 56 * 56}
    Qwen2VLProcessor(
        Qwen2VLImageProcessor(**pixels), tokenizer, Qwen2VLVideoProcessor(**pixels), chat_template="{{ messages }}"
    ).save_pretrained(folder)


def write_tiny_qwen2_5_vl(folder: Path, tied: bool = False) -> None:
    """Write a Qwen2.5-VL with its tokenizer and processor; a picture of mini-CoIN is four tokens."""
    tokenizer, ids = _tokenizer()
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer),
        vision_config={**vision, "fullatt_block_indexes": [0]},
        tie_word_embeddings=tied,
        **ids,
    )
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    pixels = {"min_pixels": 56 * 56, "max_pixels": 56 * 56}
    Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**pixels), tokenizer, Qwen2VLVideoProcessor(**pixels), chat_template="{{ messages }}"
    ).save_pretrained(folder)


def write_tiny_qwen3_vl(folder: Path, tied: bool = False) -> None:
    """Write a Qwen3-VL likewise, whose vision tower also adds to later layers of the language model."""
    tokenizer, ids = _tokenizer()
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen3VLConfig(
        text_config=_text(tokenizer) | {"num_hidden_layers": 3, "head_dim": 16},
        vision_config={**vision, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
        tie_word_embeddings=tied,
        **ids,
    )
    torch.manual_seed(0)
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    pixels = {"min_pixels": 64 * 64, "max_pixels": 64 * 64, "patch_size": 16}
    Qwen3VLProcessor(
        Qwen2VLImageProcessor(**pixels), tokenizer, Qwen3VLVideoProcessor(**pixels), chat_template="{{ messages }}"
    ).save_pretrained(folder)
