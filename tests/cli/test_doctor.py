"""`sefe doctor`: one line for each finding, status 1 on a fault, never a traceback."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sefe_plugin.cli as cli
import sefe_plugin.machine as machine
from sefe_plugin.cli import main
from sefe_plugin.hosts.llamafactory import doctor
from sefe_plugin.machine import Check


ROOT = Path(cli.__file__).parents[2]


@pytest.fixture
def quiet(monkeypatch):
    """All checks but those that a test gives find nothing."""
    for name in ("version_checks", "environment_checks", "trial_checks"):
        monkeypatch.setattr(doctor, name, lambda: iter(()))
    monkeypatch.setattr(machine, "hub_checks", lambda: iter(()))
    monkeypatch.setattr(machine, "_DISK", 0)
    monkeypatch.setattr(machine, "_MEMORY", 0)
    return monkeypatch


def test_status_is_that_of_the_worst_finding(quiet, tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "not" / "yet")]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^ok +disk +\d+\.\d GB free at {tmp_path}$", out, re.MULTILINE)
    assert "2 ok, 0 to look at, 0 to mend." in out
    quiet.setattr(doctor, "version_checks", lambda: iter([Check("warning", "torch", "it is new.")]))
    assert main(["doctor", str(tmp_path)]) == 0
    quiet.setattr(doctor, "environment_checks", lambda: iter([Check("fault", "environment", "Unset it.")]))
    assert main(["doctor", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "fault    environment    Unset it." in out
    assert "2 ok, 1 to look at, 1 to mend." in out


def test_a_check_that_fails_itself_is_a_fault_and_the_others_follow(quiet, tmp_path, capsys):
    def broken():
        raise ImportError("no module named packaging")

    quiet.setattr(doctor, "version_checks", broken)
    quiet.setattr(doctor, "environment_checks", lambda: iter([Check("ok", "environment", "fine")]))
    assert main(["doctor", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "fault    versions       this cannot be checked: ImportError: no module named packaging. Mend" in out
    assert "ok       environment    fine" in out


def test_folder_that_is_a_file(quiet, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["doctor", str(tmp_path / "file" / "runs")]) == 1
    assert f"{tmp_path / 'file'} cannot be written: Not a directory. Choose another folder." in capsys.readouterr().out


def test_packages_that_the_checks_themselves_need_are_told_to_be_absent(tmp_path, monkeypatch, capsys):
    for name in ("packaging", "packaging.specifiers", "psutil", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(doctor, "trial_checks", lambda: iter(()))
    assert main(["doctor", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    for check in ("memory", "hub", "versions"):
        assert re.search(rf"^fault    {check} +this cannot be checked: ModuleNotFoundError: .*Mend", out, re.MULTILINE)
    assert re.search(r"^ok +environment ", out, re.MULTILINE)


def test_a_command_that_cannot_even_be_read_says_what_is_absent(tmp_path):
    """A plugin without its dependencies, as `pip install --no-deps` leaves it."""
    shutil.copytree(ROOT / "sefe_plugin", tmp_path / "sefe_plugin")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from sefe_plugin.cli import main; sys.exit(main(['doctor']))"
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == "No module named 'PIL'. Install the plugin with what it needs: pip install sefe-plugin\n"
