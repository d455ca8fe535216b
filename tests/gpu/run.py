"""Measure on a GPU what a CPU cannot: one command, 25 minutes, no network.

    python tests/gpu/run.py --out DIR [--minutes 25] [--steps NAME ...] [--model FOLDER] [--rehearse]

After every step DIR holds `kit.json` and `kit.md`, whole, with all that is known so far; `logs/` keeps what each step
said. A step that fails or takes too long does not stop the others. The same command goes on: a step that is done is
not done again, and one is begun only if all its time is left. README.md says what the steps are.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kit_page import as_markdown
from kit_steps import ROOT, STEPS, Setting, Step

from sefe_plugin.files import read_json, write_json, write_text


PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes", "accelerate", "llamafactory", "trl")

#: Seconds that a step has to end after it was asked to.
GRACE = 15

#: Characters of a log that stand in the results of a step that failed.
TAIL = 2000

_PROBE = """
import json, torch
gpu = torch.cuda.is_available()
print(json.dumps(torch.cuda.get_device_name() if gpu else None))
"""


def machine() -> dict:
    """What the figures depend on. PyTorch looks for the GPU in a process of its own, which leaves no memory taken."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    gpu = json.loads(subprocess.run([sys.executable, "-c", _PROBE], check=True, stdout=subprocess.PIPE).stdout)
    return {"gpu": gpu, "cores": os.cpu_count(), "python": sys.version.split()[0], "packages": versions}


def perform(step: Step, setting: Setting, reason: str | None, log: Path) -> dict:
    """Do a step, or skip it; return its record.

    Args:
        step: The step.
        setting: How the kit is run.
        reason: Why it is skipped; None to do it.
        log: The file for what its command says.
    """
    record = {"about": step.about, "limit_seconds": step.seconds, "date": time.strftime("%Y-%m-%d %H:%M")}
    if reason is not None:
        return {**record, "state": "skipped", "reason": reason}
    command = step.command(setting)
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        status = run_within(command, step.seconds, output)
    record |= {"seconds": round(time.monotonic() - start, 1), "command": " ".join(command)}
    figures = step.figures(setting)
    if status is None:
        record |= {"state": "out of time", "reason": f"it was ended after {step.seconds} s"}
    elif status:
        record |= {"state": "failed", "reason": f"its command ended with status {status}"}
    elif figures is None:
        record |= {"state": "failed", "reason": "its command ended well and left no figures"}
    else:
        record |= {"state": "done"}
    if record["state"] != "done":
        record["said"] = log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
    return {**record, "figures": figures}


def run_within(command: Sequence[str], seconds: float, output) -> int | None:
    """Run a command; return its exit status, or None where it was ended, with all its children, for its time."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    """End a command and all that it started: asked first, so that a comparison can put its runs away."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def run_kit(steps: Sequence[Step], setting: Setting, out: Path, minutes: float, known: dict) -> dict:
    """Do the steps that are not done, and write the results after each.

    Args:
        steps: The steps, in order.
        setting: How the kit is run.
        out: The folder of the results.
        minutes: The time for all of them.
        known: The machine, and the records of an earlier call.

    Returns:
        The results.
    """
    end = time.monotonic() + 60 * minutes
    (out / "logs").mkdir(parents=True, exist_ok=True)
    for step in steps:
        if known["steps"].get(step.name, {}).get("state") == "done":
            print(f"{step.name}: done already", flush=True)
            continue
        setting.figures_file(step.name).unlink(missing_ok=True)
        left = end - time.monotonic()
        figures = {name: record["figures"] for name, record in known["steps"].items() if record.get("figures")}
        reason = step.skip(setting, figures)
        if known["machine"]["gpu"] is None and not setting.rehearse:
            reason = "no CUDA device was found"
        elif reason is None and left < step.seconds:
            reason = f"it may take {step.seconds} s, and {max(left, 0):.0f} s were left"
        print(f"{step.name}: {reason or step.about}", flush=True)
        record = perform(step, setting, reason, out / "logs" / f"{step.name}.log")
        known["steps"][step.name] = record
        print(f"{step.name}: {record['state']}", flush=True)
        write_json(out / "kit.json", known)
        write_text(out / "kit.md", as_markdown(known))
    return known


def main() -> None:
    """Parse, measure, write.

    Raises:
        SystemExit: With status 1, if a step failed or was out of time; with a message, if an option is wrong.
    """
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--minutes", type=float, default=25, help="time for all steps (default: 25)")
    parser.add_argument("--steps", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--model",
        type=Path,
        default=ROOT / "models" / "SmolLM2-135M-Instruct",
        metavar="FOLDER",
        help="language model of the table of styles (default: models/SmolLM2-135M-Instruct)",
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU")
    options = parser.parse_args()
    out = options.out.absolute()
    setting = Setting(out / "work", options.rehearse, options.model.absolute())
    setting.work.mkdir(parents=True, exist_ok=True)
    found = machine()
    known = {"rehearsal": options.rehearse, "machine": found, "steps": {}}
    if (out / "kit.json").is_file():
        earlier = read_json(out / "kit.json")
        differing = [key for key in ("rehearsal", "machine") if earlier[key] != known[key]]
        if differing:
            parser.error(f"{out} holds results of another {' and '.join(differing)}; choose another --out")
        known = earlier
    chosen = [step for step in STEPS if step.name in options.steps]
    results = run_kit(chosen, setting, out, options.minutes, known)
    print(f"Results: {out / 'kit.md'}, {out / 'kit.json'}")
    if any(results["steps"][step.name]["state"] in ("failed", "out of time") for step in chosen):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
