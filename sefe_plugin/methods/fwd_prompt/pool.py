"""The pool of prompts: which of them each input is given, and how they join the input of the language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


#: What is told of an input of the language model: (embeddings, mask of those that count), (batch, length, d) and
#: (batch, length).
Watcher = Callable[[Tensor, Tensor], None]


class PromptPool(nn.Module, BaseTunerLayer):
    """Prompts with two keys each, in front of a language model whose module holds the pool as ``prompt_pool``.

    Example: M = 10 prompts of n_p = 5 vectors, n = 2. An input of 80 embeddings becomes one of 90: the 10 vectors of
    the two prompts whose keys are nearest to its queries, then its own. What the language model makes of the first 10
    is cut off again, so that nobody outside sees another length: logits, labels, cache and generation fit.

    - The queries are frozen: the mean embedding of the image's tokens, as the projector gives them, and that of the
      question's other tokens. In training the question ends where the first token that is learned begins.
    - A prompt's score is the mean of the cosines of both queries with its two keys; without an image that of the text.
    - The prompts stand at the positions 0 to n n_p - 1, and all others move up by as much, in every dimension of
      multimodal positions. So padding changes nothing, on whichever side it is.

    Args:
        width: d, entries of an embedding.
        image_tokens: Ids of the tokens that stand for images and videos.
    """

    adapter_layer_names = ("fwd_prompt_value", "fwd_prompt_image_key", "fwd_prompt_text_key")

    def __init__(self, width: int, image_tokens: tuple[int, ...]):
        super().__init__()
        self._width, self._image_tokens = width, image_tokens
        self.fwd_prompt_value = nn.ParameterDict()
        self.fwd_prompt_image_key = nn.ParameterDict()
        self.fwd_prompt_text_key = nn.ParameterDict()
        self._top: dict[str, int] = {}
        #: Weight of one sample's key loss in a backward pass; `FwdPrompt` sets it for each optimizer step.
        self.key_weight = 0.0
        self._ids: Tensor | None = None
        self._labels: Tensor | None = None
        self._positions_from_cache = False
        self._added = 0
        self._choice: list[Tensor | None] | None = None
        self._watcher: Watcher | None = None
        self._bare = False

    def attach(self, model: nn.Module, language_model: nn.Module) -> None:
        """Take part in the calls of a model and of the language model in it."""
        language_model.prompt_pool = self
        self._layers = language_model.named_modules
        self._hooks = [
            model.register_forward_pre_hook(self._note, with_kwargs=True),
            language_model.register_forward_pre_hook(self._join, with_kwargs=True),
            language_model.register_forward_hook(self._cut),
        ]

    def detach(self, language_model: nn.Module) -> None:
        """Undo `attach`."""
        for hook in self._hooks:
            hook.remove()
        del language_model.prompt_pool

    def add(self, name: str, count: int, length: int, top: int, like: Tensor) -> None:
        """Add an adapter, with prompts as large as embeddings usually are, and keys in random directions.

        Args:
            name: Of the adapter.
            count: M.
            length: n_p.
            top: n.
            like: The embedding's weight, (tokens, d).
        """
        self._top[name] = top
        scale = like.detach().float().std().item() if like.device.type != "meta" else 1.0
        for drawn, shape, std in (
            (self.fwd_prompt_value, (count, length, self._width), scale),
            (self.fwd_prompt_image_key, (count, self._width), 1.0),
            (self.fwd_prompt_text_key, (count, self._width), 1.0),
        ):
            drawn[name] = nn.Parameter(torch.empty(shape, device=like.device).normal_(std=std))

    def checkpoint_layers(self) -> None:
        """Let gradient checkpointing, where it is on, act on the language model's layers although they are frozen.

        LLaMA-Factory leaves out layers that hold nothing trained, which keeps all their activations. The gradient by
        the prompts passes through every layer.
        """
        for _, module in self._layers():
            if getattr(module, "gradient_checkpointing", False) and hasattr(module, "_gradient_checkpointing_func"):
                module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    @property
    def values(self) -> nn.Parameter:
        """The prompts of the active adapter, (M, n_p, d)."""
        return self.fwd_prompt_value[self.active_adapters[0]]

    def forward(self, embeddings: Tensor, ids: Tensor | None, labels: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the prompts of each input.

        Args:
            embeddings: (batch, length, d), images merged in.
            ids: Token ids, (batch, length); None where nothing is known of images.
            labels: What is learned, (batch, length), -100 for the question; None in generation.
            mask: 1 for what is no padding, (batch, length); None where all counts.

        Returns:
            (batch, n n_p, d), in the precision of the prompts.

        Raises:
            ValueError: If there are no labels in training.
        """
        name = self.active_adapters[0]
        values = self.fwd_prompt_value[name]
        chosen = self._choice[0] if self._choice else None
        if chosen is None:
            keys = self.fwd_prompt_image_key[name], self.fwd_prompt_text_key[name]
            learns = self.training and torch.is_grad_enabled() and keys[0].requires_grad
            if learns and labels is None:
                raise ValueError(
                    "Fwd-Prompt needs `labels` in training: they tell the question, by which prompts are chosen, from "
                    "the answer. Do not train with a loss that takes them away, such as `label_smoothing_factor`."
                )
            with torch.autocast(embeddings.device.type, enabled=False):  # the same choice in every precision
                queries = self._queries(embeddings.detach(), ids, labels, mask)
                scores = _scores(queries, *(key.detach() for key in keys))
                chosen = scores.topk(self._top[name], dim=1).indices
                gradients = self._key_gradients(queries, chosen, *keys) if learns else ()
            if self._choice is not None:
                self._choice[0] = chosen
            if learns:
                return _HandOver.apply(values[chosen].flatten(1, 2), *keys, *gradients)
        return values[chosen].flatten(1, 2)

    @contextmanager
    def one_choice(self) -> Iterator[None]:
        """Let all calls within the context use the prompts that the first one has chosen, as one generation needs."""
        outer, self._choice = self._choice, [None]
        try:
            yield
        finally:
            self._choice = outer

    @contextmanager
    def watched(self, watcher: Watcher, with_prompts: bool) -> Iterator[None]:
        """Tell `watcher` of every input of the language model within the context.

        Args:
            watcher: Who is told.
            with_prompts: Whether prompts are put before the inputs meanwhile.
        """
        self._watcher, self._bare = watcher, not with_prompts
        try:
            yield
        finally:
            self._watcher, self._bare = None, False

    def _queries(
        self, embeddings: Tensor, ids: Tensor | None, labels: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the image's and the text's query, each (batch, d), and whether there is an image, (batch, 1)."""
        counts = torch.ones(embeddings.shape[:2], device=embeddings.device) if mask is None else mask.float()
        if labels is not None:
            asked = (labels != -100).cumsum(1) == 0
            counts = counts * torch.where(asked.any(1, keepdim=True), asked, True)
        is_image = torch.zeros_like(counts)
        if ids is not None and self._image_tokens:
            is_image = torch.isin(ids, ids.new_tensor(self._image_tokens)).float() * counts
        rows = embeddings.float()
        image, text = (
            (rows * share.unsqueeze(-1)).sum(1) / share.sum(1, keepdim=True).clamp_min(1)
            for share in (is_image, counts - is_image)
        )
        return image, text, is_image.any(1, keepdim=True)

    def _key_gradients(
        self, queries: tuple[Tensor, Tensor, Tensor], chosen: Tensor, image_keys: Tensor, text_keys: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the gradients by the keys of ``key_weight * sum over samples and chosen prompts of 1 - score``."""
        keys = [key.detach().requires_grad_() for key in (image_keys, text_keys)]
        with torch.enable_grad():
            loss = self.key_weight * (1 - _scores(queries, *keys).gather(1, chosen)).sum()
            return torch.autograd.grad(loss, keys)

    def _note(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Keep what only the whole model is given."""
        self._ids = kwargs.get("input_ids", args[0] if args else None)
        self._labels = kwargs.get("labels")
        # the model then takes the positions of a further token from the cache, which holds the prompts
        self._positions_from_cache = kwargs.get("position_ids") is None and kwargs.get("attention_mask") is None

    def _join(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        """Put prompts before the input of the language model."""
        self._added = 0
        off = self._bare or self.disable_adapters or not self.active_adapters
        if off and self._watcher is None:
            return None
        if args:
            raise ValueError("Fwd-Prompt needs the inputs of the language model by name; got some by position.")
        kwargs, cache, mask = dict(kwargs), kwargs.get("past_key_values"), kwargs.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
            raise ValueError(
                "Fwd-Prompt needs an attention mask of shape (batch, length). Switch packing off (`packing`, "
                "`neat_packing`); models that make masks of other shapes themselves, such as Gemma 3, and static "
                "caches are not supported."
            )
        embeddings = kwargs.get("inputs_embeds")
        if embeddings is None:
            embeddings = module.get_input_embeddings()(kwargs["input_ids"])
        length = 0 if off else self._top[self.active_adapters[0]] * self.values.shape[1]
        positions = kwargs.get("position_ids")
        goes_on = cache is not None and cache.get_seq_length() > 0
        if positions is not None and not (goes_on and self._positions_from_cache):
            kwargs["position_ids"] = positions + length
        if mask is not None:
            kwargs["attention_mask"] = F.pad(mask, (length, 0), value=1)
        if goes_on:
            return args, kwargs  # the cache holds the prompts already
        if length:
            prompts = self(embeddings, self._ids, self._labels, mask)
            embeddings = torch.cat([prompts.to(embeddings.dtype), embeddings], dim=1)
            if positions is not None:
                front = torch.arange(length, device=positions.device).expand(*positions.shape[:-1], length)
                kwargs["position_ids"] = torch.cat([front, positions + length], dim=-1)
            if kwargs.get("visual_pos_masks") is not None:  # Qwen3-VL adds features of images in later layers
                kwargs["visual_pos_masks"] = F.pad(kwargs["visual_pos_masks"], (length, 0), value=False)
        if self._watcher is not None:
            counted = kwargs.get("attention_mask")
            if counted is None:
                counted = torch.ones(embeddings.shape[:2], device=embeddings.device)
            self._watcher(embeddings, counted)
        self._added = length
        return args, {**kwargs, "input_ids": None, "inputs_embeds": embeddings}

    def _cut(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """Take away what the language model has made of the prompts."""
        self._ids = self._labels = None
        if not self._added:
            return None
        output.last_hidden_state = output.last_hidden_state[:, self._added :]
        if getattr(output, "hidden_states", None) is not None:
            output.hidden_states = tuple(state[:, self._added :] for state in output.hidden_states)
        return output


def _scores(queries: tuple[Tensor, Tensor, Tensor], image_keys: Tensor, text_keys: Tensor) -> Tensor:
    """Return the score of every prompt for every sample, (batch, M)."""
    image, text, has_image = queries
    of_image, of_text = (
        F.normalize(query, dim=1) @ F.normalize(keys.float(), dim=1).T
        for query, keys in ((image, image_keys), (text, text_keys))
    )
    return torch.where(has_image, (of_image + of_text) / 2, of_text)


class _HandOver(torch.autograd.Function):
    """The identity, through which the backward pass hands gradients that are known already to two parameters.

    So the keys are part of the graph, as engines expect of what is trained, and the weight of their loss does not
    depend on how a Trainer scales its own.
    """

    @staticmethod
    def forward(ctx, prompts: Tensor, image_keys: Tensor, text_keys: Tensor, *gradients: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return prompts.view_as(prompts)

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return upstream, *ctx.saved_tensors, None, None
