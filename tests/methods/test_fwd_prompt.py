"""Fwd-Prompt: its spaces against an SVD, its pool against naive code, its updates, on disk, and what it refuses."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from short_training import short_arguments
from tiny_qwen_vl import write_tiny_qwen2_5_vl, write_tiny_qwen3_vl
from torch.utils.data import Dataset
from transformers import (
    LlavaForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    Trainer,
)

import sefe_plugin
from sefe_plugin import FwdPromptConfig, FwdPromptModel
from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.methods.callback import MethodCallback
from sefe_plugin.methods.fwd_prompt.method import FwdPrompt
from sefe_plugin.methods.fwd_prompt.subspace import core_space, random_space, with_conflicts
from sefe_plugin.methods.left_file import read_left
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe


SIZES = {"fwd_prompt_pool": 6, "fwd_prompt_length": 3, "fwd_prompt_top": 2}
LENGTH = 6  # n n_p
TEXT = torch.arange(5, 25)[None]


@pytest.fixture(autouse=True)
def known():
    """Make the type known to PEFT again, if another test has taken it back."""
    assert sefe_plugin.FwdPromptConfig is FwdPromptConfig


@pytest.fixture
def pooled():
    """Return a model with a pool, in eval mode; the seed draws prompts and keys."""

    def build(base, seed=0, **sizes):
        torch.manual_seed(seed)
        return get_peft_model(base, FwdPromptConfig(task_type="CAUSAL_LM", **{**SIZES, **sizes})).eval()

    return build


def projector(rows):
    return rows.T @ rows


# --- spaces


def embeddings(count, width, seed):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -2, width, dtype=torch.float64)
    mixed = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))[0]
    return torch.randn(count, width, dtype=torch.float64, generator=generator) * scales @ mixed


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99, 0.999, 1.0])
def test_the_core_space_is_that_of_an_svd_of_the_embeddings_themselves(share):
    H = embeddings(200, 12, seed=0)
    _, s, V = torch.linalg.svd(H, full_matrices=False)
    K = next(k for k in range(1, 13) if (s[:k] ** 2).sum() >= share * (s**2).sum() * (1 - 1e-12))
    found = core_space(H.T @ H, share)
    assert len(found) == K
    torch.testing.assert_close(projector(found), projector(V[:K]), rtol=0, atol=1e-9)


def test_conflicts_are_what_the_core_has_outside_of_the_pretrained_space():
    pretrained, first, second = (core_space(projector(embeddings(50, 12, seed)), 0.9)[:4] for seed in range(3))
    conflicting = with_conflicts(torch.zeros(0, 12), pretrained, first)
    outside = first - first @ projector(pretrained)
    naive = torch.linalg.svd(outside, full_matrices=False)[2][: torch.linalg.matrix_rank(outside)]
    torch.testing.assert_close(projector(conflicting), projector(naive), rtol=0, atol=1e-12)
    both = with_conflicts(conflicting, pretrained, second)
    torch.testing.assert_close(both @ both.T, torch.eye(len(both), dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(both[: len(conflicting)], conflicting)
    assert (both @ pretrained.T).abs().max() < 1e-12
    allowed = torch.eye(12, dtype=torch.float64) - projector(both)
    # of both tasks nothing is left but what lies in the pre-trained space
    for core in (first, second):
        torch.testing.assert_close(core @ allowed, core @ projector(pretrained), rtol=0, atol=1e-12)
    again = with_conflicts(both, pretrained, second)
    assert torch.equal(again, both)


def test_a_random_space_is_orthonormal_and_another_for_each_task():
    one, two = (random_space(5, 12, seed) for seed in (1, 2))
    torch.testing.assert_close(one @ one.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-12)
    assert not torch.allclose(projector(one), projector(two)) and torch.equal(one, random_space(5, 12, 1))


# --- the pool


def naive_choice(pool, rows, is_image, top):
    """Return the chosen prompts of one question, from the formula; rows are its embeddings."""
    image_keys, text_keys = pool.fwd_prompt_image_key["default"], pool.fwd_prompt_text_key["default"]
    scores = []
    for image_key, text_key in zip(image_keys, text_keys, strict=True):
        score = torch.cosine_similarity(rows[~is_image].mean(0), text_key, dim=0)
        if is_image.any():
            score = (score + torch.cosine_similarity(rows[is_image].mean(0), image_key, dim=0)) / 2
        scores.append(score.item())
    return sorted(range(len(scores)), key=lambda m: -scores[m])[:top]


def qwen2_5_vl(folder):
    write_tiny_qwen2_5_vl(folder)
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def qwen3_vl(folder):
    write_tiny_qwen3_vl(folder)
    return Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def llava(folder):
    return LlavaForConditionalGeneration.from_pretrained(BASE).eval()


def questions(model):
    """Return a batch of two questions of unequal lengths, the first with an image, padded on the left."""
    config = model.config
    image, pictures = config.image_token_id, {}
    generator = torch.Generator().manual_seed(0)
    if "qwen" in config.model_type:
        size = config.vision_config.patch_size**2 * 3 * 2
        pictures["pixel_values"] = torch.randn(16, size, generator=generator)
        pictures["image_grid_thw"] = torch.tensor([[1, 4, 4]])
        head = [config.vision_start_token_id, *[image] * 4, config.vision_end_token_id]
    else:
        side = config.vision_config.image_size
        pictures["pixel_values"] = torch.randn(1, 3, side, side, generator=generator)
        head = [image] * 4
    first, second = [*head, 10, 11, 12, 13, 14], [20, 21, 22, 23]
    rows = [first, [0] * (len(first) - len(second)) + second]
    mask = [[1] * len(first), [0] * (len(first) - len(second)) + [1] * len(second)]
    batch = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask), **pictures}
    if "qwen" in config.model_type:
        batch["mm_token_type_ids"] = (batch["input_ids"] == image).long()
    return batch


@pytest.mark.parametrize("make", [llava, qwen2_5_vl, qwen3_vl])
def test_answers_are_those_of_a_model_that_is_fed_prompts_and_embeddings_by_hand(make, pooled, tmp_path):
    """Greedy, token by token: with a cache, without one, alone and in a batch of unequal lengths."""
    base = make(tmp_path)
    naive = copy.deepcopy(base)
    model = pooled(base)
    pool, batch = model.base_model.pool, questions(base)
    torch.nn.init.normal_(pool.values)  # so that the prompts matter
    keys = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    answers = model.generate(**batch, **keys)
    assert not torch.equal(answers, naive.generate(**batch, **keys))
    assert torch.equal(answers, model.generate(**batch, **keys, use_cache=False))
    fed = {}
    language = naive.model.language_model
    hook = language.register_forward_pre_hook(lambda module, args, kwargs: fed.update(kwargs), with_kwargs=True)
    rope = getattr(naive.model, "get_rope_index", None)
    with torch.no_grad():
        for row in range(2):
            start = int((batch["attention_mask"][row] == 0).sum())
            asked = batch["input_ids"].shape[1] - start
            ids = answers[row][start:][None]
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if row == 0:
                inputs |= {key: batch[key] for key in ("pixel_values", "image_grid_thw") if key in batch}
            if rope:
                inputs["mm_token_type_ids"] = (ids == base.config.image_token_id).long()
            naive.model.rope_deltas = None
            naive(**inputs)  # what the language model is fed without prompts
            rows, is_image = fed["inputs_embeds"][0], ids[0] == base.config.image_token_id
            chosen = naive_choice(pool, rows[:asked], is_image[:asked], SIZES["fwd_prompt_top"])
            prompts = torch.cat([pool.values[m] for m in chosen])
            joined = {"inputs_embeds": torch.cat([prompts, rows])[None]}
            positions = fed.get("position_ids")
            if positions is not None:
                front = torch.arange(LENGTH).expand(*positions.shape[:-1], LENGTH)
                joined["position_ids"] = torch.cat([front, positions + LENGTH], dim=-1)
            if fed.get("visual_pos_masks") is not None:
                still = torch.zeros(1, LENGTH, dtype=torch.bool)
                joined["visual_pos_masks"] = torch.cat([still, fed["visual_pos_masks"]], dim=1)
                joined["deepstack_visual_embeds"] = fed["deepstack_visual_embeds"]
            hook.remove()
            logits = naive.lm_head(language(**joined).last_hidden_state)[0, LENGTH + asked - 1 : -1]
            hook = language.register_forward_pre_hook(
                lambda module, args, kwargs: fed.update(kwargs), with_kwargs=True
            )
            fed.clear()
            assert logits.argmax(-1).tolist() == ids[0, asked:].tolist(), row


def test_the_prompts_of_a_sample_in_training_are_those_of_its_question(pooled, tiny_llama):
    """They do not depend on the answer, and padding on the right changes neither loss nor gradient."""
    model = pooled(tiny_llama())
    pool = model.base_model.pool
    labels = TEXT.masked_fill(torch.arange(20) < 12, -100)
    with torch.no_grad():
        rows = model.get_input_embeddings()(TEXT)
        ours = pool(rows, TEXT, labels, None)
    chosen = naive_choice(pool, rows[0, :12], torch.zeros(12, dtype=torch.bool), 2)
    assert torch.equal(ours[0], torch.cat([pool.values[m] for m in chosen]))
    alone = model(input_ids=TEXT, labels=labels).loss
    padded = {
        "input_ids": torch.nn.functional.pad(TEXT, (0, 4)),
        "labels": torch.nn.functional.pad(labels, (0, 4), value=-100),
        "attention_mask": torch.nn.functional.pad(torch.ones_like(TEXT), (0, 4)),
    }
    together = model(**padded).loss
    torch.testing.assert_close(alone, together)
    one, two = (torch.autograd.grad(loss, pool.values)[0] for loss in (alone, together))
    torch.testing.assert_close(one, two)
    assert one.flatten(1).any(1).nonzero().flatten().tolist() == sorted(chosen)


def test_the_gradient_by_the_keys_is_that_of_their_loss(pooled, tiny_llama):
    """Whatever is done with the loss of the answers; against autograd on the formula, written out."""
    model = pooled(tiny_llama()).train()
    pool = model.base_model.pool
    pool.key_weight = 0.3
    ids = torch.stack([TEXT[0], TEXT[0] + 20])
    labels = ids.masked_fill(torch.arange(20) < 12, -100)
    (model(input_ids=ids, labels=labels).loss * 1000).backward()
    keys = pool.fwd_prompt_text_key["default"]
    rows = model.get_input_embeddings()(ids).detach()
    again = keys.detach().double().requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for sample in rows.double():
        question = sample[:12].mean(0)
        for m in naive_choice(pool, sample[:12].float(), torch.zeros(12, dtype=torch.bool), 2):
            loss = loss + 0.3 * (1 - question @ again[m] / question.norm() / again[m].norm())
    (naive,) = torch.autograd.grad(loss, again)
    assert naive.any()
    torch.testing.assert_close(keys.grad.double(), naive, rtol=1e-4, atol=1e-8)
    assert not pool.fwd_prompt_image_key["default"].grad.any()


def test_a_saved_pool_is_one_small_file_that_loads_by_its_own_type(pooled, tiny_llama, tmp_path):
    model = pooled(tiny_llama())
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.rpartition("fwd_prompt_")[2] for name in saved} == {"value", "image_key", "text_key"}
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    assert isinstance(loaded.base_model, FwdPromptModel)
    assert torch.equal(loaded(input_ids=TEXT).logits, model(input_ids=TEXT).logits)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    plain = tiny_llama()(input_ids=TEXT).logits
    with loaded.disable_adapter():
        assert torch.equal(loaded(input_ids=TEXT).logits, plain)
    with pytest.raises(ValueError, match="A pool of prompts cannot be merged"):
        loaded.merge_and_unload()
    assert torch.equal(loaded.unload()(input_ids=TEXT).logits, plain)


def test_two_pools_live_side_by_side(pooled, tiny_llama):
    model = pooled(tiny_llama())
    one = model(input_ids=TEXT).logits
    model.add_adapter("other", FwdPromptConfig(task_type="CAUSAL_LM", **{**SIZES, "fwd_prompt_top": 1}))
    assert torch.equal(model(input_ids=TEXT).logits, one)
    model.set_adapter("other")
    assert not torch.allclose(model(input_ids=TEXT).logits, one)
    trained = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"other"}
    model.set_adapter("default")
    model.delete_adapter("other")
    assert torch.equal(model(input_ids=TEXT).logits, one)


def test_a_loss_without_labels_is_refused(pooled, tiny_llama, tmp_path):
    """Label smoothing takes the labels from the model, and prompts would be chosen by the answer, too."""
    args = short_arguments(tmp_path, 1)
    args.label_smoothing_factor = 0.1
    callback = MethodCallback(FwdPrompt({**SIZES}))
    trainer = Trainer(pooled(tiny_llama()), args, train_dataset=Sentences(4, 20), callbacks=[callback])
    with pytest.raises(ValueError, match="needs `labels` in training"):
        trainer.train()


def test_prompts_are_chosen_alike_in_every_precision(pooled, tiny_llama):
    model = pooled(tiny_llama(), fwd_prompt_pool=64, fwd_prompt_top=8)
    pool = model.base_model.pool
    ids = torch.randint(4, 64, (64, 20), generator=torch.Generator().manual_seed(0))
    rows = model.get_input_embeddings()(ids)
    with torch.no_grad():
        plain = pool(rows, ids, None, None)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(pool(rows, ids, None, None), plain)


def test_a_further_token_has_its_position_where_nobody_gives_it(pooled, tmp_path):
    """Decoding by hand with a cache: the model takes positions from the cache, which holds the prompts."""
    model = pooled(qwen2_5_vl(tmp_path))
    torch.nn.init.normal_(model.base_model.pool.values)
    ids = torch.tensor([[10, 11, 12, 13, 14, 15]])
    with torch.no_grad(), model.base_model.pool.one_choice():
        begun = model(input_ids=ids[:, :-1], use_cache=True)
        further = model(input_ids=ids[:, -1:], past_key_values=begun.past_key_values, use_cache=True).logits[0, -1]
        whole = model(input_ids=ids).logits[0, -1]
    torch.testing.assert_close(further, whole, rtol=1e-4, atol=1e-5)


def test_packed_samples_are_refused(pooled, tiny_llama):
    with pytest.raises(ValueError, match="Switch packing off"):
        pooled(tiny_llama())(input_ids=TEXT, attention_mask=torch.ones(1, 1, 20, 20))


# --- the method


class Sentences(Dataset):
    """Samples of tokens from a range, whose first eight are the question."""

    def __init__(self, first, last, count=8):
        self.rows = torch.randint(first, last, (count, 12), generator=torch.Generator().manual_seed(first))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return {"input_ids": row, "labels": row.masked_fill(torch.arange(12) < 8, -100)}


def train(model, data, folder, earlier=(), steps=5, **options):
    """Train a task; return its file."""
    method = FwdPrompt({**SIZES, "fwd_prompt_energy": 0.6, **options})
    args = short_arguments(folder, steps)
    args.weight_decay = 0.1
    callback = MethodCallback(method, earlier, load=lambda names: Sentences(*map(int, names)))
    Trainer(model, args, train_dataset=data, callbacks=[callback]).train()
    model.save_pretrained(folder)
    return folder / FwdPrompt.file


def test_no_step_leaves_the_allowed_space(pooled, tiny_llama, tmp_path):
    """A hundred steps of AdamW with weight decay, whose moments and decay point elsewhere than the gradient."""
    model = pooled(tiny_llama())
    values = model.base_model.pool.values
    drawn = values.detach().clone()
    first = train(model, Sentences(4, 20), tmp_path / "1")
    assert not torch.equal(values, drawn)
    begun = values.detach().double()
    second = train(model, Sentences(20, 36), tmp_path / "2", [first], steps=100)
    change = (values.detach().double() - begun).flatten(0, 1)
    spaces = read_left(first, "sefe_plugin.spaces")[0]
    assert len(spaces["conflicting"]) and len(spaces["pretrained"]) + len(spaces["conflicting"]) < 16
    inside = (change @ spaces["conflicting"].double().T).norm() / change.norm()
    assert change.norm() > 0.1 and inside < 1e-6
    assert FwdPrompt.check_file(tmp_path / "2", {}) == (
        f"its sum is right, {len(spaces['pretrained'])} and "
        f"{len(read_left(second, 'sefe_plugin.spaces')[0]['conflicting'])} directions, orthonormal"
    )


@pytest.mark.parametrize("projection", ["conflict", "residual", "pretrained", "random", "none"])
def test_each_projection_allows_what_it_says(projection, pooled, tiny_llama, tmp_path):
    model = pooled(tiny_llama())
    options = {"fwd_prompt_projection": projection}
    first = train(model, Sentences(4, 20), tmp_path / "1", **options)
    values = model.base_model.pool.values
    begun = values.detach().double()
    train(model, Sentences(20, 36), tmp_path / "2", [first], **options)
    change = (values.detach().double() - begun).flatten(0, 1)
    pretrained, conflicting = (
        read_left(first, "sefe_plugin.spaces")[0][key].double() for key in ("pretrained", "conflicting")
    )
    share = {
        "pretrained": (change @ projector(pretrained)).norm() / change.norm(),
        "conflicting": (change @ projector(conflicting)).norm() / change.norm(),
    }
    tiny = {name for name, value in share.items() if value < 1e-5}
    expected = {"conflict": {"conflicting"}, "residual": {"pretrained", "conflicting"}, "pretrained": {"conflicting"}}
    assert tiny == expected.get(projection, set())
    if projection == "pretrained":
        assert abs(share["pretrained"] - 1) < 1e-6
    if projection == "random":
        drawn = random_space(*conflicting.shape, seed=1)
        assert (change @ drawn.T).norm() / change.norm() < 1e-5


def test_the_spaces_are_those_of_all_that_the_language_model_is_fed(pooled, tiny_llama, tmp_path):
    """Without prompts before the first task, with them after it, padding left out: against an SVD of the rows."""
    model, data = pooled(tiny_llama()), Sentences(4, 20)
    general = Sentences(40, 60)
    embed = model.get_input_embeddings()
    rows = torch.cat([embed(sample["input_ids"]) for sample in general]).detach()
    file = train(model, data, tmp_path / "1", fwd_prompt_pretrained=["40", "60"])
    spaces = read_left(file, "sefe_plugin.spaces")[0]
    kept = core_space(rows.double().T @ rows.double(), 0.6)
    torch.testing.assert_close(projector(spaces["pretrained"].double()), projector(kept), rtol=0, atol=1e-5)
    pool, fed = model.base_model.pool, []
    for sample in data:
        own = embed(sample["input_ids"]).detach()
        chosen = naive_choice(pool, own[:8], torch.zeros(8, dtype=torch.bool), 2)
        fed.append(torch.cat([*(pool.values[m].detach() for m in chosen), own]))
    moment = torch.cat(fed).double()
    core = core_space(moment.T @ moment, 0.6)
    naive = with_conflicts(torch.zeros(0, 16), kept, core)
    torch.testing.assert_close(projector(spaces["conflicting"].double()), projector(naive), rtol=0, atol=1e-4)


def test_a_continued_task_ends_in_the_same_prompts(pooled, tiny_llama, tmp_path):
    """From a checkpoint in the middle of a second task, to the bit: the space is that of the task's beginning."""
    model = pooled(tiny_llama())
    first = train(model, Sentences(4, 20), tmp_path / "1")

    def go_on(checkpoint=None):
        again = PeftModel.from_pretrained(tiny_llama(), tmp_path / "1", is_trainable=True)
        args = short_arguments(tmp_path / "2", 6)
        args.set_save("steps", steps=3)
        method = FwdPrompt({**SIZES, "fwd_prompt_energy": 0.6})
        callback = MethodCallback(method, [first])
        Trainer(again, args, train_dataset=Sentences(20, 36), callbacks=[callback]).train(checkpoint)
        return {name: p.detach().clone() for name, p in again.named_parameters() if p.requires_grad}

    whole = go_on()
    continued = go_on(str(tmp_path / "2" / "checkpoint-3"))
    assert whole.keys() == continued.keys() and len(whole) == 3
    for name, value in whole.items():
        assert torch.equal(value, continued[name]), name


