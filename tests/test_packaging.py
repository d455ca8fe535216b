"""Wheel, sdist and editable installs: the hook works in a new environment and is gone after uninstall."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sefe_plugin.hosts.llamafactory.tested import TESTED


ROOT = Path(__file__).parents[1]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SEFE_"))}


def run(*command, **kwargs) -> str:
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=ENVIRONMENT, check=False, **kwargs
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the source tree, so that no build leaves traces in it."""
    copy = tmp_path_factory.mktemp("source") / "tree"
    anywhere = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")

    def ignored(folder, names):
        return anywhere(folder, names) | ({"runs", "data"} if Path(folder) == ROOT else set())

    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def built(source):
    """A wheel and an sdist."""
    run(sys.executable, "-m", "build", "--no-isolation", source)
    (wheel,) = (source / "dist").glob("*.whl")
    (sdist,) = (source / "dist").glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture
def environment(tmp_path):
    """A virtual environment that sees this one's packages but not its start-up files or installed plugin."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    (packages / "parent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python, packages


PROBE = """
import sys
from pathlib import Path
import sefe_plugin
active = any(getattr(finder, "__name__", "") == "AnchorFinder" for finder in sys.meta_path)
print(active, Path(sefe_plugin.__file__).parent)
"""


@pytest.mark.parametrize(
    "kind",
    ["wheel", "editable", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sdist", "strict editable"))],
)
def test_install_activates_the_hook_and_uninstall_leaves_nothing(kind, environment, source, built, tmp_path):
    python, packages = environment
    before = {path.name for path in packages.iterdir()}
    pip = [sys.executable, "-m", "pip", "--python", python]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed"]
    if "editable" in kind:
        settings = ["--config-settings", "editable_mode=strict"] if kind.startswith("strict") else []
        run(*pip, "install", *offline, *settings, "--editable", source)
    else:
        run(*pip, "install", *offline, built[kind])
    active, location = run(python, "-c", PROBE, cwd=tmp_path).split()
    assert active == "True"
    assert ("editable" in kind) == (packages not in Path(location).parents)
    # the hook reaches plain llamafactory-cli: a recipe with a misspelt key is refused by the plugin
    (tmp_path / "x.yaml").write_text("cl_method: reglora\nlora_rnak: 8\n")
    code = "import sys; from llamafactory.cli import main; sys.argv = ['llamafactory-cli', 'train', 'x.yaml']; main()"
    refused = subprocess.run([python, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path)
    assert refused.returncode == 1
    assert "Did you mean `lora_rank`?" in refused.stderr
    assert "Traceback" not in refused.stderr
    run(python, "-m", "sefe_plugin.cli", "init", tmp_path / "out", cwd=tmp_path)
    for file in ("README.md", "recipes/minicoin_sefe.yaml", "docs/minicoin.md"):
        assert (tmp_path / "out" / file).is_file()
    run(*pip, "uninstall", "--yes", "sefe-plugin")
    assert {path.name for path in packages.iterdir()} == before
    gone = run(python, "-c", "import sys; print([f for f in sys.meta_path if 'sefe' in getattr(f, '__module__', '')])")
    assert gone.strip() == "[]"


def test_wheel_excludes_hosts_that_fail(built):
    """PyTorch 2.9 fails on Qwen2.5-VL, 2.12 has no torchaudio; transformers 5.6.0 loads no adapters."""
    with zipfile.ZipFile(built["wheel"]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        needed = [Requirement(line) for line in Parser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist")]
    needed = {requirement.name: requirement.specifier for requirement in needed if requirement.marker is None}
    for package, version in (("torch", "2.9.1"), ("torch", "2.12.0"), ("transformers", "5.6.0")):
        assert not needed[package].contains(version), package
    for package, (oldest, newest) in TESTED.items():
        assert all(needed[package].contains(version) for version in (oldest, newest) if package in needed), package


def test_wheel_holds_what_users_need(built):
    names = zipfile.ZipFile(built["wheel"]).namelist()
    for needed in (
        "sefe_plugin.pth",
        "sefe_plugin.start",
        "sefe_plugin/README.md",
        "sefe_plugin/recipes/coin_sefe.yaml",
        "sefe_plugin/docs/reproducing.md",
        "sefe_plugin/benchmarks/minicoin/base/config.json",
        "sefe_plugin/evaluation/html_report/page.css",
        "sefe_plugin/evaluation/html_report/page.js",
        "sefe_plugin/py.typed",
    ):
        assert needed in names
    assert any(name.startswith("sefe_plugin/data_templates/") for name in names)
    assert not any(name.startswith("tests/") for name in names)
