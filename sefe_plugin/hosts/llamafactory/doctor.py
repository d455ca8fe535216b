"""The host's part of `sefe doctor`: versions, the start-up hook, devices, and variables of the environment."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from sefe_plugin.hosts.llamafactory.probes import ANSWER
from sefe_plugin.hosts.llamafactory.switches import is_on, switch_errors
from sefe_plugin.hosts.llamafactory.tested import EXCLUDED, TESTED
from sefe_plugin.machine import Check


_PLUGIN, _HOST = "sefe-plugin", "llamafactory"

#: Optional packages: each is the one that an extra of the plugin is named for.
_OPTIONAL = {"bitsandbytes": "qlora", "deepspeed": "deepspeed"}

#: Seconds that a probe may take.
_PROBE_TIME = 180


def version_checks() -> Iterator[Check]:
    """Compare installed versions with what the plugin and the host ask for, and with what was tested."""
    from packaging.specifiers import SpecifierSet

    python, ours = platform.python_version(), _version(_PLUGIN)
    if ours is None:
        yield Check("fault", _PLUGIN, "it is not installed in this environment. Run `pip install sefe-plugin`.")
        return
    yield Check("ok", _PLUGIN, ours)
    needed = metadata.metadata(_PLUGIN)["Requires-Python"]
    if SpecifierSet(needed).contains(python):
        yield Check("ok", "python", python)
    else:
        yield Check("fault", "python", f"{python}, but {_PLUGIN} needs {needed}. Make an environment with another.")
    for package in dict.fromkeys((*TESTED, *_OPTIONAL)):
        yield _version_check(package)


def _version_check(package: str) -> Check:
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    installed, extra = _version(package), _OPTIONAL.get(package)
    if installed is None and extra:
        return Check("ok", package, f'not installed (pip install "{_PLUGIN}[{extra}]")')
    if installed is None:
        return Check("fault", package, f"it is not installed. Run `pip install {_PLUGIN}` again.")
    for level, owner in (("fault", _PLUGIN), ("warning", _HOST)):
        asked = _asked(owner, package)
        if not asked.contains(installed, prereleases=True):
            why = "".join(
                f", because {reason}"
                for versions, reason in EXCLUDED.get(package, {}).items()
                if SpecifierSet(versions).contains(installed, prereleases=True)
            )
            both = asked & _asked(_PLUGIN, package) & _asked(_HOST, package)
            return Check(
                level, package, f"{installed}, but {owner} needs {asked}{why}. Run `pip install '{package}{both}'`."
            )
    oldest, newest = TESTED[package]
    if not Version(oldest) <= Version(Version(installed).public) <= Version(newest):
        span = newest if oldest == newest else f"{oldest} to {newest}"
        return Check("warning", package, f"{installed} is allowed, but not tested; tested are {span}.")
    return Check("ok", package, installed)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _asked(owner: str, package: str):
    """Return the versions of a package that another one asks for in its metadata, extras included."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    extra = _OPTIONAL.get(package, "")
    try:
        lines = metadata.requires(owner) or []
    except metadata.PackageNotFoundError:
        lines = []
    requirements = [Requirement(line) for line in lines]
    asked = SpecifierSet()
    for requirement in requirements:
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if requirement.name == package and applies:
            asked &= requirement.specifier
    return asked


def environment_checks() -> Iterator[Check]:
    """Check the variables that change what is trained, or whether it is trained at all."""
    faults = switch_errors()
    if os.environ.get("NNODES", "1") != "1":
        from sefe_plugin.hosts.llamafactory.nodes import environment_errors

        faults += environment_errors()
    if os.environ.get("SEFE_PLUGIN_DISABLE", "0") not in ("", "0"):
        faults.append("SEFE_PLUGIN_DISABLE is set: LLaMA-Factory runs without the plugin. Unset it.")
    warnings = [
        f"{name} is set: a training started here waits for other processes. Unset it outside torchrun."
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        if name in os.environ
    ]
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        warnings.append(
            "ACCELERATE_USE_FSDP is set: SEFE does not work with FSDP. Unset it, and use DDP or DeepSpeed."
        )
    if is_on("DISABLE_VERSION_CHECK"):
        warnings.append(
            "DISABLE_VERSION_CHECK is set: LLaMA-Factory starts with versions that it does not know. Unset it."
        )
    yield from (Check("fault", "environment", text) for text in faults)
    yield from (Check("warning", "environment", text) for text in warnings)
    if not faults and not warnings:
        yield Check("ok", "environment", "no variable stands in the way of a sequence")


def trial_checks() -> Iterator[Check]:
    """Try out the start-up hook, the devices, and those optional packages that are installed, two at a time."""
    trials = {"start_up": start_up_checks, "devices": device_checks}
    trials |= {"four_bit": four_bit_checks} if _version("bitsandbytes") else {}
    trials |= {"deepspeed": deepspeed_checks} if _version("deepspeed") else {}
    with ThreadPoolExecutor(2) as pool:
        for answer, check in zip(pool.map(probe, trials), trials.values(), strict=True):
            yield from check(answer)


