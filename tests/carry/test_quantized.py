"""A base that was quantized before any training is told before the start, from its own configuration."""

import json

import pytest
import torch
from torch import nn

from sefe_plugin.carry import CARRIES
from sefe_plugin.carry.quantized import quantization_in, quantization_of
from sefe_plugin.carry.stacking import attach_frozen, stack_adapters


#: The part of published configurations that says how the weights are kept.
PUBLISHED = {
    "gptq": {"quantization_config": {"bits": 4, "group_size": 128, "quant_method": "gptq", "sym": True}},
    "awq": {"quantization_config": {"bits": 4, "quant_method": "awq", "version": "gemm", "zero_point": True}},
    "fp8": {"quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8"}},
    "compressed-tensors": {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}},
    "bitsandbytes": {"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}},
    "some way": {"compression_config": {"format": "pack-quantized"}},
    "gptq of a part": {"text_config": {"quantization_config": {"bits": 4, "quant_method": "gptq"}}},
}


@pytest.fixture(params=PUBLISHED)
def quantized(request, tmp_path):
    """A folder with the configuration of a quantized model, and the way's name."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **PUBLISHED[request.param]}))
    return str(tmp_path), request.param.removesuffix(" of a part")


def test_every_published_way_is_seen_and_refused_where_it_cannot_work(quantized):
    folder, way = quantized
    keys = {"model_name_or_path": folder}
    assert quantization_of(keys) == way
    (error,) = CARRIES["merge"].errors(keys)
    rule = f"`carry: merge` needs a base in full precision; {folder!r} is quantized ({way}). Set `carry: stack`"
    assert error.startswith(rule)
    (error,) = CARRIES["replace"].errors(keys)
    assert error.startswith("`carry: replace` needs a base in full precision")
    assert CARRIES["stack"].errors(keys) == CARRIES["continue"].errors(keys) == []


@pytest.mark.parametrize("config", [{}, {"quantization_config": None}, {"quantization_config": {}}, [], None])
def test_other_configurations_are_of_full_precision(config):
    assert quantization_in(config) is None


def test_what_cannot_be_read_is_left_to_the_host(tmp_path):
    assert quantization_of({}) is None
    assert quantization_of({"model_name_or_path": str(tmp_path)}) is None
    (tmp_path / "config.json").write_text("{")
    assert quantization_of({"model_name_or_path": str(tmp_path)}) is None
    assert quantization_of({"model_name_or_path": str(tmp_path / "absent")}, fetch=True) is None
    assert quantization_of({"model_name_or_path": "owner/absent"}, fetch=True) is None  # offline
    assert quantization_of({"model_name_or_path": "no name! at all"}, fetch=True) is None


def test_a_model_of_the_hub_is_read_from_the_cache_and_fetched_if_it_is_not_there(tmp_path, monkeypatch):
    keys = {"model_name_or_path": "owner/model", "cache_dir": str(tmp_path)}
    snapshot = tmp_path / "models--owner--model" / "snapshots" / ("0" * 40)
    file = snapshot / "config.json"

    def fetch(model, name, cache_dir, revision):
        snapshot.mkdir(parents=True)
        file.write_text(json.dumps(PUBLISHED["awq"]))
        (tmp_path / "models--owner--model" / "refs").mkdir()
        (tmp_path / "models--owner--model" / "refs" / "main").write_text("0" * 40)
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert quantization_of(keys) is None
    assert quantization_of(keys, fetch=True) == "awq"
    assert quantization_of(keys) == "awq"  # now without


class Packed(nn.Module):
    """A linear layer whose weight is kept in a buffer, as GPTQ and AWQ keep it."""

    def __init__(self, rows, columns):
        super().__init__()
        self.register_buffer("qweight", torch.randint(-8, 8, (rows, columns)).to(torch.int32))

    def forward(self, x):
        return nn.functional.linear(x, self.qweight.float())


def test_a_stack_is_kept_beside_weights_that_are_no_parameters(tmp_path, tiny_reglora):
    adapter = tiny_reglora()
    adapter.save_pretrained(tmp_path / "adapter")
    stack_adapters([tmp_path / "adapter"], tmp_path / "stacked")
    base = adapter.unload()
    x = {}
    for name, module in list(base.named_modules()):
        if name.endswith(("q_proj", "v_proj", "down_proj")):
            packed = Packed(module.out_features, module.in_features)
            parent, _, child = name.rpartition(".")
            setattr(base.get_submodule(parent), child, packed)
            x[name] = packed(torch.ones(module.in_features))
    attach_frozen(base, tmp_path / "stacked", torch.float32)
    for name, before in x.items():
        module = base.get_submodule(name)
        assert not torch.equal(module(torch.ones(module.qweight.shape[1])), before)
