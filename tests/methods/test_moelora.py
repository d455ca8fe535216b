"""MoELoRA: against a loop over its experts, on disk, over two tasks, and what it refuses."""

import json

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from short_training import short_arguments
from transformers import Trainer

from sefe_plugin import MoeLoraConfig, MoeLoraModel
from sefe_plugin.carry.adapter_files import check_adapter, check_carried
from sefe_plugin.evaluation.generate import generate_answers
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.methods.callback import MethodCallback
from sefe_plugin.methods.moelora.method import MoeLora
from sefe_plugin.methods.peft_types import unregister_all
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe


CONFIG = {"r": 6, "lora_alpha": 9, "target_modules": ["q_proj", "down_proj"], "moelora_experts": 3}
TEXT = torch.arange(5, 25)[None]


@pytest.fixture
def tiny_moelora(tiny_llama):
    """A MoELoRA of a tiny Llama whose parameters are all random, as after training."""

    def build(seed=0, **options):
        model = get_peft_model(tiny_llama(), MoeLoraConfig(**{**CONFIG, **options}))
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.3)
        return model

    return build


def loop(layer, x):
    """The formula, expert by expert and token by token, in the precision of the layer."""
    A, B, G = (part["default"].weight for part in (layer.lora_A, layer.lora_B, layer.lora_router))
    experts, rank = G.shape[0], A.shape[0] // G.shape[0]
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        logits = torch.stack([G[e] @ token for e in range(experts)])
        gates = logits.exp() / logits.exp().sum()
        y = layer.base_layer.weight @ token
        for e in range(experts):
            part = slice(e * rank, (e + 1) * rank)
            y = y + 9 / 6 * gates[e] * (B[:, part] @ (A[part] @ token))
        rows.append(y)
    return torch.stack(rows).reshape(*x.shape[:-1], -1)


def test_forward_and_gradients_are_those_of_a_loop_over_experts_in_float64(tiny_moelora):
    layer = tiny_moelora().base_model.model.model.layers[1].mlp.down_proj.double()
    torch.manual_seed(1)
    x = torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 5, 16, dtype=torch.float64)
    parameters = [x, *(p for p in layer.parameters() if p.requires_grad)]
    assert len(parameters) == 4
    ours, naive = layer(x), loop(layer, x)
    torch.testing.assert_close(ours, naive, rtol=1e-12, atol=1e-12)
    for one, two in zip(
        torch.autograd.grad((ours * weights).sum(), parameters),
        torch.autograd.grad((naive * weights).sum(), parameters),
        strict=True,
    ):
        assert one.any()
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_one_expert_is_lora(tiny_moelora, tiny_llama, tmp_path):
    model = tiny_moelora(moelora_experts=1)
    plain = get_peft_model(tiny_llama(), LoraConfig(r=6, lora_alpha=9, target_modules=["q_proj", "down_proj"]))
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(TEXT).logits, plain(TEXT).logits)


def test_dropout_is_in_front_of_the_experts_only(tiny_moelora):
    layer = tiny_moelora(lora_dropout=1.0).base_model.model.model.layers[0].mlp.down_proj
    x = torch.randn(1, 3, 24)
    torch.testing.assert_close(layer.train()(x), layer.base_layer(x))
    assert not torch.allclose(layer.eval()(x), layer.base_layer(x))


def test_a_fresh_adapter_changes_nothing_and_is_drawn_as_in_the_official_code(tiny_llama):
    model = get_peft_model(tiny_llama(), MoeLoraConfig(**{**CONFIG, "r": 96}))
    torch.testing.assert_close(model(TEXT).logits, tiny_llama()(TEXT).logits)
    layer = model.base_model.model.model.layers[0].mlp.down_proj
    assert layer.lora_A["default"].weight.std().item() == pytest.approx(0.01, rel=0.1)
    bound = 24**-0.5  # of nn.Linear's own draw
    router = layer.lora_router["default"].weight
    assert router.shape == (3, 24) and 0.9 * bound < router.abs().max() <= bound
    trained = {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"lora_A", "lora_B", "lora_router"}


