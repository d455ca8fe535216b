"""No gradients for the pictures, where nothing before or in their encoder is trained.

Example: LLaVA-1.5-7B in 16 bit, 16 pictures at a time, with LoRA on its language model. PEFT lets every embedding's
output require a gradient, for gradient checkpointing; that of the picture's patches too. So the frozen vision tower
keeps 6.4 GB for a backward pass whose result nobody reads.
"""

from torch import nn
from transformers import PreTrainedModel, TrainerCallback


class SpareFrozenEncoders(TrainerCallback):
    """Keeps frozen encoders out of the backward pass."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Take back what the host has just asked for."""
        spare_frozen_encoders(model)


def spare_frozen_encoders(model: nn.Module) -> None:
    """Take back that inputs of frozen encoders require gradients; all gradients of trained parameters stay.

    Args:
        model: As it is trained; the embeddings of its text are left as they are.
    """
    handles = [handle for module in model.modules() for handle in vars(module).get("_require_grads_hooks", ())]
    models = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    text = _input_embeddings(models[0]) if models else None
    for encoder in models:
        inputs = _input_embeddings(encoder)
        if inputs is None or inputs is text or any(parameter.requires_grad for parameter in encoder.parameters()):
            continue
        for handle in handles:
            if handle.id in inputs._forward_hooks:
                handle.remove()


def _input_embeddings(model: PreTrainedModel) -> nn.Module | None:
    """Return what turns a model's inputs into vectors, if it names it."""
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None
