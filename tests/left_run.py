"""A finished run of two tasks, written without training; light, because processes of stand-ins load it."""

from pathlib import Path

from sefe_plugin.evaluation.report_data import build_report
from sefe_plugin.files import write_json
from sefe_plugin.run.costs import Cost, record_cost


def leave_run(out: Path, seed: int, better: bool, **cost) -> None:
    """Write what a finished run of two tasks leaves.

    The `better` one is 10 + seed points better on the first task at the end, and takes twice the time.
    """
    gain = 10 + seed if better else 0
    report = build_report(["A", "B"], [[80, None], [40 + gain, 70]], [[100, None], [90, 100]])
    complete = []
    for number, name in enumerate("AB", start=1):
        folder = out / f"{number}_{name}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(bytes(1000 * number))
        record_cost(folder, Cost(**{**usual_cost(better, number), **cost}))
        complete.append({"name": name, "folder": folder.name, "seconds": 2.0})
    recipe = {"cl_method": "lora", "carry": "merge", "tasks": [{"name": "A"}, {"name": "B"}]}
    write_json(out / "report.json", report)
    write_json(out / "manifest.json", {"version": 2, "recipe": recipe, "complete": complete})


def usual_cost(better: bool, number: int) -> dict:
    return {
        "seconds": 60.0 * (1 + better),
        "steps": 10 * number,
        "steps_before": 0,
        "step_seconds": 0.5 * number,
        "peak_memory": 10**9 * (number + better),
        "memory_of": "process",
    }
