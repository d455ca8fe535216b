"""Archives and parquet shards of a download, unpacked beside the datasets: the download itself is never written to.

An archive is whole or counts for nothing: a small file is written when all of it is on the disk. A second run passes
over those that are whole and still there, and unpacks the others again.
"""

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sefe_plugin.files import read_json, replacing, write_json
from sefe_plugin.json_lines import json_line


#: What an archive's name ends in.
ARCHIVES = (".tar", ".tar.gz", ".tgz")
PARQUET = ".parquet"

#: Folder of the datasets that takes what is unpacked, and within it the folder of what is whole.
UNPACKED, _WHOLE = "unpacked", ".whole"

_BATCH = 64
#: What the name of a picture begins with that has none in its shard.
_UNNAMED = "unnamed-"
#: The fields that take the place of a shard's image column.
_IMAGE_COLUMNS = ("images", "image")


def stem_of(archive: Path) -> str:
    """Return an archive's name without its ending: "RS" of RS.tar.gz."""
    return archive.name.removesuffix(_ending(archive))


def is_packed(file: Path) -> bool:
    """Tell whether a file is an archive or a parquet shard."""
    return file.name.endswith((*ARCHIVES, PARQUET)) and file.is_file()


def unpack(file: Path, target: Path, root: Path, say: Callable[[str], None]) -> None:
    """Unpack an archive or a shard, unless that has been done.

    Args:
        file: The archive or shard.
        target: The folder that it becomes, or of a shard the task's folder.
        root: The folder of everything that is unpacked, `UNPACKED` of the datasets.
        say: Given one line when it is done.

    Raises:
        ValueError: If it is broken, or would write outside of its folder.
    """
    state = _state(file)
    name = hashlib.sha256(f"{file.absolute()}\n{target.relative_to(root)}".encode()).hexdigest()[:24]
    whole = root / _WHOLE / f"{name}.json"
    written = shard_records(file, target) if file.suffix == PARQUET else target
    if written.exists() and whole.is_file() and read_json(whole) == state:
        return
    whole.unlink(missing_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    try:
        count = _unpack_shard(file, target) if file.suffix == PARQUET else _unpack_archive(file, target)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk is at fault
        raise ValueError(f"{file} cannot be unpacked: {error}. Download it again.") from error
    os.sync()  # the files outlive a loss of power if the file that calls them whole does
    write_json(whole, state)
    say(f"unpacked {file.name}: {count} files")


def _state(file: Path) -> dict[str, Any]:
    status = file.stat()
    return {"file": str(file.absolute()), "size": status.st_size, "time": status.st_mtime_ns}


def _ending(file: Path) -> str:
    return next((ending for ending in (*ARCHIVES, PARQUET) if file.name.endswith(ending)), "")


class _Member(tarfile.TarInfo):
    """A member of an archive that is read to its true end: `tarfile` itself takes the first fault for the end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        """Read the next header.

        Raises:
            tarfile.ReadError: If it is cut or damaged, or the end is not two blocks of zeros and nothing but zeros
                after them.
        """
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # one block of zeros
            if len(rest := tarfile_.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("it ends too early") from None
            while rest:
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("there is something behind its end") from None
                rest = tarfile_.fileobj.read(tarfile.RECORDSIZE)
            raise
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError):
            raise tarfile.ReadError("it ends too early") from None
        except tarfile.InvalidHeaderError as error:
            raise tarfile.ReadError(f"a member's header is damaged ({error})") from error


def _unpack_archive(file: Path, target: Path) -> int:
    """Write an archive's files; of folders only names, of links and devices nothing."""
    count, own = 0, stem_of(file)
    with tarfile.open(file, "r|*", tarinfo=_Member) as archive:
        for member in archive:
            archive.members = []  # else it keeps them all
            if member.isfile():
                path = _below(member.name, own)
                content = archive.extractfile(member)
                _write(target / path, lambda out, content=content: shutil.copyfileobj(content, out))
                count += 1
    return count


def _below(name: str, own: str) -> PurePosixPath:
    """Return a member's path in the folder of its archive: what it has up to the archive's own name is dropped.

    Example:
        >>> str(_below("Domain_data/RS/images/1.png", "RS")), str(_below("images/1.png", "RS"))
        ('images/1.png', 'images/1.png')
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"its member {name!r} would be written outside of the folder")
    folders = path.parts[:-1]
    return PurePosixPath(*path.parts[folders.index(own) + 1 :]) if own in folders else path


def _unpack_shard(file: Path, target: Path) -> int:
    """Write the pictures of a parquet shard to `target`/images, and its records to a file of JSON lines beside it."""
    import pyarrow
    import pyarrow.parquet

    count = 0

    def records(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        nonlocal count
        for count, row in enumerate(rows, start=1):
            yield _record(row, count, file, target)

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(str(error)) from error
    rows = (row for batch in table.iter_batches(batch_size=_BATCH) for row in batch.to_pylist())
    with table, replacing(shard_records(file, target)) as temporary, temporary.open("wb") as lines:
        lines.writelines(map(json_line, records(rows)))
    return count


def shard_records(shard: Path, target: Path) -> Path:
    """Return the file of JSON lines that a shard's records go to."""
    return target / f"{shard.stem}.jsonl"


def _record(row: Mapping[str, Any], number: int, file: Path, target: Path) -> dict[str, Any]:
    """Return a record with the path of its picture in the place of the picture."""
    record = {key: value for key, value in row.items() if key not in _IMAGE_COLUMNS}
    pictures = next((row[column] for column in _IMAGE_COLUMNS if row.get(column) is not None), None)
    pictures = pictures if isinstance(pictures, list) else [] if pictures is None else [pictures]
    if len(pictures) > 1:
        raise ValueError(f"record {number} has {len(pictures)} images, where one is published")
    if pictures and not isinstance(pictures[0], dict):
        raise ValueError(f"record {number} needs an image with `bytes` and `path`, got {pictures[0]!r:.100}")
    if pictures and pictures[0].get("bytes") is not None:
        record["image"] = _keep_picture(pictures[0], f"{file.stem}_{number}", target)
    elif pictures:
        record["image"] = pictures[0].get("path")
    return record


def _keep_picture(picture: Mapping[str, Any], record: str, target: Path) -> str:
    """Write a picture under its own name, which may choose the rule that scores it; return its path from `target`.

    One of the same name that is there, and is another picture, is kept: then this one gets a folder called `record`.
    """
    content = picture["bytes"]
    path = PurePosixPath(picture.get("path") or _name(content))
    if path.is_absolute() or ".." in path.parts:
        path = PurePosixPath(path.name)
    path = path if path.parts[0] == "images" else PurePosixPath("images", path)
    place = target / path
    if place.is_file() and place.read_bytes() != content:
        path = PurePosixPath("images", record, *path.parts[1:])
        place = target / path
    _write(place, lambda out: out.write(content))
    return str(path)


def _name(content: bytes) -> str:
    return f"{_UNNAMED}{hashlib.sha256(content).hexdigest()[:24]}{_suffix(content)}"


def is_unnamed(image: str) -> bool:
    """Tell whether an image has got its name here, because its shard gives it none."""
    return PurePosixPath(image).name.startswith(_UNNAMED)


def _suffix(content: bytes) -> str:
    from PIL import Image

    try:
        return f".{(Image.open(io.BytesIO(content)).format or '').lower()}"
    except OSError:
        return ""  # the check of images says what is wrong with it


def _write(file: Path, write: Callable[[Any], Any]) -> None:
    """Write one of many files: whole under its name, but not yet brought to the disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("wb") as out:
        write(out)
    temporary.replace(file)
