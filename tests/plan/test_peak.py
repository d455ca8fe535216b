"""The planned memory beside the true peak of a training step on a CPU, every tensor's storage followed."""

import contextlib
import weakref

import pytest
import torch
from llamafactory.hparams import FinetuningArguments, ModelArguments
from llamafactory.model.adapter import init_adapter
from llamafactory.model.model_utils.checkpointing import prepare_model_for_training
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig

from sefe_plugin.hosts.llamafactory.architecture import measure_architecture
from sefe_plugin.plan.memory import UNCERTAINTY, Setting, gpu_memory


class PeakMemory(TorchDispatchMode):
    """Follows the bytes of all storages that live."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = {}, 0, 0

    def follow(self, tensor):
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return

        def gone(_):
            self.now -= size
            self.alive.pop(key)

        self.alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.follow(leaf)
        return result


@pytest.mark.parametrize(
    ("vocabulary", "batch", "checkpointing", "dtype"),
    [(100, 8, True, "bfloat16"), (4000, 2, True, "bfloat16"), (100, 2, False, "bfloat16"), (100, 8, True, "float32")],
    ids=["a layer", "logits", "no checkpointing", "fp32"],
)
def test_peak_of_a_step(tmp_path, vocabulary, batch, checkpointing, dtype):
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        dtype=dtype,
    )
    config.save_pretrained(tmp_path)
    half = dtype == "bfloat16"
    keys = {
        "model_name_or_path": str(tmp_path),
        "lora_rank": 16,
        "lora_target": "all",
        "bf16": half,
        "per_device_train_batch_size": batch,
        "disable_gradient_checkpointing": not checkpointing,
    }
    planned = gpu_memory(measure_architecture(keys), keys, Setting(1), earlier_tasks=0, tokens=64)

    model_args = ModelArguments(model_name_or_path=str(tmp_path), disable_gradient_checkpointing=not checkpointing)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    prepare_model_for_training(model, model_args)
    model = init_adapter(config, model, model_args, FinetuningArguments(lora_rank=16, lora_target="all"), True)
    model.train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable)
    tokens = torch.randint(vocabulary, (batch, 64))

    def step():
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()

    step()  # states and gradients exist from here on, as with a penalty
    memory = PeakMemory()
    states = [value for state in optimizer.state.values() for value in state.values()]
    for tensor in [*model.parameters(), *(parameter.grad for parameter in trainable), *states]:
        memory.follow(tensor)
    with memory:
        step()
    assert planned["total"] == pytest.approx(memory.peak, rel=UNCERTAINTY)
