import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from sefe_plugin.evaluation.generate import generate_answers


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.5,
        attention_dropout=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


QUESTIONS = [[1, 7, 9], [1, 12, 30, 31, 4, 5], [1, 3], [1, 40, 41, 42]]


def left_padded(questions):
    length = max(map(len, questions))
    ids = [[0] * (length - len(question)) + question for question in questions]
    mask = [[0] * (length - len(question)) + [1] * len(question) for question in questions]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def decode(tokens):
    return " " + " ".join(str(token) for token in tokens if token > 2) + "\n"


def greedy(model, question, length):
    """Decode by hand: the whole sequence anew for every token, no cache, no padding."""
    model.eval()
    tokens = list(question)
    for _ in range(length):
        with torch.no_grad():
            token = model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax().item()
        tokens.append(token)
        if token == 2:
            break
    return decode(tokens[len(question) :]).strip()


def test_answers_are_the_greedy_ones_whatever_the_batches(model):
    expected = [greedy(model, question, 6) for question in QUESTIONS]
    assert len(set(expected)) > 1
    model.train()
    for size in (1, 2, 3, 4):
        batches = (left_padded(QUESTIONS[start : start + size]) for start in range(0, len(QUESTIONS), size))
        assert generate_answers(model, batches, decode, max_new_tokens=6) == expected


def test_every_stop_token_ends_an_answer_and_the_last_ends_the_batch(model):
    whole = [answer.split() for answer in generate_answers(model, [left_padded(QUESTIONS)], decode, max_new_tokens=8)]
    # the third token of every answer that has one, as the end of a turn is for chat models
    stops = {answer[2] for answer in whole if len(answer) > 2}
    assert stops
    cut = [answer[: next((i for i, token in enumerate(answer, 1) if token in stops), None)] for answer in whole]
    steps = []
    model.register_forward_hook(lambda *_: steps.append(1))
    ends = [2, *map(int, stops)]
    batch = [left_padded(QUESTIONS)]
    answers = generate_answers(model, batch, decode, max_new_tokens=8, eos_token_id=ends, pad_token_id=0)
    assert [answer.split() for answer in answers] == cut
    # `decode` drops the end token 2, which takes a step as well
    assert len(steps) == max(len(answer) + (answer[-1] not in stops) for answer in cut) < 8


OWN_SETTINGS = {
    "do_sample": True,
    "num_beams": 3,
    "num_return_sequences": 2,
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "min_length": 10,
    "min_new_tokens": 6,
    "max_time": 1e-9,
    "forced_bos_token_id": 5,
    "forced_eos_token_id": 5,
    "guidance_scale": 3.0,
    "exponential_decay_length_penalty": (1, 50.0),
    "renormalize_logits": True,
    "prompt_lookup_num_tokens": 2,
    "use_cache": False,
    "output_scores": True,
    "return_dict_in_generate": True,
    "watermarking_config": {"bias": 50.0},
}


@pytest.mark.parametrize("setting", [*OWN_SETTINGS, "suppress_tokens", "begin_suppress_tokens", "bad_words_ids",
                                     "sequence_bias", "stop_strings", "everything", "peft"])  # fmt: skip
def test_the_settings_of_the_model_do_not_matter(model, setting):
    # the answers have an end, so that a least length would change them
    model.generation_config.eos_token_id = None
    first = generate_answers(model, [left_padded(QUESTIONS)], decode, max_new_tokens=6)
    end = int(first[0].split()[2])
    arguments = {"max_new_tokens": 6, "eos_token_id": [2, end], "pad_token_id": 0}
    expected = generate_answers(model, [left_padded(QUESTIONS)], decode, **arguments)
    assert len(set(expected)) > 1
    words = sorted({int(word) for answer in expected for word in answer.split()})
    more = {
        "suppress_tokens": words,
        "begin_suppress_tokens": words,
        "bad_words_ids": [[word] for word in words],
        "sequence_bias": [[[7], 100.0]],
        "stop_strings": ["a"],
    }
    own = {**OWN_SETTINGS, **more}
    for name, value in own.items() if setting in ("everything", "peft") else [(setting, own[setting])]:
        setattr(model.generation_config, name, value)
    settings = model.generation_config
    wrapped = model
    if setting == "peft":
        wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert generate_answers(wrapped, [left_padded(QUESTIONS)], decode, **arguments) == expected
    assert model.generation_config is settings


def test_settings_in_the_configuration_of_the_model_do_not_matter(model, tmp_path):
    expected = generate_answers(model, [left_padded(QUESTIONS)], decode, max_new_tokens=6)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"no_repeat_ngram_size": 1, "repetition_penalty": 5.0}))
    (tmp_path / "generation_config.json").unlink()
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    assert generate_answers(model, [left_padded(QUESTIONS)], decode, max_new_tokens=6) == expected


def test_every_training_flag_is_restored_even_after_an_error(model):
    model.gradient_checkpointing_enable()
    model.model.layers[0].eval()
    flags = [module.training for module in model.modules()]
    assert len(set(flags)) == 2
    generate_answers(model, [left_padded(QUESTIONS)], decode, max_new_tokens=2)
    assert [module.training for module in model.modules()] == flags
    with pytest.raises(RuntimeError, match="stop"):
        generate_answers(model, [left_padded(QUESTIONS)], lambda tokens: _stop(), max_new_tokens=2)
    assert [module.training for module in model.modules()] == flags
    assert model.is_gradient_checkpointing


def test_the_model_trains_on_afterwards(model):
    generate_answers(model, [left_padded(QUESTIONS)], decode, max_new_tokens=3)
    assert all(parameter.grad is None for parameter in model.parameters())
    batch = left_padded(QUESTIONS)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_padding_on_the_right_is_refused(model):
    batch = {name: tensor.flip(1) for name, tensor in left_padded(QUESTIONS).items()}
    with pytest.raises(ValueError, match="padded on the left"):
        generate_answers(model, [batch], decode, max_new_tokens=2)


def test_no_batches_give_no_answers(model):
    assert generate_answers(model, [], decode) == []


def _stop():
    raise RuntimeError("stop")
