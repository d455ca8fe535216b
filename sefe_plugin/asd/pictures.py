"""Pictures of samples: their size, and a small copy; a broken or huge one is told as such."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image


#: Most pixels that are decoded: 89 million, Pillow's own limit for what may be meant to fill the memory.
_MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485


class PictureError(ValueError):
    """A picture that cannot be shown."""


def picture_size(file: Path) -> tuple[int, int]:
    """Return width and height of a picture.

    Raises:
        PictureError: Where the file is no picture.
    """
    with _opened(file) as image:
        return image.size


def small_picture(file: Path, side: int) -> Image.Image:
    """Decode a picture, and return a copy in colour whose sides are at most `side` pixels long.

    Raises:
        PictureError: Where the file is no whole picture, or has more than 89 million pixels.
    """
    with _opened(file) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise PictureError(f"{file} has {image.width} x {image.height} pixels, too many to be shown")
        # a JPEG is decoded at a fraction of its size
        image.draft("RGB", (2 * side, 2 * side))
        small = image.convert("RGB")
    small.thumbnail((side, side))
    return small


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    if not os.path.isfile(file):  # noqa: PTH113 - `Path.is_file` fails where a path is too long
        raise PictureError(f"{file} does not exist, or is no file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                yield image
    except PictureError:
        raise
    except Exception as error:  # decoders fail on a broken file with errors of any kind
        raise PictureError(f"{file} cannot be read as a picture: {error}") from error
