"""Run the tests that hold the host's anchors, and sequences of two tasks, with other versions of the host.

    python tests/versions.py                       # all environments: about 20 minutes and 8 GB of disk for each
    python tests/versions.py oldest newest         # some of them
    python tests/versions.py next --folder /big    # made and removed there

Each environment is made by pip in a folder of its own, and removed after its run. What came of it is kept beside it as
NAME.json; docs/versions.md is written from all of these.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
import xml.etree.ElementTree as ElementTree
from collections import Counter
from datetime import date
from pathlib import Path
from typing import NamedTuple

from sefe_plugin.hosts.llamafactory.tested import TESTED


ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "versions.md"


class Environment(NamedTuple):
    """Versions to try: `pins` are given to pip, `forced` are then put in their place whatever the host asks for."""

    title: str
    pins: list[str]
    forced: list[str]
    variables: dict[str, str]


ENVIRONMENTS = {
    "oldest": Environment(
        "the oldest that are allowed", [f"{package}=={oldest}" for package, (oldest, _) in TESTED.items()], [], {}
    ),
    "newest": Environment("what pip takes by itself", [], [], {}),
    "next": Environment(
        "transformers 5.8, which LLaMA-Factory's main branch allows and this plugin does not",
        [],
        ["transformers==5.8.0"],
        {"DISABLE_VERSION_CHECK": "1"},
    ),
}

#: File of tests -> what it stands for, and which of its tests are run; None for all.
TESTS = {
    "hosts/test_hook.py": ("start-up hook", None),
    "hosts/test_keys.py": ("recipe keys", None),
    "hosts/test_patches.py": ("anchors in the host", None),
    "hosts/test_adapter.py": ("adapter", None),
    "hosts/test_dataset.py": ("ASD on loaded data", None),
    "hosts/test_images.py": ("padded images", None),
    "hosts/test_optimizer.py": ("learning rate of the projector", None),
    "methods/reglora/test_model.py": ("RegLoRA in PEFT", None),
    "methods/reglora/test_penalty.py": ("its penalty", None),
    "methods/test_callback.py": ("methods in a Trainer", None),
    "methods/test_engines.py": ("DDP and ZeRO", None),
    "methods/test_trl.py": ("TRL", None),
    "hosts/test_sequence.py": (
        "a sequence of two tasks",
        [
            "test_sequence_ends_in_matrix_and_report",
            "test_every_task_leaves_its_files",
            "test_asd_is_recorded_with_exact_counts",
            "test_penalty_starts_with_the_second_task_and_is_logged",
            "test_merged_model_is_base_plus_scaled_adapter",
            "test_adapters_load_in_plain_peft_without_the_plugin",
        ],
    ),
    "hosts/test_carry.py": (
        "carried in 4 bit",
        [
            "test_four_bit_sequence_of_three_tasks_leaves_its_base_alone",
            "test_four_bit_merge_is_into_the_base_of_full_precision",
        ],
    ),
}

NEEDED_BY_TESTS = ["pytest", "hypothesis", "tensorboard"]


def main() -> None:
    """Try the environments that are asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENVIRONMENTS)} (default: all)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "versions")
    parser.add_argument("--python", type=Path, help="the interpreter of an environment that is made already")
    options = parser.parse_args()
    if unknown := set(options.names) - set(ENVIRONMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names or ENVIRONMENTS:
        place = options.folder / name
        try:
            python = options.python or make(ENVIRONMENTS[name], place)
            result = attempt(ENVIRONMENTS[name], python, place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        (options.folder / f"{name}.json").write_text(json.dumps(result, indent=2))
        print(name, {group: "{passed} of {run}".format(**counts) for group, counts in result["groups"].items()})
    found = {name: options.folder / f"{name}.json" for name in ENVIRONMENTS}
    PAGE.write_text(page({name: json.loads(file.read_text()) for name, file in found.items() if file.is_file()}))


def make(environment: Environment, place: Path) -> Path | None:
    """Make an environment with this plugin in it; return its interpreter, or None if pip finds no set that fits."""
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place / "venv", with_pip=True)
    python = place / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    steps = [[*pip, f"{_copy(place)}[deepspeed,qlora]", *NEEDED_BY_TESTS, *environment.pins]]
    steps += [[*pip, "--no-deps", *environment.forced]] if environment.forced else []
    fits = all(subprocess.run(step, stdout=subprocess.DEVNULL, check=False).returncode == 0 for step in steps)
    return python if fits else None


def attempt(environment: Environment, python: Path | None, place: Path) -> dict:
    """Run the tests with an interpreter, and return its versions and what came of each group of tests."""
    result = {"date": date.today().isoformat(), "python": platform.python_version(), "versions": {}, "groups": {}}
    if python is None:
        return result | {"failures": {"pip": "finds no set of these packages that fit together"}}
    listed = json.loads(subprocess.check_output([python, "-m", "pip", "list", "--format=json"]))
    versions = {package["name"].lower(): package["version"] for package in listed}
    result["versions"] = {package: versions.get(package, "") for package in TESTED}
    report = place / "report.xml"
    arguments = [
        argument
        for file, (_, names) in TESTS.items()
        for argument in ([f"tests/{file}::{name}" for name in names] if names else [f"tests/{file}"])
    ]
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SEFE_"))}
    variables |= {"PATH": f"{python.parent}{os.pathsep}{variables['PATH']}", **environment.variables}
    # not `-m pytest`, which would take the package from the working folder
    start = [python, "-P", "-c", "import sys, pytest; sys.exit(pytest.main())"]
    command = [*start, "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments]
    subprocess.run(command, cwd=_copy(place), env=variables, check=False)
    return result | outcome(report)


def _copy(place: Path) -> Path:
    """Return a copy of the source tree, so that nothing is built in it."""
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "runs", "__pycache__")
    return shutil.copytree(ROOT, place / "source", ignore=ignored, dirs_exist_ok=True)


def outcome(report: Path) -> dict:
    """Count what passed in each group of tests of a report, and keep the first line of each failure."""
    counts = {title: Counter(passed=0, run=0) for title, _ in TESTS.values()}
    failures = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        module = case.get("classname") or case.get("name")
        file = next(file for file in TESTS if module.endswith(file.removesuffix(".py").replace("/", ".")))
        if case.find("skipped") is not None:
            continue
        fault = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
        counts[TESTS[file][0]].update(run=1, passed=int(fault is None))
        if fault is not None:
            failures[f"{file}::{case.get('name')}"] = (fault.get("message") or "").strip().splitlines()[0][:200]
    return {"groups": {title: dict(count) for title, count in counts.items()}, "failures": failures}


def page(results: dict[str, dict]) -> str:
    """Return docs/versions.md."""
    lines = [
        "# Versions",
        "",
        "What was run with other versions of LLaMA-Factory, PyTorch and the Hugging Face packages. Made by",
        "`python tests/versions.py`, which anyone can repeat. It makes each environment with pip, runs the tests of",
        "what this plugin takes from its host, and removes it again. `sefe doctor` compares your versions with these.",
        "",
    ]
    newest = ", ".join(f"{package} {version}" for package, (_, version) in TESTED.items())
    lines += [f"The whole test suite is run with {newest}.", ""]
    lines += [f"- **{name}**: {ENVIRONMENTS[name].title}; {result['date']}." for name, result in results.items()]
    rows = [["", *results]]
    rows += [["python", *(result["python"] for result in results.values())]]
    rows += [[package, *(result["versions"].get(package, "") for result in results.values())] for package in TESTED]
    lines += ["", *_table(rows), "", "Passed of the tests that ran, on a CPU; `-` where none ran:", ""]
    rows = [["", *results]]
    for title, _ in TESTS.values():
        cells = [result["groups"].get(title) for result in results.values()]
        rows.append([title, *("{passed} of {run}".format(**cell) if cell and cell["run"] else "-" for cell in cells)])
    lines += _table(rows)
    for name, result in results.items():
        if result["failures"]:
            lines += ["", f"What failed with **{name}**:", ""]
            for message in dict.fromkeys(result["failures"].values()):
                tests = [f"`{test}`" for test, other in result["failures"].items() if other == message]
                lines.append(f"- {', '.join(tests)}: {message}")
    return "\n".join(lines) + "\n"


def _table(rows: list[list[str]]) -> list[str]:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return [head, f"|{' --- |' * len(rows[0])}", *rest]


if __name__ == "__main__":
    sys.exit(main())