def test_a_saved_adapter_loads_by_its_own_type(tiny_moelora, tiny_llama, tmp_path):
    model = tiny_moelora().eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path).eval()
    assert isinstance(loaded.base_model, MoeLoraModel)
    assert loaded.peft_config["default"].moelora_experts == 3
    assert torch.equal(loaded(TEXT).logits, model(TEXT).logits)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert check_adapter(tmp_path, "MOELORA")["moelora_experts"] == 3
    check_carried(tmp_path, "MOELORA")
    with pytest.raises(ValueError, match="`peft_type` must be 'LORA'; got 'MOELORA'"):
        check_adapter(tmp_path)  # a stack takes no such adapter


def test_peft_alone_refuses_a_saved_adapter(tiny_moelora, tmp_path):
    """It must not take it for a plain LoRA, whose answers would be others."""
    tiny_moelora().save_pretrained(tmp_path)
    try:
        unregister_all()
        with pytest.raises(KeyError, match="MOELORA"):
            PeftConfig.from_pretrained(tmp_path)
    finally:
        from sefe_plugin import FwdPromptConfig, MoeLoraConfig, RegLoraConfig  # noqa: F401 - registers all again
    assert PeftConfig.from_pretrained(tmp_path).moelora_experts == 3


def test_merging_is_refused_and_leaves_the_model_as_it_is(tiny_moelora):
    model = tiny_moelora().eval()
    before = model(TEXT).logits
    layer = model.base_model.model.model.layers[0].mlp.down_proj
    for merge in (model.merge_and_unload, model.merge_adapter, layer.merge):
        for safe in (False, True):
            with pytest.raises(ValueError, match="cannot be merged: what its experts change depends on the token"):
                merge(safe_merge=safe)
    assert torch.equal(model(TEXT).logits, before)


def test_answers_are_those_of_base_and_experts(tiny_moelora):
    model = tiny_moelora()
    batch = {"input_ids": TEXT, "attention_mask": torch.ones_like(TEXT)}
    keys = {"max_new_tokens": 8, "eos_token_id": 63, "pad_token_id": 0}
    (answer,) = generate_answers(model, [batch], str, **keys)
    tokens = TEXT
    for _ in range(8):  # greedy, without a cache
        tokens = torch.cat([tokens, model.eval()(tokens).logits[:, -1:].argmax(-1)], dim=1)
        if tokens[0, -1] == 63:
            break
    assert json.loads(answer) == tokens[0, TEXT.shape[1] :].tolist()
    with model.disable_adapter():
        (plain,) = generate_answers(model, [batch], str, **keys)
    assert plain != answer


def train_task(model, folder, seed):
    """Train one task, as a host does."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(4, 64, (8,), generator=generator) for _ in range(8)]
    data = [{"input_ids": row, "labels": row} for row in rows]
    trainer = Trainer(
        model,
        short_arguments(folder, 3),
        train_dataset=data,
        callbacks=[MethodCallback(MoeLora({"moelora_experts": 3}))],
    )
    trainer.train()
    model.save_pretrained(folder)
    return load_file(folder / "adapter_model.safetensors")


def test_the_second_task_goes_on_with_experts_and_router(tiny_llama, tmp_path):
    """Through what the plugin puts in the place of the host's names, where an adapter is continued."""
    from types import SimpleNamespace

    from sefe_plugin.hosts.llamafactory.adapter import adapted_by

    method = MoeLora({"moelora_experts": 3})
    module = SimpleNamespace(LoraConfig=LoraConfig, PeftModel=PeftModel)
    lora = {key: value for key, value in CONFIG.items() if key != "moelora_experts"}
    base = tiny_llama()
    with method.building(base), adapted_by(module, method):
        model = get_peft_model(base, module.LoraConfig(**lora))
    first = train_task(model, tmp_path / "1", 1)
    base = tiny_llama()
    with method.building(base), adapted_by(module, method):
        model = module.PeftModel.from_pretrained(base, str(tmp_path / "1"), is_trainable=True)
    assert isinstance(model.base_model, MoeLoraModel)
    start = {name.replace(".default", ""): p.detach().clone() for name, p in model.named_parameters()}
    assert all(torch.equal(start[name], value) for name, value in first.items())
    second = train_task(model, tmp_path / "2", 2)
    for name, value in second.items():
        assert not torch.equal(value, first[name]), name
    assert sum("lora_router" in name for name in second) == 4
    with pytest.raises(ValueError, match="`moelora_experts` must be 3, as in the adapter that goes on; got 2"):
        MoeLora({"moelora_experts": 2}).adapt(model.peft_config["default"])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"r": 7}, "`r` must be a multiple of `moelora_experts`, 3, which share it; got 7"),
        ({"rank_pattern": {"q_proj": 4}}, "must be a multiple of `moelora_experts`, 3, which share it; got 4"),
        ({"moelora_experts": 0}, "`moelora_experts` must be a whole number of at least 1"),
        ({"use_dora": True}, "`use_dora` must be False with MoELoRA"),
        ({"use_rslora": True}, "`use_rslora` must be False with MoELoRA: the scale is alpha / r"),
        ({"init_lora_weights": "pissa"}, "`init_lora_weights` must be True with MoELoRA"),
        ({"bias": "all"}, "`bias` must be 'none' with MoELoRA"),
        ({"target_parameters": ["x"]}, "`target_parameters` must be None with MoELoRA"),
    ],
)
def test_options_without_meaning_for_experts_are_refused(options, error):
    with pytest.raises(ValueError) as caught:
        MoeLoraConfig(**{**CONFIG, **options})
    assert error in str(caught.value)


