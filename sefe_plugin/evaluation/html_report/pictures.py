"""The pictures of a page: small copies as data URIs, each once however many rows show it."""

import base64
import io
from pathlib import Path

from sefe_plugin.asd.pictures import PictureError, small_picture


#: Longest side of a picture on the page, in pixels.
_SIDE = 128
_QUALITY = 70


class Pictures:
    """Small copies of picture files.

    Attributes:
        uris: The copies made so far, as data URIs.
    """

    def __init__(self):
        self.uris: list[str] = []
        self._known: dict[Path, int | str] = {}

    def add(self, name: str, folder: Path) -> int | str:
        """Return the place of a picture in `uris`; of one that cannot be shown, why.

        Args:
            name: Its path as a record has it; as for the host, one that is not in the folder is taken as it is.
            folder: The folder that it starts from.
        """
        file = folder / name
        if file not in self._known:
            try:
                self._known[file] = self._place(file if file.is_file() else Path(name))
            except (PictureError, OSError, ValueError) as error:
                self._known[file] = f"{name} cannot be shown: {error}"
        return self._known[file]

    def _place(self, file: Path) -> int:
        content = io.BytesIO()
        small_picture(file, _SIDE).save(content, "WEBP", quality=_QUALITY)
        self.uris.append(f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}")
        return len(self.uris) - 1
