"""Names of saved weights: those that the model's own modules have, which every version of transformers reads.

Example: a LLaVA. Its published files say `language_model.model.layers...`, its modules in transformers 5 are called
`model.language_model.layers...`, and transformers 5.5 saves `model.language_model.model.layers...`. It reads that
again; transformers 4.57 and 5.8 do not, and give a random language model with no more than a warning. Nor does the
host's Trainer, when it goes on from a checkpoint of full fine-tuning.
"""

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key


def keep_own_names(model: nn.Module) -> None:
    """Let every saved copy of a model have its own names, unless loading would change them or the tensors.

    Args:
        model: As the host has loaded it, with an adapter or without one.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            if reads_own_names(module):
                module._weight_conversions = []
            return


def reads_own_names(model: PreTrainedModel) -> bool:
    """Tell whether transformers, when it loads a file with the model's own names, takes each for what it is."""
    changes = get_model_conversion_mapping(model, add_legacy=False)
    if not all(isinstance(change, WeightRenaming) for change in changes):
        return False
    return all(rename_source_key(name, changes, [])[0] == name for name, _ in model.named_parameters())
