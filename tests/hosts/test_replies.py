"""An answer is what is left of a reply without the template's own words and without a thought, for every template."""

from types import SimpleNamespace

import pytest
from llamafactory.data.data_utils import Role
from llamafactory.data.processor import UnsupervisedDatasetProcessor
from llamafactory.data.template import TEMPLATES, ReasoningTemplate, get_template_and_fix_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sefe_plugin.hosts.llamafactory.replies import Replies


REASONING = [name for name, template in TEMPLATES.items() if isinstance(template, ReasoningTemplate)]


def tokenizer_with(*special):
    """A tokenizer with a token for each byte; the texts of `special` are special tokens, as in some models."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({sign: i for i, sign in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


def made(name, tokenizer, thinking=True):
    """The template, with which thoughts, and what turns its replies into answers."""
    data_args = SimpleNamespace(
        template=name, train_on_prompt=False, tool_format=None, default_system=None, enable_thinking=thinking,
        preserve_thinking=False, cutoff_len=1 << 40,
    )  # fmt: skip
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    encoder = UnsupervisedDatasetProcessor(
        template=SimpleNamespace(**{name: getattr(template, name) for name in ("encode_oneturn", "efficient_eos")},
                                 mm_plugin=TEMPLATES["default"].mm_plugin),
        tokenizer=tokenizer, processor=None, data_args=data_args,
    )  # fmt: skip
    return template, encoder, Replies(template, tokenizer)


def trained(encoder, answer):
    """The prompt and the reply as the host trains them."""
    turns = [{"role": Role.USER.value, "content": "What?"}], [{"role": Role.ASSISTANT.value, "content": answer}]
    return encoder._encode_data_example(*turns, None, None, [], [], [])


def generated(template, tokenizer, tokens):
    """What generation leaves of tokens: it ends at the first that ends a turn, and pads a batch."""
    stops = template.get_stop_token_ids(tokenizer)
    end = next((place for place, token in enumerate(tokens, 1) if token in stops), len(tokens))
    return tokens[:end] + [tokenizer.pad_token_id] * 2


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_answer_comes_back_as_it_was_trained(name):
    words = "".join(TEMPLATES[name].thought_words).replace("\n", "")
    for special in ((), ("<think>", "</think>"), ("<|end|>", "<|start|>", "<|channel|>", "<|message|>"), (words,)):
        tokenizer = tokenizer_with(*special)
        for thinking in (True, False, None):
            template, encoder, replies = made(name, tokenizer, thinking)
            for answer in ("red", "B. two Words", "[0.1, 0.2, 0.3, 0.4]", "no"):
                _, reply = trained(encoder, answer)
                written = replies.decode(generated(template, tokenizer, reply))
                assert replies.answer(written) == answer, (special, thinking, written)


@pytest.mark.parametrize("name", REASONING)
def test_a_thought_is_cut_and_what_is_only_a_thought_answers_nothing(name):
    tokenizer = tokenizer_with()
    template, encoder, replies = made(name, tokenizer)
    start, end = template.thought_words
    thought = f"{start}It is not blue.{end}"
    _, reply = trained(encoder, thought + "red")
    assert replies.answer(replies.decode(generated(template, tokenizer, reply))) == "red"
    # the opening word at the end of the question, as chat templates have it
    assert replies.answer(thought.removeprefix(start) + "red") == "red"
    assert replies.answer(start + "It is not") == ""
    assert replies.answer(thought) == ""
    assert replies.answer("red") == "red"


@pytest.mark.parametrize("name", ["qwen3_nothink", "llava", *REASONING])
def test_the_usual_words_of_a_thought_are_known_to_every_template(name):
    _, _, replies = made(name, tokenizer_with())
    assert replies.answer("<think>\nIt is\nnot blue.\n</think>\n\nred") == "red"
    assert replies.answer("<think>a</think>red<think>b") == "red"


def test_the_table_has_reasoning_templates():
    assert len(REASONING) >= 23
    assert {"qwen3", "qwen3_vl", "gpt_oss", "kimi_vl", "ernie_vl"} <= set(REASONING)
