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


def test_startup_costs_little_more_than_three_empty_modules(tmp_path):
    """About 0.9 ms where three empty modules take as long; the fastest of some starts, as a busy machine only adds."""
    for module in ("sefe_plugin/__init__.py", "sefe_plugin/hosts/__init__.py", "sefe_plugin/hosts/hook.py"):
        for package, text in (("sefe_plugin", (ROOT / module).read_text()), ("nothing", "")):
            copied = tmp_path / module.replace("sefe_plugin", package, 1)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_text(text)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(tmp_path)], check=True, env={})

    def seconds(statement: str) -> float:
        timed = (
            f"import os; sys.path[0] = {str(tmp_path)!r}\n"
            f"import time; start = time.process_time()\n{statement}\nprint(time.process_time() - start)"
        )
        return min(float(python(timed)) for _ in range(15))

    hook_alone = seconds("import sefe_plugin.hosts.hook as h; h.install()")
    assert hook_alone <= 1.5 * seconds("import nothing.hosts.hook")


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