def test_other_data_need_a_way_to_load_them(pooled, tiny_llama, tmp_path):
    method = FwdPrompt({**SIZES, "fwd_prompt_pretrained": ["chat"]})
    trainer = Trainer(
        pooled(tiny_llama()),
        short_arguments(tmp_path, 1),
        train_dataset=Sentences(4, 20),
        callbacks=[MethodCallback(method)],
    )
    with pytest.raises(ValueError, match="chat cannot be loaded here"):
        trainer.train()


def test_a_pool_of_other_sizes_does_not_go_on(pooled, tiny_llama, tmp_path):
    first = train(pooled(tiny_llama()), Sentences(4, 20), tmp_path / "1")
    with pytest.raises(ValueError, match=r"its prompts have shape \(6, 3, 16\), this pool's \(6, 2, 16\)"):
        train(pooled(tiny_llama(), fwd_prompt_length=2), Sentences(4, 20), tmp_path / "2", [first])
    with pytest.raises(ValueError, match="`fwd_prompt_pool` must be 6, as in the pool that goes on; got 7"):
        FwdPrompt({**SIZES, "fwd_prompt_pool": 7}).adapt(FwdPromptConfig(**SIZES))


def test_the_first_task_takes_the_retention_sets_for_the_pretrained_space():
    general = [{"name": "chat", "dataset": "chat_test", "scorer": "exact"}]
    assert FwdPrompt.start({"retention_sets": general}, 0) == {"fwd_prompt_pretrained": ["chat_test"]}
    assert FwdPrompt.start({"retention_sets": general, "fwd_prompt_pretrained": ["other"]}, 0) == {}
    assert FwdPrompt.start({"retention_sets": general}, 1) == FwdPrompt.start({}, 0) == {}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"fwd_prompt_top": 11}, "`fwd_prompt_top` must be at most `fwd_prompt_pool`, 10; got 11"),
        ({"fwd_prompt_energy": 0.0}, r"`fwd_prompt_energy` must be a share in \(0, 1\]; got 0.0"),
        ({"packing": True}, "`packing` cannot be combined with `cl_method: fwd_prompt`"),
        ({"train_on_prompt": True}, "prompts are chosen by the question"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` cannot be combined"),
        ({"asd_loss": "sample"}, "`asd_loss: sample` cannot be combined"),
        ({"additional_target": "multi_modal_projector"}, "the model stays frozen"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "Train with DDP"),
        ({"carry": "merge"}, "`carry` must be one of"),
        (
            {"fwd_prompt_pretrained": "minicoin_general_tset"},
            r"`fwd_prompt_pretrained` must name datasets of .* got 'minicoin_general_tset'. Did you mean",
        ),
    ],
)
def test_what_does_not_fit_is_refused(keys, message, tmp_path):
    recipe = {"benchmark": "minicoin", "output_dir": str(tmp_path), "cl_method": "fwd_prompt", **keys}
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, "recipe.yaml", host_keys())