def probe(name: str) -> dict[str, Any]:
    """Run one probe in a fresh interpreter.

    Args:
        name: A function of `sefe_plugin.hosts.llamafactory.probes`.

    Returns:
        Its answer, or under "error" why there is none.
    """
    command = [sys.executable, "-P", "-m", "sefe_plugin.hosts.llamafactory.probes", name]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIME, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"it did not end within {_PROBE_TIME} s"}
    answers = [line for line in ended.stdout.splitlines() if line.startswith(ANSWER)]
    if answers:
        return json.loads(answers[-1].removeprefix(ANSWER))
    said = ended.stderr.strip().splitlines()
    return {"error": said[-1] if said else f"its process ended with status {ended.returncode}"}


def start_up_checks(answer: Mapping[str, Any]) -> Iterator[Check]:
    """Say whether a fresh interpreter with the host has the plugin's keys."""
    name = "start-up hook"
    if "error" in answer:
        advice = "Mend the faults above, or install the plugin in a new environment."
        yield Check("fault", name, f"LLaMA-Factory cannot be loaded with the plugin: {answer['error']}. {advice}")
    elif not answer["hook"]:
        advice = "Unset SEFE_PLUGIN_DISABLE, and install the plugin with pip into this environment, not by a path."
        yield Check("fault", name, f"Python does not load sefe_plugin.pth when it starts. {advice}")
    elif answer["absent"]:
        absent = ", ".join(f"`{key}`" for key in answer["absent"])
        yield Check("fault", name, f"LLaMA-Factory lacks {absent}. Run `pip install --force-reinstall {_PLUGIN}`.")
    else:
        yield Check("ok", name, f"LLaMA-Factory has the plugin's {answer['keys']} keys")


def device_checks(answer: Mapping[str, Any]) -> Iterator[Check]:
    """Say what is trained on."""
    if "error" in answer:
        advice = "Install a PyTorch that is made for this machine's GPU and driver."
        yield Check("fault", "device", f"{answer['error']}. {advice}")
    elif answer["kind"] == "cpu" and _has_nvidia_driver():
        built = f"is made for CUDA {answer['cuda']}" if answer["cuda"] else "is made for CPUs only"
        advice = "Look whether CUDA_VISIBLE_DEVICES hides it, update its driver, or install another PyTorch."
        yield Check("warning", "device", f"PyTorch, which {built}, sees no GPU though there is a driver. {advice}")
    elif answer["kind"] == "cpu":
        yield Check("ok", "device", "no GPU: mini-CoIN and other tiny models train on the CPU")
    elif answer["kind"] != "gpu":
        yield Check(
            "warning", "device", f"{answer['count']} {answer['kind']}; tested are NVIDIA's GPUs and CPUs only."
        )
    for index, gpu in enumerate(answer.get("gpus", ())):
        found = f"{gpu['name']}, {gpu['memory'] / 1e9:.0f} GB, compute capability {gpu['capability']}"
        if gpu["bf16"]:
            yield Check("ok", f"GPU {index}", f"{found}, bf16")
        else:
            yield Check("warning", f"GPU {index}", f"{found}, no bf16: write `fp16: true` in place of `bf16: true`.")


def _has_nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").is_file()


def four_bit_checks(answer: Mapping[str, Any]) -> Iterator[Check]:
    """Say whether 4-bit bases can be trained on."""
    needs = "`quantization_bit: 4` needs a bitsandbytes that is made for this PyTorch and its CUDA"
    if "error" in answer:
        yield Check("fault", "4 bit", f"{answer['error']}. {needs}: pip install -U bitsandbytes, or leave it out.")
    elif not answer["finite"]:
        yield Check("fault", "4 bit", f"a 4-bit layer gives no numbers on the {answer['device']}. {needs}.")
    else:
        yield Check("ok", "4 bit", f"a 4-bit layer runs on the {answer['device']}")


def deepspeed_checks(answer: Mapping[str, Any]) -> Iterator[Check]:
    """Say whether ZeRO can be used."""
    if "error" in answer:
        advice = "It may need CUDA_HOME, the folder of a CUDA toolkit with nvcc; without ZeRO leave DeepSpeed out."
        yield Check("fault", "DeepSpeed", f"{answer['error']}. {advice}")
    elif answer["accelerator"] == "cuda" and answer["cuda_home"] is None:
        text = "it loads; its own optimizers and its offloading need nvcc, so set CUDA_HOME to use them"
        yield Check("ok", "DeepSpeed", text)
    else:
        yield Check("ok", "DeepSpeed", f"it loads, for the {answer['accelerator']}")
