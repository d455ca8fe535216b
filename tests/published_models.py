"""Configurations with the published sizes of the models that the recipes name."""

from collections.abc import Callable


def _llava_1_5_7b():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    return LlavaConfig(text_config=text, vision_config=vision, image_seq_length=576, dtype="float16")


#: Text model of Qwen2.5-7B, on which Qwen2.5-VL-7B and InternVL3-8B are built.
_QWEN2_5_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}


def _qwen2_5_vl_7b():
    from transformers import Qwen2_5_VLConfig

    text = {
        **_QWEN2_5_7B,
        "vocab_size": 152064,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
    }
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, dtype="bfloat16")


def _qwen3_vl_8b():
    from transformers import Qwen3VLConfig

    text = {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "out_hidden_size": 4096,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, dtype="bfloat16")


def _internvl3_8b():
    from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config

    vision = InternVLVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=[448, 448],
        patch_size=[14, 14],
        attention_bias=True,
    )
    text = Qwen2Config(vocab_size=151674, **_QWEN2_5_7B)
    return InternVLConfig(
        text_config=text, vision_config=vision, image_seq_length=256, tie_word_embeddings=False, dtype="bfloat16"
    )


def _smollm2_135m():
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )


#: Name on the hub -> a function that makes the configuration, and the published number of parameters.
PUBLISHED: dict[str, tuple[Callable, int]] = {
    "llava-hf/llava-1.5-7b-hf": (_llava_1_5_7b, 7_063_427_072),
    "Qwen/Qwen2.5-VL-7B-Instruct": (_qwen2_5_vl_7b, 8_292_166_656),
    "Qwen/Qwen3-VL-8B-Instruct": (_qwen3_vl_8b, 8_767_123_696),
    "OpenGVLab/InternVL3-8B-hf": (_internvl3_8b, 7_944_373_760),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (_smollm2_135m, 134_515_008),
}
