"""Files that are whole or absent: written under a temporary name, then renamed. And the names of some."""

import json
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
        file: the file to write; its folder is made if it does not exist.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        yield temporary
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


def read_json_lines(file: Path) -> list[Any]:
    """Read a file of JSON lines; empty lines are passed over, and only line feeds end a line."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file, indented.

    Raises:
        ValueError: if a number is not finite.
    """
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def shipped_folder(name: str) -> Path:
    """Return the folder "recipes", "data_templates" or "docs": inside an installed package, beside it in a source tree."""
    package = Path(__file__).parent
    if (package / name).is_dir():
        return package / name
    # a strict editable install links every file of the package to the source tree
    return Path(__file__).resolve().parents[1] / name
