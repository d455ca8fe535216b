"""The pictures, videos and sounds of a record, before the host opens them."""

import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image


#: The host's columns of files.
COLUMNS = ("_images", "_videos", "_audios")


def media_files(row: dict[str, Any]) -> list[str]:
    """Return the paths of the files of a record as the host aligned it."""
    return [path for column in COLUMNS for path in _paths(row.get(column))]


def media_fault(row: dict[str, Any], folder: Path, outside: bool) -> str | None:
    """Tell which file of a record may not be opened; None where all may.

    Args:
        row: The record as the host aligned it.
        folder: The media folder, resolved.
        outside: Whether files may lie anywhere.
    """
    for name in media_files(row):
        path = Path(name)
        if fault := missing_fault(name, folder):
            return fault
        if not outside and not (resolved := path.resolve()).is_relative_to(folder):
            place = "" if str(resolved) == name else f", which is {resolved}"
            return (
                f"the file {name!r}{place} lies outside of the media folder {folder}. Set `media_dir` to a folder "
                "that holds all files, or `media_outside: true` if you trust this data to name files anywhere"
            )
    for picture in row.get("_images") or ():
        if fault := picture_fault(picture):
            return fault
    return None


def missing_fault(name: str, folder: str | Path) -> str | None:
    """Tell that a file of a record is not there; None where it is.

    Args:
        name: The file, as the host aligned it.
        folder: The media folder.
    """
    if _is_file(Path(name)):
        return None
    return f"the file {name!r} does not exist in {folder}. Set `media_dir` to the folder that its paths start from"


def picture_fault(picture: Any) -> str | None:
    """Tell whether a picture is larger than the limit of PIL, by its header alone; None where it is not.

    A small file can hold a picture that takes all memory when it is opened ("decompression bomb").
    """
    content = picture.get("bytes") if isinstance(picture, dict) else None
    source = BytesIO(content) if content is not None else picture.get("path") if isinstance(picture, dict) else picture
    if not isinstance(source, str | BytesIO):
        return None  # the host says what it thinks of it
    name = repr(source) if isinstance(source, str) else "in the record"
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            Image.open(source).close()
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            return (
                f"the picture {name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels, the limit of PIL. Make it "
                "smaller, or take the record out"
            )
        except Exception as error:
            return f"the picture {name} cannot be opened: {error}. Mend the file, or take the record out"
    return None


def _paths(media: Any) -> Iterator[str]:
    if isinstance(media, str):
        yield media
    elif isinstance(media, dict) and media.get("bytes") is None:
        yield from _paths(media.get("path"))
    elif isinstance(media, list | tuple):
        for part in media:
            yield from _paths(part)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a zero
        return False
