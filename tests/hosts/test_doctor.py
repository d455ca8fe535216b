"""The host's part of `sefe doctor`, in environments that are made up."""

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.specifiers import SpecifierSet

from sefe_plugin.hosts.llamafactory import doctor, probes
from sefe_plugin.hosts.llamafactory.tested import EXCLUDED, TESTED


ROOT = Path(__file__).parents[2]

INSTALLED = {"sefe-plugin": "0.1.0"} | {
    package: newest for package, (_, newest) in TESTED.items() if package not in doctor._OPTIONAL
}
REQUIRES = {
    "sefe-plugin": [
        "llamafactory<0.9.6,>=0.9.5",
        "torch!=2.9.*,<2.12,>=2.4",
        "transformers<5.6,>=5.5",
        'bitsandbytes>=0.50; extra == "qlora"',
        'setuptools; extra == "test"',
    ],
    "llamafactory": ["torch>=2.4.0", "accelerate<=1.11.0,>=1.3.0", "transformers<=5.6.0,>=4.55.0"],
}


@pytest.fixture
def versions(monkeypatch):
    """Returns package -> check for packages of given versions, beside others that were tested."""

    def check(**installed: str | None) -> dict[str, doctor.Check]:
        found = {name: version for name, version in (INSTALLED | installed).items() if version is not None}

        def version(package: str) -> str:
            if package not in found:
                raise metadata.PackageNotFoundError(package)
            return found[package]

        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr(metadata, "requires", lambda package: REQUIRES.get(package))
        monkeypatch.setattr(metadata, "metadata", lambda package: {"Requires-Python": ">=3.11"})
        return {check.name: check for check in doctor.version_checks()}

    return check


def test_what_was_tested_is_fine_and_optional_packages_may_be_absent(versions):
    checks = versions()
    assert {check.level for check in checks.values()} == {"ok"}
    assert checks["bitsandbytes"].text == 'not installed (pip install "sefe-plugin[qlora]")'
    assert set(checks) == {"sefe-plugin", "python", *TESTED}


def test_local_builds_of_a_tested_version_are_fine(versions):
    assert versions(torch="2.11.0+cu128")["torch"].level == "ok"


@pytest.mark.parametrize(
    ("installed", "level", "text"),
    [
        ({"torch": "2.9.1"}, "fault", "2.9.1, but sefe-plugin needs !=2.9.*,<2.12,>=2.4, because its Conv3D fails"),
        ({"torch": "2.12.0"}, "fault", "because torchaudio, which LLaMA-Factory imports at start, has no release"),
        ({"torch": None}, "fault", "it is not installed. Run `pip install sefe-plugin` again."),
        ({"transformers": "5.6.0"}, "fault", "it cannot load adapters with the peft"),
        ({"transformers": "5.8.0"}, "fault", "Run `pip install 'transformers<5.6,<=5.6.0,>=4.55.0,>=5.5'`."),
        ({"llamafactory": "0.9.4"}, "fault", "0.9.4, but sefe-plugin needs <0.9.6,>=0.9.5. Run"),
        ({"accelerate": "1.15.0"}, "warning", "1.15.0, but llamafactory needs <=1.11.0,>=1.3.0."),
        ({"peft": "0.19.0"}, "warning", "0.19.0 is allowed, but not tested; tested are 0.18.0 to 0.18.1."),
        ({"bitsandbytes": "0.44.0"}, "fault", "0.44.0, but sefe-plugin needs >=0.50. Run"),
        ({"bitsandbytes": "0.51.0"}, "warning", "0.51.0 is allowed, but not tested; tested are 0.50.2."),
    ],
    ids=str,
)
def test_other_versions(versions, installed, level, text):
    check = versions(**installed)[next(iter(installed))]
    assert check.level == level
    assert text in check.text


def test_old_python_and_no_plugin(versions, monkeypatch):
    monkeypatch.setattr("platform.python_version", lambda: "3.10.4")
    assert versions()["python"].text == "3.10.4, but sefe-plugin needs >=3.11. Make an environment with another."
    assert list(versions(**{"sefe-plugin": None})) == ["sefe-plugin"]


