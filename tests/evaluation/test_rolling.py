"""Answers of a batch that stays full are those of one question after the other."""

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_llama import SIZES
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
)

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.evaluation import rolling
from sefe_plugin.evaluation.generate import generate_answers, generating
from sefe_plugin.evaluation.merged import merged_where_exact
from sefe_plugin.evaluation.rolling import cache_room, rolling_answers
from sefe_plugin.methods.fwd_prompt import FwdPromptConfig
from sefe_plugin.methods.moelora.tuner import MoeLoraConfig


LIMITS = {"max_new_tokens": 12, "eos_token_id": [2, 9, 30], "pad_token_id": 0}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).train()


@pytest.fixture
def questions():
    rng = random.Random(0)
    return [[1, *(rng.randrange(3, 50) for _ in range(rng.randrange(1, 12)))] for _ in range(41)]


def left_padded(questions, numbers):
    chosen = [questions[number] for number in numbers]
    length = max(map(len, chosen))
    ids = [[0] * (length - len(question)) + question for question in chosen]
    mask = [[0] * (length - len(question)) + [1] * len(question) for question in chosen]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def in_batches(questions, size):
    for start in range(0, len(questions), size):
        numbers = list(range(len(questions)))[start : start + size]
        yield numbers, left_padded(questions, numbers)


def decode(tokens):
    return " " + " ".join(map(str, tokens)) + "\n"


def greedy(model, question):
    """Decode by hand: the whole sequence anew for every token, no cache, no padding."""
    model.eval()
    tokens = list(question)
    for _ in range(LIMITS["max_new_tokens"]):
        with torch.no_grad():
            tokens.append(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax().item())
        if tokens[-1] in LIMITS["eos_token_id"]:
            break
    return decode(tokens[len(question) :]).strip()


def rolled(model, batches, **limits):
    with generating(model):
        answers = list(rolling_answers(model, batches, decode, **LIMITS | limits))
    assert len(dict(answers)) == len(answers)
    return [answer for _, answer in sorted(answers)]


@pytest.mark.parametrize("small_cache", [0, 1 << 28])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_answers_are_the_greedy_ones_whatever_the_room(monkeypatch, model, questions, size, small_cache):
    expected = [greedy(model, question) for question in questions]
    lengths = {len(answer.split()) for answer in expected}
    assert 1 in lengths
    assert max(lengths) == 12
    assert len(lengths) > 5
    monkeypatch.setattr(rolling, "SMALL_CACHE", small_cache)
    held = []
    model.register_forward_hook(lambda module, args, output: held.append(output.past_key_values.layers[0].keys.shape))
    assert rolled(model, in_batches(questions, size)) == expected
    room = cache_room(size, 12 + 12, 2 * 2 * 2 * 8 * 4)
    assert max(shape[0] * shape[2] for shape in held) <= room
    if small_cache:
        assert max(shape[0] for shape in held) > size


def test_rows_that_have_ended_take_no_more_steps(monkeypatch, model, questions):
    rows = []
    model.register_forward_hook(lambda module, args, output: rows.append(len(output.logits)))
    for _, batch in in_batches(questions, 8):
        generate_answers(model, [batch], decode, **LIMITS)
    fixed, fixed_passes = sum(rows), len(rows)
    rows.clear()
    rolled(model, in_batches(questions, 8))
    assert sum(rows) < 0.8 * fixed
    assert len(rows) < 0.6 * fixed_passes
    # the same where the cache has no room for more than a batch
    monkeypatch.setattr(rolling, "SMALL_CACHE", 0)
    rows.clear()
    rolled(model, in_batches(questions, 8))
    assert sum(rows) < 0.8 * fixed


def test_every_answer_comes_as_soon_as_it_has_ended(model, questions):
    passes, seen = [], []
    model.register_forward_hook(lambda *_: passes.append(1))
    with generating(model):
        for _, answer in rolling_answers(model, in_batches(questions, 41), decode, **LIMITS):
            seen.append((len(passes), len(answer.split())))
    assert seen[0][0] == 1  # those of one token, after the questions are read
    assert seen[-1][0] >= 12
    assert seen == sorted(seen, key=lambda one: one[0])


