"""A LLaVA of two million parameters: tokenizer, processor and model, in the files LLaMA-Factory loads by path."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from sefe_plugin.benchmarks.minicoin.draw import SIDE
from sefe_plugin.files import write_text


IMAGE_TOKEN = "<image>"  # noqa: S105
#: Side of a patch in pixels: one patch, so one image token, for each quadrant of a picture.
PATCH = 32
IMAGE_TOKENS = (SIDE // PATCH) ** 2

#: Places, option letters with their line break and two-decimal numbers are pieces, so that each is one token.
_PIECES = r"▁?(?:top|bottom)▁(?:left|right)|\n[A-E]\.|,▁(?=\d)|\d\.\d\d|\n|▁?\w+|▁?[^\w\s▁]+|▁+|\s+"
_MAX_VOCABULARY = 1024
#: The untrained model's common embedding component, and the head made of it: how many rotary pairs, how strong.
_SHARED_PART, _LOOK_BACK_PAIRS, _LOOK_BACK_STRENGTH = 0.5, 4, 1.2
_CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %} ASSISTANT:{% else %}{{ message['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
)


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on `texts`; every word that is frequent in them becomes one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # A blank in front makes the first word of an answer the same token as within a sentence.
            pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_MAX_VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>", IMAGE_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        model_max_length=512,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return the processor: 64x64 pictures to pixel values in [-1, 1], four image tokens each."""
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Return the untrained model in fp32; its weights come from PyTorch's global random stream."""
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=96,
    )
    text = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=160,
        intermediate_size=320,
        num_hidden_layers=5,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.08,
        **special,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(**special, do_sample=False)
    _start_with_look_up(model, tokenizer)
    return model


@torch.no_grad()
def _start_with_look_up(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give the untrained language model the parts of a look-up, which gradient descent alone takes long to find.

    In every layer equal tokens attend to each other and pass themselves on ("mimetic initialization", Trockman and
    Kolter, ICML 2023, there with other shares of the identity). One head of the first layer attends to the token
    before, which a look-up reads off (Olsson et al., "In-context learning and induction heads", 2022): a part that all
    embeddings share is turned by one position. An option's letter starts as the embedding of the letter itself.
    """
    decoder = model.model.language_model
    for layer in decoder.layers:
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        layer.self_attn.o_proj.weight.copy_(layer.self_attn.v_proj.weight.T)

    embeddings = model.get_input_embeddings().weight
    for letter in "ABCDE":
        line, alone = (tokenizer.encode(text, add_special_tokens=False)[-1] for text in (f"\n{letter}.", letter))
        embeddings[line] = embeddings[alone]
    embeddings[:, 0] = _SHARED_PART
    model.model.multi_modal_projector.linear_2.bias[0] = _SHARED_PART

    angles = decoder.rotary_emb.inv_freq[:_LOOK_BACK_PAIRS]
    attention = decoder.layers[0].self_attn
    half = attention.head_dim // 2
    query, key = attention.q_proj.weight[: 2 * half], attention.k_proj.weight[: 2 * half]
    query.zero_()
    key.zero_()
    query[:_LOOK_BACK_PAIRS, 0] = _LOOK_BACK_STRENGTH
    key[:_LOOK_BACK_PAIRS, 0] = _LOOK_BACK_STRENGTH * angles.cos()
    key[half : half + _LOOK_BACK_PAIRS, 0] = _LOOK_BACK_STRENGTH * angles.sin()


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model (bf16, safetensors), tokenizer and processor into `folder`; the model itself becomes bf16.

    The configuration says fp32, so that whoever loads the model with its own dtype computes in fp32: bf16 is many
    times slower on a CPU, and too coarse to merge adapters into.
    """
    # with the names of its own modules, which other versions of transformers and vLLM read as well
    model.to(torch.bfloat16).save_pretrained(folder, save_original_format=False)
    config_file = folder / "config.json"
    write_text(config_file, config_file.read_text(encoding="utf-8").replace('"bfloat16"', '"float32"'))
    make_processor(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
