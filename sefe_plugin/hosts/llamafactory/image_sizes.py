"""How many tokens images take, found from their sizes."""

import copy
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

from llamafactory.data.mm_plugin import BasePlugin
from PIL import Image


#: Sizes that are kept at a time. What the processor makes of an image takes some megabytes.
_MOST = 32


def by_size(plugin: BasePlugin) -> BasePlugin:
    """Return a plugin that puts image tokens into texts without reading images of a size that it has seen.

    The host's plugins run a model's whole processor on an image to learn how many tokens stand for it, and once more
    when a batch is made. Every processor cuts and scales images by their sizes alone, so the first image of a size
    tells the number for all others. Use it for the tokens of a text, and never for what a model is to see: what it
    returns of an image may belong to another one.

    Args:
        plugin: The host's, of a template; left as it is.
    """
    sized = copy.copy(plugin)
    sized._get_mm_inputs = _Known(plugin._get_mm_inputs)
    return sized


class _Known:
    """What a plugin makes of images, by their sizes.

    Args:
        read: The plugin's own method.
    """

    def __init__(self, read: Callable[..., dict[str, Any]]):
        self._read = read
        self._known: dict[tuple, dict[str, Any]] = {}

    def __call__(
        self, images: Sequence, videos: Sequence, audios: Sequence, processor: Any, *more: Any, **named: Any
    ) -> dict[str, Any]:
        sizes = None if videos or audios or more or named else _sizes(images)
        if sizes is None:
            return self._read(images, videos, audios, processor, *more, **named)
        if sizes not in self._known:
            found = self._read(images, videos, audios, processor)
            if len(self._known) == _MOST:
                del self._known[next(iter(self._known))]
            self._known[sizes] = found
        return copy.copy(self._known[sizes])  # the host takes entries out of it


def _sizes(images: Sequence) -> tuple | None:
    """Return size and mode of images by their headers; None where one has none, of which the host says more."""
    try:
        return tuple(map(_size, images))
    except Exception:  # decoders of pictures raise errors of many kinds
        return None


def _size(image: Any) -> tuple[tuple[int, int], str]:
    if isinstance(image, Image.Image):
        return image.size, image.mode
    if isinstance(image, dict):
        image = image["path"] if image["bytes"] is None else image["bytes"]
    with Image.open(BytesIO(image) if isinstance(image, bytes) else image) as picture:
        return picture.size, picture.mode
