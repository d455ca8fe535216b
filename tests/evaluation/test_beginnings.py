"""What questions begin with is read once, and changes no answer."""

import random

import pytest
import torch
from small_llama import SIZES
from transformers import LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration, MptConfig, MptForCausalLM

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.evaluation.beginnings import shared_beginnings
from sefe_plugin.evaluation.generate import generate_answers, generating
from sefe_plugin.evaluation.reading import Reader
from sefe_plugin.evaluation.rolling import rolling_answers


IMAGE, PAD = 4, 0
LIMITS = {"max_new_tokens": 8, "eos_token_id": [2, 9, 30], "pad_token_id": PAD}


def batch_of(texts, pictures=None):
    """Pad texts on the left; `pictures` has the number of each one's picture."""
    length = max(map(len, texts))
    ids = torch.tensor([[PAD] * (length - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (length - len(text)) + [1] * len(text) for text in texts])
    batch = {"input_ids": ids, "attention_mask": mask}
    if pictures is not None:
        batch["pixel_values"] = torch.stack([torch.full((3, 2, 2), float(number)) for number in pictures])
    return batch


def check(batch, found):
    """Beginning and rest of every question are the question, with its image in the beginning."""
    begun = found.batch["input_ids"].shape[1]
    for row, number in enumerate(found.of_row.tolist()):
        text = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        assert torch.equal(found.input_ids[row][found.attention_mask[row].bool()], text)
        assert torch.equal(found.input_ids[row, :begun], found.batch["input_ids"][number])
        assert torch.equal(found.attention_mask[row, :begun], found.batch["attention_mask"][number])
        assert found.attention_mask[row, -1] == 1
        assert found.attention_mask[row, :begun].any()
        assert IMAGE not in found.input_ids[row, begun:]
        if "pixel_values" in batch:
            assert torch.equal(found.batch["pixel_values"][number], batch["pixel_values"][row])
    assert found.input_ids.shape == batch["input_ids"].shape  # the cache takes no more room
    tokens = found.batch["input_ids"].numel() + found.input_ids[:, begun:].numel()
    assert tokens <= 0.75 * batch["input_ids"].numel()


def test_questions_about_one_image_share_it():
    image = [1, *[IMAGE] * 20]
    texts = [[*image, 10, 11], [*image, 12], [*image, 10, 13, 14], [*image, 10, 11]]
    batch = batch_of(texts, [0, 1, 0, 0])
    found = shared_beginnings(batch, IMAGE, PAD)
    check(batch, found)
    assert found.of_row.tolist() == [0, 1, 0, 0]
    assert found.batch["input_ids"].shape == (2, 22)


def test_texts_share_a_system_prompt():
    system = list(range(5, 25))
    batch = batch_of([[*system, 30], [*system, 31, 32, 33], [*system, 31, 34]])
    found = shared_beginnings(batch, None, PAD)
    check(batch, found)
    assert found.batch["input_ids"].tolist() == [system]


@pytest.mark.parametrize(
    ("texts", "pictures", "more"),
    [
        ([[1, 5, 6], [1, 7, 8]], None, {}),  # nothing worth it
        ([[1, *[IMAGE] * 9, 5], [1, *[IMAGE] * 9, 6]], [0, 1], {}),  # two images
        ([[*[IMAGE] * 9, 5, 6], [*[IMAGE] * 9, 5, 7], [1, 2, *[IMAGE] * 9]], [0, 0, 1], {}),  # no rest behind an image
        ([[*[5] * 9, 6], [*[5] * 9, 7], [5]], None, {}),  # nor behind a token
        ([[5, *[IMAGE] * 9, 6], [7, *[IMAGE] * 9, 6]], [0, 0], {}),  # texts before the image that differ
        ([[1, *[IMAGE] * 9, 5], [1, *[IMAGE] * 9, 6]], [0], {}),  # not one image for each
        ([*([IMAGE, IMAGE, *[5] * 20, row] for row in (6, 7)), [5] * 23], [0, 0, 1], {}),  # a question without one
        # an image so long that its beginning and the longest rest would take more room than any question
        ([[1, *[IMAGE] * 18, 5], *([1, *[IMAGE] * 9, 5, *[row] * 9] for row in range(6, 18))], [1, *[0] * 12], {}),
        ([[1, *[5] * 9, 6], [1, *[5] * 9, 7]], None, {"token_type_ids": torch.zeros(2, 11)}),
    ],
)
def test_what_cannot_be_shared_is_not(texts, pictures, more):
    assert shared_beginnings(batch_of(texts, pictures) | more, IMAGE, PAD) is None


def test_every_question_is_whole():
    """Random batches, most of which share something."""
    shared = 0
    for seed in range(600):
        rng = random.Random(seed)
        shown = rng.random() < 0.5
        head = [1, *(rng.randrange(5, 8) for _ in range(rng.randrange(6, 20)))]
        texts, pictures = [], []
        for _ in range(rng.randrange(1, 9)):
            pictures.append(rng.randrange(2))
            odd = rng.random() < 0.05  # with another head, and another number of image tokens
            image = [IMAGE] * (rng.randrange(1, 9) if odd else 12) * shown
            texts.append(
                [1, *([8] if odd else []), *head[1:], *image, *(rng.randrange(5, 8) for _ in range(rng.randrange(5)))]
            )
        batch = batch_of(texts, pictures if shown else None)
        found = shared_beginnings(batch, IMAGE, PAD)
        if found is not None:
            check(batch, found)
            shared += 1
    assert shared > 200


def decode(tokens):
    return " ".join(map(str, tokens))


def rolled(model, batches):
    with generating(model):
        return [answer for _, answer in sorted(rolling_answers(model, batches, decode, **LIMITS))]


def alone(model, texts, pictures=None):
    """Answer one question after the other; what stands behind the end is dropped."""
    answers = []
    for row, text in enumerate(texts):
        batch = batch_of([text]) | ({} if pictures is None else {"pixel_values": pictures[row : row + 1]})
        answers.append(generate_answers(model, [batch], decode, **LIMITS)[0])
    return answers


def read_tokens(model):
    """Note rows and tokens of the cache after every forward pass."""
    noted = []

    def note(module, args, kwargs, output):
        rows, length = output.logits.shape[0], output.past_key_values.get_seq_length()
        noted.append((rows, length))

    model.register_forward_hook(note, with_kwargs=True)
    return noted


def questions(count, head, seed=0):
    rng = random.Random(seed)
    return [head + [rng.randrange(5, 50) for _ in range(rng.randrange(1, 7))] for _ in range(count)]


def test_answers_with_a_system_prompt_are_those_without_sharing():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    texts = questions(24, list(range(5, 40)))
    expected = alone(model, texts)
    assert len(set(expected)) > 12
    noted = read_tokens(model)
    assert rolled(model, [(list(range(i, i + 8)), batch_of(texts[i : i + 8])) for i in range(0, 24, 8)]) == expected
    assert noted.count((1, 35)) == 3


@pytest.mark.parametrize("mixed", [False, True])
def test_rounding_in_16_bit_is_no_difference(mixed):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    model = model if mixed else model.to(torch.bfloat16)
    texts = questions(16, list(range(5, 40)))
    noted = read_tokens(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        rolled(model, [(list(range(i, i + 8)), batch_of(texts[i : i + 8])) for i in range(0, 16, 8)])
    assert noted.count((1, 35)) == 2


def test_llava_answers_several_questions_about_an_image_as_one_by_one():
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration.from_pretrained(BASE)
    image, seen = [1, *range(300, 340), *[IMAGE] * 4], []
    texts = [image + [randomly + 300 for randomly in text] for text in questions(18, [])]
    whose = [0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5, 5, 6, 7, 7, 8, 8]
    pictures = torch.randn(9, 3, 64, 64)[whose]
    expected = alone(model, texts, pictures)
    assert len(set(expected)) >= 5
    model.model.vision_tower.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(len(output[0])), with_kwargs=True
    )
    parts = [range(i, min(i + 8, 18)) for i in range(0, 18, 8)]
    batches = [
        (list(part), batch_of([texts[row] for row in part]) | {"pixel_values": pictures[list(part)]}) for part in parts
    ]
    assert rolled(model, batches) == expected
    assert seen == [5, 8, 4, 1]  # the first batch is read whole, too


class Pooling(LlamaForCausalLM):
    """Adds the sum of all that it reads at a time to each token: no cache holds that."""

    offset = 0.0

    def forward(self, input_ids=None, position_ids=None, **kwargs):
        embeds = self.model.embed_tokens(input_ids)
        if input_ids.shape[1] > 1:
            embeds = embeds + embeds.sum(1, keepdim=True)
        output = super().forward(inputs_embeds=embeds, position_ids=position_ids, **kwargs)
        output.logits = output.logits + self.offset
        return output


def pooling():
    return Pooling(LlamaConfig(**SIZES))


def pooling_in_16_bit():
    """Its logits have an offset beside which its mistakes are small."""
    model = Pooling(LlamaConfig(**SIZES | {"initializer_range": 0.2})).to(torch.bfloat16)
    model.offset = -100.0
    return model


def by_column():
    """It places tokens by their column, so padding between them is a distance."""
    sizes = {"vocab_size": 50, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}
    return MptForCausalLM(MptConfig(**sizes, pad_token_id=PAD, initializer_range=0.5))


@pytest.mark.parametrize("build", [pooling, pooling_in_16_bit, by_column])
def test_a_model_that_reads_parts_in_another_way_shares_nothing(build):
    torch.manual_seed(0)
    model = build()
    # of the last one there is no padding in the middle
    head = list(range(5, 40))
    texts = [[*head, 40 + place, *([42] * (length - 1))] for place, length in enumerate([1, 2, 1, 3, 1, 2, 3, 8])]
    batches = [([8 * part + row for row in range(8)], batch_of(texts)) for part in range(3)]
    parts = Reader._read_parts
    with pytest.MonkeyPatch.context() as patch:
        plain = without_sharing(model, batches)
        tried = []
        patch.setattr(Reader, "_read_parts", lambda *given, **more: tried.append(1) or parts(*given, **more))
        assert rolled(model, batches) == plain
    assert len(tried) == 1
    assert len(set(plain)) > 2


def without_sharing(model, batches):
    """Answer with a reader that has found that nothing may be shared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sefe_plugin.evaluation.reading.shared_beginnings", lambda *given: None)
        return rolled(model, batches)
