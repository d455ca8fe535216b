"""The pool of prompts as a tuner type of PEFT; importing this registers it."""

import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from sefe_plugin.methods import peft_types
from sefe_plugin.methods.fwd_prompt.options import PoolOptions
from sefe_plugin.methods.fwd_prompt.pool import PromptPool
from sefe_plugin.options import option_errors


FWD_PROMPT = peft_types.add_type("FWD_PROMPT")

#: Names under which configurations of models have the ids of tokens that stand for images and videos.
_IMAGE_TOKENS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")

_NO_MERGE = (
    "A pool of prompts cannot be merged: it changes no weight, it adds to the input. Load it beside its base with "
    "`PeftModel.from_pretrained`."
)


@dataclass
class FwdPromptConfig(PoolOptions, PeftConfig):
    """Configure a pool of prompts (Fwd-Prompt, arXiv 2401.09181).

    Its options are those of `PeftConfig`, and ``fwd_prompt_pool``, ``fwd_prompt_length`` and ``fwd_prompt_top``: the
    numbers of prompts M, of vectors n_p of each, and n of prompts that an input is given.

    Raises:
        ValueError: If an option is outside its range.

    Example:
        >>> config = FwdPromptConfig(fwd_prompt_pool=20, fwd_prompt_top=4)
        >>> config.peft_type.value, config.fwd_prompt_pool, config.fwd_prompt_length
        ('FWD_PROMPT', 20, 5)
    """

    target_modules: str | None = field(default=None, metadata={"help": "The language model; found where it is None."})

    def __post_init__(self):
        """Check every option; mark the configuration as Fwd-Prompt's."""
        super().__post_init__()
        self.peft_type = FWD_PROMPT
        if errors := option_errors(PoolOptions, vars(self)):
            raise ValueError(" ".join(errors.values()))
        if self.fwd_prompt_top > self.fwd_prompt_pool:
            raise ValueError(
                f"`fwd_prompt_top` must be at most `fwd_prompt_pool`, {self.fwd_prompt_pool}; got "
                f"{self.fwd_prompt_top}."
            )


class FwdPromptModel(BaseTuner):
    """Give a frozen model a pool of prompts; made by `peft.get_peft_model` from a `FwdPromptConfig`."""

    prefix = "fwd_prompt_"
    tuner_layer_cls = PromptPool
    target_module_mapping: ClassVar[dict[str, Any]] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model by its hooks, through which the pool sees ids and labels."""
        return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as the model does; the prompts are chosen once, by the question."""
        with self.pool.one_choice():
            return self.model.generate(*args, **kwargs)

    @property
    def pool(self) -> PromptPool:
        """The pool."""
        return next(module for module in self.model.modules() if isinstance(module, PromptPool))

    def _prepare_adapter_config(self, peft_config: FwdPromptConfig, model_config: dict) -> FwdPromptConfig:
        """Find the language model: the module that holds the input embedding itself."""
        if peft_config.target_modules is None:
            embedding = self.model.get_input_embeddings()
            name = next(name for name, module in self.model.named_modules() if module is embedding)
            peft_config.target_modules = re.escape(name.rpartition(".")[0])
        return peft_config

    def _create_and_replace(
        self, peft_config: FwdPromptConfig, adapter_name, target: nn.Module, target_name, parent, current_key, **kwargs
    ) -> None:
        """Put the pool into the language model, and a new adapter into the pool."""
        embedding = target.get_input_embeddings()
        if not hasattr(target, "prompt_pool"):
            config = self.model.config
            ids = {getattr(config, name, None) for name in _IMAGE_TOKENS} - {None}
            PromptPool(embedding.embedding_dim, tuple(sorted(ids))).attach(self.model, target)
        options = peft_config.fwd_prompt_pool, peft_config.fwd_prompt_length, peft_config.fwd_prompt_top
        target.prompt_pool.add(adapter_name, *options, embedding.weight)
        target.prompt_pool.set_adapter(self.active_adapters)

    def _check_merge_allowed(self) -> None:
        raise ValueError(_NO_MERGE)

    def _unload_and_optionally_merge(self, merge: bool = True, **kwargs: Any) -> nn.Module:
        """Return the model without the pool.

        Raises:
            ValueError: If it is to be merged.
        """
        if merge:
            self._check_merge_allowed()
        holder = next(module for module in self.model.modules() if hasattr(module, "prompt_pool"))
        holder.prompt_pool.detach(holder)
        return self.model


#: Add the type to PEFT, once.
register = partial(peft_types.register, FWD_PROMPT.value, FwdPromptConfig, FwdPromptModel)

register()
