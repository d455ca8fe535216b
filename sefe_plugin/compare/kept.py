"""What a comparison keeps of a finished run: all that its page needs, in one small file.

Example: ``results/lora_42.json`` of the folder of a comparison. With it and its entry in `runs.json`, a run counts as
finished although its own folder is gone, or lies on another machine.
"""

import statistics
from pathlib import Path
from typing import Any

from sefe_plugin.evaluation.report import REPORT_FILE, load_report
from sefe_plugin.files import read_json, write_json
from sefe_plugin.methods import methods
from sefe_plugin.run.costs import Cost, bytes_left, read_costs
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.inputs import INPUTS_FILE, TEST, Inputs, essence, read_inputs
from sefe_plugin.run.sharing import shared_from


RESULTS_FOLDER = "results"


def result_file(out: Path, name: str) -> Path:
    """Return where the comparison in `out` keeps what the run called `name` is worth."""
    return out / RESULTS_FOLDER / f"{name}.json"


def keep_result(out: Path, name: str) -> dict[str, Any]:
    """Return what a finished run is worth, and keep it; where the run's folder is gone, return what was kept.

    Args:
        out: The folder of the comparison.
        name: The run's.

    Returns:
        "report"; "costs" and "memory_of" as `run_costs` returns them; "shared_from", its tasks that another run has
        trained; "test_sets", the records of the files that it was scored on, without their places.
    """
    run, file = out / name, result_file(out, name)
    if not (run / REPORT_FILE).is_file():
        return read_json(file)
    costs, memory_of = run_costs(run)
    content = {
        "report": load_report(run),
        "costs": costs,
        "memory_of": memory_of,
        "shared_from": shared_from(run),
        "test_sets": {key: {"for": TEST, **essence(record)} for key, record in test_sets(out, name).items()},
    }
    file.parent.mkdir(exist_ok=True)
    write_json(file, content)
    return content


def test_sets(out: Path, name: str) -> Inputs:
    """Return the records of the files that a run was scored on, as far as it has any.

    Args:
        out: The folder of the comparison.
        name: The run's; its own folder may be gone.
    """
    run, file = out / name, result_file(out, name)
    if not run.is_dir():
        return read_json(file)["test_sets"] if file.is_file() else {}
    return {
        key: {**record, "accepted": None}
        for of_task in sorted(run.glob(f"*/{INPUTS_FILE}"))
        for key, record in read_inputs(of_task.parent).items()
        if record["for"] == TEST and "entry" not in record
    }


def run_costs(run: Path) -> tuple[dict[str, float | None], str | None]:
    """Return what a finished run took, and what its peak memory is of.

    Args:
        run: Its folder.

    Returns:
        `COSTS`: "training", the minutes of all trainings of all tasks; "step", the mean seconds of an optimizer step;
        "memory", the most of any training, in GB; "left", the mean over tasks of what each leaves for later ones, in
        MB. The first three are None where a training has no record of them, those of a task's phases too; "training"
        and "memory" also where one was stopped and continued, because what was until then is not known.
    """
    folder = RunFolder(run)
    recipe = folder.read_manifest()["recipe"]
    places = [folder.task_folder(index, task["name"]) for index, task in enumerate(recipe["tasks"])]
    method = methods()[recipe["cl_method"]]
    left = statistics.fmean(bytes_left(place, method.file) for place in places) / 1e6
    keys = [{**recipe, **task, "output_dir": str(place)} for task, place in zip(recipe["tasks"], places, strict=True)]
    trainings = sum(len(method.phases(of_task)) for of_task in keys)
    costs: list[Cost] = [cost for place in places for cost in read_costs(place)]
    kinds = {cost.memory_of for cost in costs}
    if len(costs) != trainings or len(kinds) != 1:
        return {"training": None, "step": None, "memory": None, "left": left}, None
    steps = sum(cost.steps for cost in costs)
    continued = any(cost.steps_before for cost in costs)
    values = {
        "training": None if continued else sum(cost.seconds for cost in costs) / 60,
        "step": sum(cost.step_seconds * cost.steps for cost in costs) / steps if steps else None,
        "memory": None if continued else max(cost.peak_memory for cost in costs) / 1e9,
        "left": left,
    }
    return values, kinds.pop()
