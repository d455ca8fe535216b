"""The start-up hook: light, inert, switchable."""

import subprocess
import sys
from pathlib import Path

import pytest

from sefe_plugin.hosts import hook
from sefe_plugin.hosts.llamafactory import patch_table


ROOT = Path(hook.__file__).parents[2]


def python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return result.stdout


def write_host(folder: Path, cli: str) -> None:
    """A package with the host's name, whose module `cli` holds what is given."""
    package = folder / "llamafactory"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(cli)


def test_hook_imports_nothing_but_itself():
    code = (
        "import os; before = set(sys.modules)\n"
        "import sefe_plugin.hosts.hook as h; h.install()\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    assert set(python(code).split()) == {"sefe_plugin", "sefe_plugin.hosts", "sefe_plugin.hosts.hook"}


@pytest.mark.parametrize(
    ("value", "active"), [(None, True), ("0", True), ("", True), ("1", False), ("true", False), ("asd", True)]
)
def test_environment_variable_switches_the_hook_off(value, active):
    code = "import sefe_plugin.hosts.hook as h; h.install(); print(h.AnchorFinder in sys.meta_path)"
    environment = {} if value is None else {"SEFE_PLUGIN_DISABLE": value}
    assert python(code, **environment).strip() == str(active)


def test_installing_twice_leaves_one_finder():
    code = "import sefe_plugin.hosts.hook as h; h.install(); h.install(); print(sys.meta_path.count(h.AnchorFinder))"
    assert python(code).strip() == "1"


def test_startup_cost_is_at_most_one_millisecond(tmp_path):
    """With byte code, as pip installs it; one of many starts is enough, since a busy machine only adds to it."""
    code = (
        "import py_compile, time\n"
        f"import shutil; shutil.copytree({str(ROOT / 'sefe_plugin')!r}, {str(tmp_path / 'sefe_plugin')!r},"
        " ignore=lambda d, names: [n for n in names if not n.endswith('.py') and n not in ('hosts',)])\n"
    )
    python(code)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(tmp_path)], check=True, env={})
    timed = (
        f"import os; sys.path[0] = {str(tmp_path)!r}\n"
        "import time; start = time.process_time()\n"
        "import sefe_plugin.hosts.hook as h; h.install()\n"
        "print(time.process_time() - start)"
    )
    assert any(float(python(timed)) <= 1e-3 for _ in range(200))


def test_the_hook_waits_for_the_modules_of_the_table():
    assert sorted(hook.ANCHORS) == sorted({patch.module for patch in patch_table.TABLE})


def test_names_of_patches_switch_them_off_and_an_unknown_name_ends_the_command(tmp_path):
    write_host(tmp_path, "def main():\n    print('host')\n")
    code = (
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import sefe_plugin.hosts.hook as h; h.install()\n"
        "import llamafactory.cli as c; print(hasattr(c.main, '__wrapped__'))\n"
        "try:\n    c.main()\nexcept SystemExit as error:\n    print(error)"
    )
    assert python(code, SEFE_PLUGIN_DISABLE="projector").split() == ["True", "host"]
    assert python(code, SEFE_PLUGIN_DISABLE="projector, command").split() == ["False", "host"]
    said = python(code, SEFE_PLUGIN_DISABLE="comand").splitlines()
    assert said[1].startswith("SEFE_PLUGIN_DISABLE names no patch 'comand'")
    assert said[1].endswith("Did you mean `command`?")


def test_anchor_is_patched_and_keeps_its_own_loader(tmp_path):
    write_host(tmp_path, "def main():\n    print('host')\n")
    code = (
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import sefe_plugin.hosts.hook as h; h.install()\n"
        "import llamafactory.cli as c; print(type(c.__loader__).__name__, c.__spec__.loader is c.__loader__)\n"
        "print(c.main.__wrapped__.__module__); sys.argv = ['x', 'version']; c.main()"
    )
    assert python(code).split() == ["SourceFileLoader", "True", "llamafactory.cli", "host"]


def test_missing_anchor_is_named(tmp_path):
    write_host(tmp_path, "")
    code = (
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import sefe_plugin.hosts.hook as h; h.install()\n"
        "try:\n    import llamafactory.cli\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    out = python(code)
    assert out.startswith("HostChangedError llamafactory.cli.main does not exist")
    assert "SEFE_PLUGIN_DISABLE=1" in out
