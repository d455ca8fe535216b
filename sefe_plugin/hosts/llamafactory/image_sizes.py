"""How many tokens images take, found from their sizes."""

import copy
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import torch
from llamafactory.data.mm_plugin import BasePlugin
from llamafactory.data.template import Template
from PIL import Image


#: Sizes that are kept at a time, and where a picture says how it is to be turned.
_MOST, _ORIENTATION = 4096, 0x0112


def by_size(template: Template, decode: bool = False) -> Template:
    """Return a template that puts image tokens into texts without processing images of a size that it has seen.

    The host's plugins run a model's whole processor on an image to learn how many tokens stand for it, and once more
    when a batch is made. The processors cut and scale images by their sizes alone, so the first image of a size tells
    the number for all others. Use it for the tokens of a text, and never for what a model is to see: of the pixels
    only the shape is there.

    Args:
        template: The host's; left as it is.
        decode: Whether every image is decoded nevertheless, so that one that is damaged is found at once.
    """
    sized = copy.copy(template)
    sized.mm_plugin = copy.copy(template.mm_plugin)
    sized.mm_plugin._get_mm_inputs = _Known(template.mm_plugin, decode)
    return sized


class _Known:
    """What a plugin makes of images, by their sizes.

    Args:
        plugin: The host's.
        decode: As in `by_size`.
    """

    def __init__(self, plugin: BasePlugin, decode: bool):
        self._plugin, self._decode = plugin, decode
        self._known: dict[tuple, dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is known: `datasets` names its caches by what this is, and sends it to other processes."""
        return vars(self) | {"_known": {}}

    def __call__(
        self, images: Sequence, videos: Sequence, audios: Sequence, processor: Any, *more: Any, **named: Any
    ) -> dict[str, Any]:
        sizes = None if videos or audios or more or named else _sizes(images, self._decode)
        if sizes is None:
            return self._plugin._get_mm_inputs(images, videos, audios, processor, *more, **named)
        if sizes not in self._known:
            found = self._plugin._get_mm_inputs(images, videos, audios, processor)
            if len(self._known) == _MOST:
                del self._known[next(iter(self._known))]
            self._known[sizes] = {name: _shape_alone(value) for name, value in found.items()}
        return copy.copy(self._known[sizes])  # the host takes entries out of it


def _shape_alone(value: Any) -> Any:
    """Return zeros that take no memory in the place of pixels, and what counts or places them as it is."""
    if isinstance(value, list):
        return [_shape_alone(one) for one in value]
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.new_zeros(()).expand(value.shape)
    return value


def _sizes(images: Sequence, decode: bool) -> tuple | None:
    """Return what tells the shapes of images; None where one cannot be read, of which the host says more."""
    try:
        return tuple(_size(image, decode) for image in images)
    except Exception:  # decoders of pictures raise errors of many kinds
        return None


def _size(image: Any, decode: bool) -> tuple[tuple[int, int], str, int | None]:
    if isinstance(image, Image.Image):
        return image.size, image.mode, None
    if isinstance(image, dict):
        image = image["path"] if image["bytes"] is None else image["bytes"]
    with Image.open(BytesIO(image) if isinstance(image, bytes) else image) as picture:
        if decode:
            picture.load()
        return picture.size, picture.mode, picture.getexif().get(_ORIENTATION)
