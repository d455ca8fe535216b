"""Plain LoRA, task after task: the baseline of every paper."""

from sefe_plugin.methods.base import Method


class Lora(Method):
    """Train LoRA with no cure for forgetting.

    SEFE's code merges each task's adapter and starts a fresh one (`carry: merge`); CoIN, MCITlib and most papers go on
    with the same adapter (`carry: continue`).
    """

    carries = ("merge", "stack", "continue", "none")
