"""The multimodal projector at its own learning rate."""

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration, TrainingArguments

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.hosts.llamafactory.optimizer import projector_optimizer


def adapted(**options):
    model = LlavaForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], **options))


def test_projector_has_its_own_rate_and_every_parameter_its_group(tmp_path):
    model = adapted(modules_to_save=["multi_modal_projector"])
    args = TrainingArguments(str(tmp_path), learning_rate=2e-4, weight_decay=0.1, report_to="none", use_cpu=True)
    optimizer = projector_optimizer(model, args, 2e-5)
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(map(id, grouped)) == sorted(names)  # each once
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr"] == (2e-5 if "multi_modal_projector" in name else 2e-4)
            assert group["weight_decay"] == (0.0 if name.endswith("bias") else 0.1)


def test_frozen_projector_is_an_error(tmp_path):
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ValueError, match=r"no parameter of .*multi_modal_projector is trained"):
        projector_optimizer(adapted(), args, 2e-5)


def test_host_trains_the_projector_at_its_rate_and_the_next_task_starts_from_it(train_here, recipe, tmp_path):
    """With plain SGD a step is the rate times the gradient, so a tiny rate leaves the projector where it was."""
    keys = yaml.safe_load(recipe.read_text())
    keys |= {"additional_target": "multi_modal_projector", "optim": "sgd", "max_steps": 2, "carry": "stack"}
    keys["output_dir"] = str(tmp_path / "run")
    for task, rate in zip(keys["tasks"], (0.1, 1e-12), strict=True):
        task["projector_learning_rate"] = rate
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(keys))
    train_here(file)

    def weight(folder):
        (value,) = (v for k, v in load_file(folder).items() if k.endswith("multi_modal_projector.linear_1.weight"))
        return value.float()

    start, first, second = (
        weight(file)
        for file in (
            BASE / "model.safetensors",
            tmp_path / "run" / "1_ScienceQA" / "adapter_model.safetensors",
            tmp_path / "run" / "2_TextVQA" / "adapter_model.safetensors",
        )
    )
    assert (first - start).abs().max() > 1e-5
    assert (second - first).abs().max() < 1e-7
