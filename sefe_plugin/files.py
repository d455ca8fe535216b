"""Files that are whole or absent, even after a loss of power. Digests, and the names of some.

Each is written under a temporary name, brought to the disk, and then renamed.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
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
        _sync(temporary)
        temporary.replace(file)
        _sync(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_file(path: str | Path) -> bool:
    """Tell whether a file exists; there is none at a path that is too long for the system."""
    return os.path.isfile(path)  # noqa: PTH113 - `Path.is_file` fails at such a path


def is_folder(path: str | Path) -> bool:
    """Tell whether a folder exists; there is none at a path that is too long for the system."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def from_home(path: str) -> str:
    """Return a path with the home folder in the place of a `~` at its beginning; as it is where there is none."""
    return os.path.expanduser(path)  # noqa: PTH111 - `Path.expanduser` fails without a home


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield the path of a folder beside `folder`, which takes its place when the block ends without an error.

    The block makes the temporary folder. What a block that was killed has left of it is removed first; after an error
    nothing of it is left.

    Args:
        folder: The folder to write; one that is there is removed at the end.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_tree(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.replace(folder)
    _sync(folder.parent)


def removed_name(folder: Path) -> Path:
    """Return the path under which `remove_folder` removes a folder; there is something only after a kill."""
    return folder.with_name(f".{folder.name}.removed")


def remove_folder(folder: Path) -> None:
    """Remove a folder, whole or not at all: under its own name, nothing half-removed is ever found.

    A folder that is gone already is no error; what a removal that was killed has left of it is removed.
    """
    gone = removed_name(folder)
    if gone.exists():
        shutil.rmtree(gone)
    if folder.exists():
        folder.replace(gone)
        shutil.rmtree(gone)


def bytes_of(*paths: Path) -> int:
    """Return the bytes of files, and of all files in folders, at any depth; links count nothing.

    What is not there, or goes while it is looked for, counts nothing: a run may be at work.
    """
    inside = (Path(place, name) for path in paths for place, _, names in os.walk(path) for name in names)
    return sum(_bytes(file) for file in (*paths, *inside))


def _bytes(file: Path) -> int:
    try:
        state = file.lstat()
    except FileNotFoundError:
        return 0
    return state.st_size if stat.S_ISREG(state.st_mode) else 0


def sync_tree(folder: Path) -> None:
    """Bring a folder and everything in it to the disk."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir() or path.is_file():
            _sync(path)


def _sync(path: Path) -> None:
    """Bring a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some file systems have no such thing for a folder, whose names they keep otherwise
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_text(file: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not JSON in UTF-8, or nested hundreds of levels deep.
    """
    return parse_json(file.read_text(encoding="utf-8"))


def parse_json(text: str | bytes, as_object: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Read JSON.

    Args:
        text: The JSON.
        as_object: Makes of the names and values of an object what stands for it; a `dict` where it is left out.

    Raises:
        ValueError: If it is none, or nested hundreds of levels deep.
    """
    try:
        return json.loads(text, object_pairs_hook=as_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file, indented.

    Raises:
        ValueError: If a number is not finite.
    """
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def is_whole_safetensors(file: Path) -> bool:
    """Tell whether a file of safetensors is there with all its bytes; no tensor is read.

    Example: of a file that was cut short by a kill, the header names more bytes than there are.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            return True
    except (OSError, SafetensorError):
        return False


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


def shipped_file(name: str) -> Path:
    """Return a file that lies beside the shipped folders, such as "README.md"."""
    return shipped_folder("docs").parent / name
