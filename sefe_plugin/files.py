"""Files that are whole or absent: written under a temporary name, then renamed. Digests, and the names of some."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


#: What a task's folder holds: its adapter as PEFT names it, or its model as Transformers does.
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
MODEL_CONFIG_FILE = "config.json"
MODEL_WEIGHTS_FILES = ("model.safetensors", "model.safetensors.index.json")


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary path beside `file`, which takes its place when the block ends without an error.

    Args:
        file: The file to write; its folder is made if it does not exist.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(file: Path) -> Any:
    """Read a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file, indented.

    Raises:
        ValueError: If a number is not finite.
    """
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def shipped_folder(name: str) -> Path:
    """Return the folder "recipes", "data_templates" or "docs": in an installed package, or in the source tree."""
    package = Path(__file__).parent
    if (package / name).is_dir():
        return package / name
    # a strict editable install links every file of the package to the source tree
    return Path(__file__).resolve().parents[1] / name
