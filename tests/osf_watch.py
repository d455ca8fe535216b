"""What a training with OSF keeps, and how far gradients and weights reach into it."""

import torch
from transformers import TrainerCallback


def parts(model):
    """(kept U, kept V, trained U, trained V) of every decomposed matrix."""
    for layer in model.modules():
        if hasattr(layer, "osf_svd_params"):
            trained = layer.osf_svd_params["default"]
            yield layer._osf_U_high["default"], layer._osf_V_high["default"], trained["U_low"], trained["V_low"]


def overlap(kept, value):
    """How much of the columns of a matrix lies in the span of others, in float64, as a share of it."""
    basis = torch.linalg.qr(kept.double())[0]
    return float((basis.T @ value.double()).norm() / value.double().norm())


class Watch(TrainerCallback):
    """Remembers the largest overlaps with what is kept: of gradients before each step, of weights after it."""

    def __init__(self):
        self.gradients = self.weights = 0.0
        self.steps = 0

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        for kept_U, kept_V, U, V in parts(model):
            self.gradients = max(self.gradients, overlap(kept_U, U.grad), overlap(kept_V.T, V.grad.T))

    def on_step_end(self, args, state, control, model, **kwargs):
        self.steps += 1
        for kept_U, kept_V, U, V in parts(model):
            self.weights = max(self.weights, overlap(kept_U, U.detach()), overlap(kept_V.T, V.detach().T))
