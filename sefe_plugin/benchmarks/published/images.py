"""Images: where their published paths lead, and whether they are there and decode."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePosixPath

from PIL import Image


class ImageFinder:
    """Find the images that a task's records name.

    Example: a record names ``Flickr30k/val/1.jpg``. The download has ``Flickr30k-cap/val``, another name of the same
    folder, so the image is there. Where a task's images lie in several places, each is looked for in all of them.

    Args:
        roots: Folders where the paths may start.
        own: Folders of the task that are there; paths may start in them, or name them by another name.
        is_own: Tells whether a name is one of the task's folder.
        otherwise: Folder where an image that is nowhere was to be.
    """

    def __init__(self, roots: Sequence[Path], own: Sequence[Path], is_own: Callable[[str], bool], otherwise: Path):
        self._roots, self._own, self._is_own, self._otherwise = roots, own, is_own, otherwise
        self._folders = lru_cache(maxsize=4096)(self._found_folders)

    def __call__(self, path: str) -> str:
        """Return where an image is, or where it was to be."""
        parent, _, name = path.rpartition("/")
        folders = self._folders(parent)
        if len(folders) > 1:
            folders = [folder for folder in folders if (folder / name).is_file()] or folders
        return str(folders[0] / name) if folders else str(self._otherwise / PurePosixPath(path))

    def has_folder(self, path: str) -> bool:
        """Tell whether the folder of an image is there."""
        return bool(self._folders(path.rpartition("/")[0]))

    def _found_folders(self, parent: str) -> list[Path]:
        pure = PurePosixPath(parent)
        places = [root / pure for root in self._roots]
        if pure.parts and self._is_own(pure.parts[0]):
            places += [folder.joinpath(*pure.parts[1:]) for folder in self._own]
        places += [folder / pure for folder in self._own]
        return [place for place in dict.fromkeys(places) if place.is_dir()]


class ImageCheck:
    """Check images, each once, several at a time.

    Of those that are whole it remembers a number each, so that a quarter of a million take little memory.
    """

    def __init__(self):
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._whole: set[int] = set()
        self._faults: dict[str, str] = {}

    def __enter__(self) -> "ImageCheck":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()

    def __call__(self, files: Iterable[str]) -> dict[str, str]:
        """Check images.

        Args:
            files: Their paths.

        Returns:
            Path -> "missing" or "broken: why", for those at fault.
        """
        files = dict.fromkeys(files)
        new = [file for file in files if file not in self._faults and hash(file) not in self._whole]
        for file, fault in zip(new, self._pool.map(image_fault, new), strict=True):
            if fault is None:
                self._whole.add(hash(file))
            else:
                self._faults[file] = fault
        return {file: self._faults[file] for file in files if file in self._faults}


def image_fault(file: str) -> str | None:
    """Say what is wrong with an image: "missing", "broken: why", or None."""
    try:
        with Image.open(file) as image:
            # a JPEG decodes all of its data to an eighth of its size, which finds a file that was cut off
            image.draft("RGB", (1, 1))
            image.load()
    except FileNotFoundError:
        return "missing"
    except Exception as error:  # decoders raise errors of many kinds
        return f"broken: {error}"
    return None
