"""The planned memory beside what a training on a GPU allocates."""

import json

import pytest
import torch

from sefe_plugin.plan.memory import UNCERTAINTY, Setting, gpu_memory


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("batch", [2, 16])
def test_peak_of_a_training(tmp_path, batch):
    from llamafactory.hparams import FinetuningArguments, ModelArguments
    from llamafactory.model.adapter import init_adapter
    from llamafactory.model.model_utils.checkpointing import prepare_model_for_training
    from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments

    from sefe_plugin import SefeCallback
    from sefe_plugin.hosts.llamafactory.architecture import measure_architecture

    tokens = 512
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=12,
        num_attention_heads=16,
        num_key_value_heads=16,
        dtype="bfloat16",
    )
    config.save_pretrained(tmp_path)
    keys = {
        "model_name_or_path": str(tmp_path),
        "lora_rank": 64,
        "lora_target": "all",
        "cl_method": "reglora",
        "bf16": True,
        "per_device_train_batch_size": batch,
    }
    planned = gpu_memory(measure_architecture(keys), keys, Setting(1), earlier_tasks=0, tokens=tokens)

    model_args = ModelArguments(model_name_or_path=str(tmp_path))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).cuda()
    prepare_model_for_training(model, model_args)
    finetuning_args = FinetuningArguments(lora_rank=64, lora_target="all", cl_method="reglora")
    model = init_adapter(config, model, model_args, finetuning_args, True)
    sample = {"input_ids": list(range(tokens)), "labels": list(range(tokens))}
    args = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=batch,
        max_steps=3,
        bf16=True,
        save_strategy="no",
        report_to=[],
    )
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    Trainer(model, args, train_dataset=[sample] * 3 * batch, callbacks=[SefeCallback()]).train()
    allocated = torch.cuda.max_memory_allocated()
    print(json.dumps({"planned": planned, "allocated": allocated}))
    assert planned["total"] == pytest.approx(allocated, rel=UNCERTAINTY)
