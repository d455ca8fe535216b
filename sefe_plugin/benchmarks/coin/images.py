"""Check that images exist and decode."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image


class ImageCheck:
    """Check images below a folder, each once, several at a time."""

    def __init__(self, folder: Path):
        """Create a check of the images below `folder`."""
        self._folder = str(folder)
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._faults: dict[str, str | None] = {}

    def __call__(self, paths: Iterable[str]) -> dict[str, str]:
        """Check images.

        Args:
            paths: Relative to the folder, or absolute.

        Returns:
            Path -> "missing" or "broken: why", for those at fault.
        """
        paths = dict.fromkeys(paths)
        new = [path for path in paths if path not in self._faults]
        self._faults |= zip(new, self._pool.map(self._fault, new), strict=True)
        return {path: fault for path in paths if (fault := self._faults[path]) is not None}

    def _fault(self, path: str) -> str | None:
        file = os.path.join(self._folder, path)  # noqa: PTH118 - ten times as fast as a Path, for half a million images
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
