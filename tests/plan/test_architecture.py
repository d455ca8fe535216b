"""What is measured without weights, beside really built models."""

import pytest
import torch
from llamafactory.hparams import FinetuningArguments, ModelArguments
from llamafactory.model.adapter import init_adapter
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, BitsAndBytesConfig, LlamaConfig

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.hosts.llamafactory.architecture import measure_architecture
from sefe_plugin.methods.reglora import find_reglora_model
from sefe_plugin.methods.reglora.sizes import key_element_memory
from sefe_plugin.plan.memory import state_bytes
from sefe_plugin.plan.sizes import PlanError


@pytest.fixture(scope="module")
def small_llama(tmp_path_factory):
    """A random Llama whose matrices lie on both sides of the size up to which key elements stay decoded."""
    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=512,
        intermediate_size=640,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return str(folder)


def build(keys: dict, **options):
    """The model that the host builds with these keys, of RegLoRA if they name no method, weights and all."""
    automatic = AutoModelForImageTextToText if keys["model_name_or_path"] == str(BASE) else AutoModelForCausalLM
    base = automatic.from_pretrained(keys["model_name_or_path"], dtype="auto", **options)
    before = {"parameters": base.num_parameters(), "bytes": sum(p.nbytes for p in base.parameters())}
    rest = {key: value for key, value in keys.items() if key != "model_name_or_path"}
    finetuning_args = FinetuningArguments(**{"cl_method": "reglora", **rest})
    model = init_adapter(
        base.config, base, ModelArguments(model_name_or_path=keys["model_name_or_path"]), finetuning_args, True
    )
    return model, before


@pytest.fixture(params=["shipped base", "with projector", "small llama", "some targets"])
def keys(request, small_llama):
    common = {"lora_rank": 8, "lora_target": "all"}
    return {
        "shipped base": {**common, "model_name_or_path": str(BASE)},
        "with projector": {
            **common,
            "model_name_or_path": str(BASE),
            "additional_target": "multi_modal_projector",
        },
        "small llama": {**common, "model_name_or_path": small_llama},
        "some targets": {**common, "model_name_or_path": small_llama, "lora_target": "q_proj,down_proj"},
    }[request.param]


def test_counts_are_those_of_the_built_model(keys):
    measured = measure_architecture(keys)
    model, base = build(keys)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert measured.parameters == base["parameters"]
    assert measured.weight_bytes == measured.saved_bytes == base["bytes"]
    assert measured.trainable_parameters == sum(p.numel() for p in trainable.values())
    assert measured.trainable_bytes == sum(p.nbytes for p in trainable.values())
    assert measured.lora_bytes == sum(p.nbytes for name, p in trainable.items() if "lora_" in name)
    assert list(measured.matrices) == list(find_reglora_model(model)._shapes().values())
    assert measured.quantized_bytes == 0


@pytest.mark.parametrize("method", ["moelora", "osf"])
def test_counts_are_those_of_the_built_model_with_other_adapters(small_llama, method):
    keys = {"model_name_or_path": small_llama, "lora_target": "all", "cl_method": method}
    measured = measure_architecture({**keys, "bf16": True})
    model, base = build(keys)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert measured.weight_bytes == measured.saved_bytes == base["bytes"]
    assert measured.trainable_parameters == sum(p.numel() for p in trainable)
    assert measured.trainable_bytes == sum(p.nbytes for p in trainable)
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    assert list(measured.matrices) == [(layer.out_features, layer.in_features) for layer in layers]
    own = [p for p in model.get_base_model().get_decoder().layers[0].named_parameters() if "base_layer" in p[0]]
    assert measured.layer_parameters == sum(p.numel() for _, p in own) + 2 * 512  # and two norms
    # with a weight that is put together in every step, a token keeps about what it keeps with LoRA
    lora = measure_architecture({**keys, "cl_method": "lora", "lora_rank": 8, "bf16": True})
    assert measured.layer_bytes_per_token == pytest.approx(lora.layer_bytes_per_token, rel=0.25)


def test_optimizer_states_are_what_adamw_allocates(keys):
    measured = measure_architecture(keys)
    model, _ = build(keys)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable)
    for parameter in trainable:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    allocated = sum(
        value.nbytes for state in optimizer.state.values() for name, value in state.items() if name != "step"
    )
    assert allocated == state_bytes({}) * measured.trainable_parameters


@pytest.mark.parametrize("ratio", [0.02, 0.1])
def test_key_elements_in_memory(keys, tmp_path, ratio):
    measured = measure_architecture(keys)
    model, _ = build({**keys, "reglora_key_ratio": ratio})
    reglora = find_reglora_model(model)
    for seed in range(3):
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.normal_()
        reglora.save_key_elements(tmp_path / f"{seed}.safetensors")
    reglora.load_key_elements([tmp_path / f"{seed}.safetensors" for seed in range(3)])
    allocated = 0
    for _, union in reglora._key_elements:
        allocated += union.codes.nbytes
        allocated += sum(panel.positions.nbytes + panel.times.nbytes for panel in union.decoded or ())
    # random factors make some rows and columns crowded, an even spread does not
    assert key_element_memory(measured.matrices, ratio, tasks=3) == pytest.approx(allocated, rel=0.05)


@pytest.mark.parametrize("double", [True, False])
def test_quantized_weights_take_what_bitsandbytes_allocates(small_llama, double):
    pytest.importorskip("bitsandbytes")
    measured = measure_architecture(
        {"model_name_or_path": small_llama, "quantization_bit": 4, "double_quantization": double, "lora_target": "all"}
    )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        small_llama, dtype="auto", quantization_config=config, device_map={"": "cpu"}
    )
    allocated = quantized = 0
    for parameter in model.parameters():
        allocated += parameter.nbytes
        if parameter.__class__.__name__ != "Params4bit":
            continue
        state = parameter.quant_state
        scales = state.absmax.nbytes + state.code.nbytes
        if state.nested:
            scales += state.state2.absmax.nbytes + state.state2.code.nbytes + state.offset.nbytes
        allocated += scales
        quantized += parameter.nbytes + scales
    assert quantized > 0
    assert measured.quantized_bytes == quantized
    assert measured.weight_bytes == allocated


def test_what_a_layer_keeps_is_what_it_keeps_with_weights(small_llama):
    keys = {"model_name_or_path": small_llama, "lora_rank": 8, "lora_target": "all"}
    measured = measure_architecture({**keys, "bf16": True})
    model, _ = build(keys)
    decoder = model.get_base_model().get_decoder()
    kept = []
    layers, tokens = decoder.layers, 256
    for count in (1, 2):
        decoder.layers = layers[:count]
        weights = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
        storages = {}

        def keep(tensor, weights=weights, storages=storages):
            if tensor.untyped_storage().data_ptr() not in weights and not tensor.is_leaf:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        inputs = torch.randn(1, tokens, 512, dtype=torch.bfloat16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", torch.bfloat16):
            output = decoder(inputs_embeds=inputs, use_cache=False)
        kept.append(sum(storage.nbytes() for storage in storages.values()))
        del output
    assert measured.layer_bytes_per_token == pytest.approx((kept[1] - kept[0]) / tokens, rel=0.1)


def test_a_model_that_is_not_here_is_named():
    with pytest.raises(PlanError, match="`model_name_or_path`: the configuration of nobody/nothing cannot be read"):
        measure_architecture({"model_name_or_path": "nobody/nothing"})
