"""`SefeCallback`: RegLoRA in any Trainer of transformers or TRL."""

from collections.abc import Sequence
from pathlib import Path

from sefe_plugin.methods.callback import MethodCallback
from sefe_plugin.methods.reglora.method import RegLora


class SefeCallback(MethodCallback):
    """Train a task with RegLoRA: penalise the key elements of earlier tasks, then find and save this task's.

    The gradient of lambda * R has the weight lambda whatever the way of training (`MethodCallback`); the official code
    adds the penalty to the loss inside the model, which is the same as long as gradients are not accumulated.
    lambda * R is logged beside the loss as ``reglora_penalty``.

    Args:
        key_elements: Files of key elements of the earlier tasks, the oldest first. If empty, those already loaded
            into the model stay.
        save_to: Where to save the key elements of this task; ``key_elements.safetensors`` in the output folder if
            None. The weights are those at the end of training, before any merge.
        offload: Where the key elements of earlier tasks stay: ``none``, on the device of their matrix; ``cpu``, in
            host memory, from where those of one matrix at a time are brought to its device.

    Example::

        model = get_peft_model(base, RegLoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
        callback = SefeCallback(["task1/key_elements.safetensors"])
        Trainer(model, args, train_dataset=task2, callbacks=[callback]).train()
    """

    def __init__(
        self, key_elements: Sequence[str | Path] = (), save_to: str | Path | None = None, offload: str = "none"
    ):
        if isinstance(key_elements, str | Path):
            raise ValueError(f"`key_elements` must be a list of files, one per earlier task; got {key_elements!r}")
        super().__init__(RegLora({"reglora_offload": offload}), key_elements, save_to)
