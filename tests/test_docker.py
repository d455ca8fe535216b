"""The Dockerfile, as far as it can be checked without Docker."""

import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile: name and the rest, with continued lines put together."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines()]


def rest_of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_it_copies_what_is_there_and_what_is_let_in():
    *others, (first, *_) = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] != "#"][::-1]
    assert first == "*"
    let_in = {line[1:] for line in others if line.startswith("!")}
    copied = {name for rest in rest_of("COPY") for name in shlex.split(rest)[:-1]}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


def test_it_copies_what_the_build_needs(tmp_path):
    """A wheel is made from what is copied, and from nothing else."""
    for name in (name for rest in rest_of("COPY") for name in shlex.split(rest)[:-1]):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    command = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path / "out", tmp_path]
    result = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "out").glob("sefe_plugin-*.whl"))


def test_it_installs_extras_that_there_are():
    (install,) = [rest for rest in rest_of("RUN") if "pip install" in rest]
    extras = install.partition("[")[2].partition("]")[0].split(",")
    settings = ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg")
    assert extras == ["qlora", "deepspeed"]
    assert {*extras} <= {*settings["options.extras_require"]}


def test_its_base_has_a_tag_and_its_user_is_not_root():
    (base,) = rest_of("FROM")
    assert base.partition(":")[2] not in ("", "latest")
    assert rest_of("USER") == ["1000:1000"]
    assert rest_of("ENTRYPOINT") == ['["llamafactory-cli"]']


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed")
def test_hadolint_finds_nothing():
    result = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