def test_only_linear_layers_take_experts(tiny_llama):
    with pytest.raises(ValueError, match=r"MoELoRA adapts linear layers.*'model.embed_tokens' is Embedding"):
        get_peft_model(tiny_llama(), MoeLoraConfig(**{**CONFIG, "target_modules": ["embed_tokens"]}))


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"lora_rank": 12}, "`lora_rank` must be a multiple of `moelora_experts`, 8, which share it; got 12."),
        ({"use_dora": True}, "`use_dora` cannot be combined with `cl_method: moelora`"),
        ({"use_rslora": True}, "`use_rslora` cannot be combined with `cl_method: moelora`"),
        ({"pissa_init": True}, "`pissa_init` cannot be combined with `cl_method: moelora`"),
        ({"scoring_backend": "vllm"}, "vLLM has no such adapter"),
        ({"carry": "merge"}, "`carry` must be one of ('continue',) with `cl_method: moelora`; got 'merge'."),
        ({"carry": "stack"}, "`carry` must be one of ('continue',) with `cl_method: moelora`; got 'stack'."),
        ({"finetuning_type": "full"}, "`cl_method: moelora` needs `finetuning_type: lora`"),
        ({"tasks": [{"name": "A", "moelora_experts": 4}]}, "`moelora_experts`"),
        ({"tasks": [{"name": "A", "lora_target": "q_proj"}]}, "`lora_target`"),
    ],
)
def test_recipes_that_cannot_work_are_refused_before_the_start(keys, error, tmp_path):
    tasks = [{"name": name, "dataset": "d", "test_dataset": "d", "scorer": "short_answer"} for name in "AB"]
    if "tasks" in keys:
        keys = {"tasks": [tasks[0], {**tasks[1], **keys["tasks"][0], "name": "B"}]}
    recipe = {"model_name_or_path": "x", "template": "llava", "cl_method": "moelora", "output_dir": str(tmp_path)}
    with pytest.raises(RecipeError) as caught:
        load_recipe({**recipe, "tasks": tasks, **keys}, "recipe.yaml", host_keys(), check_data=False)
    assert any(error in found for found in caught.value.errors), caught.value.errors


def test_merging_by_a_single_run_is_refused():
    assert "no weight can take it in" in MoeLora.errors({"merge_adapter": True})[0]
    assert MoeLora.errors({"lora_rank": 128, "quantization_bit": 4}) == []


def test_experts_on_a_4_bit_base_are_those_on_the_weights_that_it_stands_for(tiny_llama, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    tiny_llama().save_pretrained(tmp_path / "base")
    quantized = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=BitsAndBytesConfig(load_in_4bit=True), dtype=torch.float32
    )
    torch.manual_seed(0)
    layer = get_peft_model(quantized, MoeLoraConfig(**CONFIG)).base_model.model.model.layers[0].mlp.down_proj
    assert type(layer).__name__ == "Linear4bit"
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        x = torch.randn(1, 4, 24)
        expected = layer.base_layer(x)
    A, B, G = (part["default"].weight for part in (layer.lora_A, layer.lora_B, layer.lora_router))
    gates = (x @ G.T).softmax(-1)
    for e in range(3):
        part = slice(2 * e, 2 * e + 2)
        expected = expected + 1.5 * gates[..., e : e + 1] * (x @ A[part].T @ B[:, part].T)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