def test_tested_versions_are_allowed_ones_and_excluded_ones_are_not():
    for package, (oldest, newest) in TESTED.items():
        for owner in ("sefe-plugin", "llamafactory"):
            asked = doctor._asked(owner, package)
            assert asked.contains(newest), (owner, package)
            assert asked.contains(oldest), (owner, package)
    for package, reasons in EXCLUDED.items():
        for versions in reasons:
            (specifier,) = SpecifierSet(versions)
            assert not _declared(package).contains(specifier.version.removesuffix(".*")), package


def test_oldest_tested_versions_are_those_that_the_package_asks_for():
    for package in ("torch", "torchvision", "torchaudio", "transformers", "peft"):
        declared = {spec.version for spec in _declared(package) if spec.operator == ">="}
        assert all(TESTED[package][0].startswith(version) for version in declared), package


def _declared(package: str) -> SpecifierSet:
    """What setup.cfg asks for; the metadata of an editable install may be older."""
    lines = [line.strip() for line in (ROOT / "setup.cfg").read_text().splitlines()]
    return SpecifierSet(
        next((rest for line in lines if (rest := line.removeprefix(package)) != line and rest[:1] in "<>!="), "")
    )


@pytest.mark.parametrize(
    ("variables", "level", "text"),
    [
        ({}, "ok", "no variable stands in the way"),
        ({"USE_MEGATRON_BRIDGE": "1"}, "fault", "USE_MEGATRON_BRIDGE is set"),
        ({"SEFE_PLUGIN_DISABLE": "1"}, "fault", "SEFE_PLUGIN_DISABLE is set"),
        ({"NNODES": "2"}, "fault", "NODE_RANK and MASTER_ADDR and MASTER_PORT is not set"),
        ({"LOCAL_RANK": "0"}, "warning", "LOCAL_RANK is set"),
        ({"ACCELERATE_USE_FSDP": "true"}, "warning", "SEFE does not work with FSDP"),
        ({"DISABLE_VERSION_CHECK": "y"}, "warning", "DISABLE_VERSION_CHECK is set"),
    ],
    ids=str,
)
def test_variables_of_the_environment(variables, level, text, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (check,) = doctor.environment_checks()
    assert check.level == level
    assert text in check.text


GPU = {"name": "NVIDIA H100", "memory": 85e9, "capability": "9.0", "bf16": True}


@pytest.mark.parametrize(
    ("check", "answer", "level", "text"),
    [
        ("start_up", {"hook": True, "absent": [], "keys": 18}, "ok", "LLaMA-Factory has the plugin's 18 keys"),
        ("start_up", {"hook": True, "absent": ["asd_ratio"], "keys": 18}, "fault", "LLaMA-Factory lacks `asd_ratio`."),
        ("start_up", {"hook": False}, "fault", "Python does not load sefe_plugin.pth when it starts."),
        ("start_up", {"error": "OSError: libtorch"}, "fault", "cannot be loaded with the plugin: OSError: libtorch."),
        ("device", {"kind": "cpu", "count": 0, "cuda": "13.0", "gpus": []}, "ok", "no GPU"),
        ("device", {"kind": "npu", "count": 8, "cuda": None, "gpus": []}, "warning", "8 npu; tested are"),
        (
            "device",
            {"kind": "gpu", "count": 1, "cuda": "13.0", "gpus": [GPU]},
            "ok",
            "NVIDIA H100, 85 GB, compute capability 9.0, bf16",
        ),
        (
            "device",
            {"kind": "gpu", "count": 1, "cuda": "13.0", "gpus": [GPU | {"bf16": False}]},
            "warning",
            "no bf16: write `fp16: true` in place of `bf16: true`.",
        ),
        ("device", {"error": "RuntimeError: no kernel image"}, "fault", "RuntimeError: no kernel image. Install"),
        ("four_bit", {"device": "cpu", "finite": True}, "ok", "a 4-bit layer runs on the cpu"),
        ("four_bit", {"device": "cuda", "finite": False}, "fault", "a 4-bit layer gives no numbers on the cuda."),
        ("four_bit", {"error": "OSError: no libcudart"}, "fault", "pip install -U bitsandbytes"),
        ("deepspeed", {"accelerator": "cpu", "cuda_home": None}, "ok", "it loads, for the cpu"),
        ("deepspeed", {"accelerator": "cuda", "cuda_home": None}, "ok", "set CUDA_HOME to use them"),
        ("deepspeed", {"error": "MissingCUDAException"}, "fault", "It may need CUDA_HOME"),
    ],
)
def test_answers_of_trials(check, answer, level, text, monkeypatch):
    monkeypatch.setattr(doctor, "_has_nvidia_driver", lambda: False)
    (found,) = getattr(doctor, f"{check}_checks")(answer)
    assert found.level == level
    assert text in found.text


@pytest.mark.parametrize(("cuda", "text"), [("13.0", "is made for CUDA 13.0"), (None, "is made for CPUs only")])
def test_a_gpu_that_pytorch_does_not_see(cuda, text, monkeypatch):
    monkeypatch.setattr(doctor, "_has_nvidia_driver", lambda: True)
    (found,) = doctor.device_checks({"kind": "cpu", "count": 0, "cuda": cuda, "gpus": []})
    assert found.level == "warning"
    assert text in found.text


def test_only_installed_packages_are_tried(monkeypatch):
    asked = []

    def probe(name: str) -> dict:
        asked.append(name)
        return {"error": "no"}

    monkeypatch.setattr(doctor, "probe", probe)
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    assert [check.name for check in doctor.trial_checks()] == ["start-up hook", "device"]
    monkeypatch.setattr(doctor, "_version", lambda package: "1.0")
    assert [check.name for check in doctor.trial_checks()] == ["start-up hook", "device", "4 bit", "DeepSpeed"]
    assert sorted(asked) == ["deepspeed", "devices", "devices", "four_bit", "start_up", "start_up"]


@pytest.mark.parametrize(
    ("package", "error"),
    [
        ("raise RuntimeError('CUDA\\nsetup failed')", "RuntimeError: CUDA setup failed"),
        ("import os; os._exit(7)", "its process ended with status 7"),
        ("import time; time.sleep(60)", "it did not end within 2 s"),
        ("raise SystemExit('gone')", "gone"),
    ],
)
def test_a_package_that_fails_crashes_or_hangs_is_an_answer(package, error, tmp_path, monkeypatch):
    (tmp_path / "bitsandbytes.py").write_text(package)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setattr(doctor, "_PROBE_TIME", 2)
    assert doctor.probe("four_bit") == {"error": error}


def test_a_fresh_interpreter_without_the_hook_says_so(monkeypatch):
    monkeypatch.setenv("SEFE_PLUGIN_DISABLE", "1")
    assert doctor.probe("start_up") == {"hook": False}


def test_a_fresh_interpreter_has_the_keys():
    answer = doctor.probe("start_up")
    assert answer["hook"], "install the plugin, so that its start-up hook is active: pip install -e ."
    assert answer["absent"] == []


def test_devices_of_this_machine():
    import torch

    found = probes.devices()
    assert (found["kind"] == "gpu") == torch.cuda.is_available()
    assert len(found["gpus"]) == torch.cuda.device_count()


def test_a_gpu_is_used_once(monkeypatch):
    """With a stand-in, where there is none."""
    import llamafactory.extras.misc as misc
    import torch

    ones = torch.ones
    monkeypatch.setattr(misc, "get_device_name", lambda: "gpu")
    monkeypatch.setattr(misc, "get_device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    properties = SimpleNamespace(name="GPU", total_memory=8e9, major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    used = []
    monkeypatch.setattr(torch, "ones", lambda *size, device: used.append(device) or ones(*size))
    (gpu,) = probes.devices()["gpus"]
    assert (gpu["name"], gpu["capability"], used) == ("GPU", "7.5", ["cuda:0"])


def test_a_four_bit_layer_runs_here():
    pytest.importorskip("bitsandbytes")
    assert probes.four_bit()["finite"]


def test_the_answer_is_one_line_even_of_an_unknown_probe(capsys):
    probes.main("x")
    assert capsys.readouterr().out == f"\n{probes.ANSWER}" + '{"error": "KeyError: \'x\'"}\n'
