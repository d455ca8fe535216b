"""Frozen encoders stay out of the backward pass, and what is trained gets the gradients that it had."""

import pytest
import torch


PROJECTOR = "multi_modal_projector"


def host_model(**finetuning):
    """The tiny LLaVA as the host readies it, with gradient checkpointing."""
    from llamafactory.hparams import FinetuningArguments, ModelArguments
    from llamafactory.model.adapter import init_adapter
    from llamafactory.model.model_utils.checkpointing import prepare_model_for_training
    from transformers import LlavaForConditionalGeneration

    from sefe_plugin.benchmarks.minicoin import BASE

    model_args = ModelArguments(model_name_or_path=str(BASE))
    model = LlavaForConditionalGeneration.from_pretrained(BASE)
    prepare_model_for_training(model, model_args)
    torch.manual_seed(0)
    model = init_adapter(
        model.config, model, model_args, FinetuningArguments(lora_rank=4, lora_target="all", **finetuning), True
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def gradients(model):
    """The gradient of every trained parameter, and whether the vision tower's output requires one."""
    seen = []
    tower = next(module for name, module in model.named_modules() if name.endswith("vision_tower"))
    hook = tower.register_forward_hook(lambda module, inputs, output: seen.append(output.last_hidden_state))
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[1, 4, 4, 4, 4, 20, 21, 22]])
    pictures = torch.randn(1, 3, 64, 64, generator=generator)
    model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pictures, labels=ids).loss.backward()
    hook.remove()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.zero_grad()
    return found, seen[0].requires_grad


@pytest.mark.parametrize("trained", [None, PROJECTOR])
def test_a_frozen_tower_keeps_nothing(trained):
    from sefe_plugin.hosts.llamafactory.encoders import spare_frozen_encoders

    model = host_model(additional_target=trained)
    before, required = gradients(model)
    assert required  # the day that the host itself spares the tower, this module can go
    spare_frozen_encoders(model)
    after, required = gradients(model)
    assert not required
    assert any(PROJECTOR in name for name in before) == bool(trained)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and after[name].any() for name in before)


def test_a_tower_with_an_adapter_is_left_alone():
    from sefe_plugin.hosts.llamafactory.encoders import spare_frozen_encoders

    model = host_model(freeze_vision_tower=False)
    spare_frozen_encoders(model)
    found, required = gradients(model)
    assert required
    assert any("vision_tower" in name and gradient.any() for name, gradient in found.items())
