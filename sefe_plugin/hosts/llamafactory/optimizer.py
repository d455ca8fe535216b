"""An optimizer that trains the multimodal projector at its own learning rate."""

import torch
from llamafactory.model.model_utils.visual import COMPOSITE_MODELS
from llamafactory.train.trainer_utils import _get_decay_parameter_names
from torch import nn
from transformers import Trainer, TrainingArguments


def projector_optimizer(
    model: nn.Module, training_args: TrainingArguments, learning_rate: float
) -> torch.optim.Optimizer:
    """Make the Trainer's own optimizer, with the projector's parameters in groups of their own.

    The official code of SEFE trains the projector in the same way (`mm_projector_lr` of LLaVA); the scheduler scales
    both rates alike.

    Args:
        model: with its adapter and its trainable projector.
        training_args: the run's arguments.
        learning_rate: of the projector.

    Raises:
        ValueError: if the host knows no projector of this model, or none of its parameters is trained.
    """
    model_type = model.config.model_type
    if model_type not in COMPOSITE_MODELS:
        raise ValueError(f"`projector_learning_rate`: LLaMA-Factory knows no projector of a {model_type} model.")
    keys = COMPOSITE_MODELS[model_type].projector_keys
    decayed = set(_get_decay_parameter_names(model))
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = any(f".{key}." in f".{name}." for key in keys), name in decayed
            groups.setdefault(group, []).append(parameter)
    if not any(is_projector for is_projector, _ in groups):
        raise ValueError(
            f"`projector_learning_rate`: no parameter of {', '.join(keys)} is trained. Name the module in "
            "`additional_target`."
        )
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(training_args, model)
    return optimizer_class(
        [
            {
                "params": parameters,
                "weight_decay": training_args.weight_decay if decays else 0.0,
                "lr": learning_rate if is_projector else training_args.learning_rate,
            }
            for (is_projector, decays), parameters in groups.items()
        ],
        **options,
    )
