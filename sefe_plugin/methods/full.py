"""Full fine-tuning, task after task (FFT in SEFE's tables)."""

from collections.abc import Mapping
from typing import Any

from sefe_plugin.methods.base import Method
from sefe_plugin.zero import zero_section


class Full(Method):
    """Train all weights that the host does not freeze, with no cure for forgetting."""

    parametrisation = "full"
    carries = ("replace", "none")

    @classmethod
    def errors(cls, arguments: Mapping[str, Any]) -> list[str]:
        """List which other keys full fine-tuning cannot work with."""
        errors, method = [], f"`cl_method: {arguments.get('cl_method', 'full')}`"
        if arguments.get("quantization_bit"):
            errors.append(
                f"`quantization_bit` cannot be combined with {method}: quantized weights cannot be trained. Drop one."
            )
        zero = zero_section(arguments)
        gathers = zero.get("stage3_gather_16bit_weights_on_model_save")
        if zero.get("stage") == 3 and not gathers:
            errors.append(
                f"`deepspeed`: with {method} ZeRO-3 must save the whole model, which the next task starts from. Set "
                '"stage3_gather_16bit_weights_on_model_save": true in its section "zero_optimization".'
            )
        return errors