def test_llava_answers_questions_with_and_without_images_as_one_by_one():
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration.from_pretrained(BASE)
    asked = []
    for number in range(24):
        ids = torch.randint(300, 900, (int(torch.randint(4, 16, ())),)).tolist()
        asked.append([1, *([4] * 4 if number % 3 else []), *ids])
    pixels = torch.randn(24, 3, 64, 64)
    limits = {"eos_token_id": [2, 300], "max_new_tokens": 10}

    def batch(numbers):
        shown = [number for number in numbers if number % 3]
        return left_padded(asked, numbers) | ({"pixel_values": pixels[shown]} if shown else {})

    expected = [generate_answers(model, [batch([i])], decode, **LIMITS | limits)[0] for i in range(24)]
    parts = [list(range(24))[start : start + 5] for start in range(0, 24, 5)]
    assert rolled(model, ((numbers, batch(numbers)) for numbers in parts), **limits) == expected
    assert len(set(expected)) > 12


def windowed():
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))


def with_prompts():
    model = get_peft_model(
        LlamaForCausalLM(LlamaConfig(**SIZES)),
        FwdPromptConfig(task_type="CAUSAL_LM", fwd_prompt_pool=4, fwd_prompt_length=2, fwd_prompt_top=2),
    )
    model.base_model.pool.values.data.normal_()
    return model


def with_positions():
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    model.model.rope_deltas = None  # as in Qwen2-VL
    return model


@pytest.mark.parametrize("build", [windowed, with_prompts, with_positions])
def test_a_model_whose_cache_cannot_be_cut_answers_batch_by_batch(build, questions):
    torch.manual_seed(0)
    model = build()
    expected = [
        answer
        for _, batch in in_batches(questions, 8)
        for answer in generate_answers(model, [batch], decode, **LIMITS)
    ]
    # `generate` fills up what has ended, and its caller's `decode` drops that
    expected = [" ".join(tokens[: end_of(tokens)]) for tokens in map(str.split, expected)]
    found = [" ".join(tokens[: end_of(tokens)]) for tokens in map(str.split, rolled(model, in_batches(questions, 8)))]
    assert found == expected


def end_of(tokens):
    return next((number for number, token in enumerate(tokens, 1) if int(token) in LIMITS["eos_token_id"]), None)


def test_padding_on_the_right_is_refused(model, questions):
    batch = {name: tensor.flip(1) for name, tensor in left_padded(questions, range(4)).items()}
    with pytest.raises(ValueError, match="padded on the left"):
        rolled(model, [([0, 1, 2, 3], batch)])


def test_no_questions_have_no_answers(model):
    assert rolled(model, []) == []


def adapted(model, **options):
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], **options)
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    return model


def test_a_merged_adapter_answers_alike_and_leaves_the_weights_as_they_were(model, questions):
    plain = [greedy(model, question) for question in questions]
    model = adapted(model)
    expected = [greedy(model, question) for question in questions]
    assert expected != plain
    before = {name: value.clone() for name, value in model.state_dict().items()}
    places = [parameter.data_ptr() for parameter in model.parameters()]
    with merged_where_exact(model) as is_merged:
        assert is_merged
        assert rolled(model, in_batches(questions, 8)) == expected
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    assert not any(getattr(module, "merged_adapters", None) for module in model.modules())
    assert [greedy(model, question) for question in questions] == expected


def test_a_merged_adapter_is_beside_its_base_again_after_an_error(model):
    model = adapted(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), merged_where_exact(model):
        raise RuntimeError("stop")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert not any(getattr(module, "merged_adapters", None) for module in model.modules())


def experts(model):
    return get_peft_model(model, MoeLoraConfig(r=4, target_modules=["q_proj"], moelora_experts=2))


@pytest.mark.parametrize(
    "build",
    [
        lambda model: model,
        experts,
        lambda model: adapted(model, use_dora=True),
        lambda model: adapted(model.to(torch.bfloat16), task_type="CAUSAL_LM"),
    ],
    ids=["no adapter", "experts", "DoRA", "bf16"],
)
def test_what_would_not_be_the_same_is_not_merged(model, build):
    model = build(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with merged_where_exact(model) as is_merged:
        assert not is_merged
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
