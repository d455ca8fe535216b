"""A finished run with answers, pictures and costs, written without training."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml
from PIL import Image

from sefe_plugin.evaluation.results import write_predictions, write_scores
from sefe_plugin.files import write_json
from sefe_plugin.run.costs import Cost, record_cost
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.stages import scored_after, stage_name, stages_of
from sefe_plugin.run.steps import CARRIED, SCORED, TRAINED, record_step


#: From the number of a stage and the name of a test set to the answers given there.
Answers = Callable[[int, str], Sequence[str]]


def leave_answers(
    out: Path, tasks: Mapping[str, str], records: Mapping[str, Sequence[dict]], answers: Answers, **keys
) -> RunFolder:
    """Write a run folder and its data, without a report.

    Args:
        out: The run folder; its data lies in `<out>_data`.
        tasks: Name -> scorer.
        records: Name of a task or retention set -> test records with `text`, `answer` and, maybe, `image`.
        answers: What the model answered.
        keys: Further keys of the recipe; `retention_sets` as pairs of name and scorer.
    """
    data = out.with_name(f"{out.name}_data")
    columns = {"prompt": "text", "response": "answer", "images": "image"}
    write_json(data / "dataset_info.json", {f"{name}_test": {"columns": columns} for name in records})
    retention = [{"name": n, "dataset": f"{n}_test", "scorer": s} for n, s in keys.pop("retention_sets", ())]
    recipe = {
        "cl_method": "lora",
        "carry": "merge",
        **keys,
        **({"retention_sets": retention} if retention else {}),
        "tasks": [{"name": name, "test_dataset": f"{name}_test", "scorer": scorer} for name, scorer in tasks.items()],
    }
    folder = RunFolder(out)
    complete = []
    for stage in stages_of(recipe):
        place = folder.task_folder(stage, stage_name(recipe, stage))
        sets = scored_after(recipe, stage)
        for one in sets:
            write_predictions(place, one["name"], records[one["name"]], answers(stage, one["name"]))
        write_scores(place, sets, None)
        (place / "task.yaml").write_text(yaml.safe_dump({"dataset_dir": str(data), "test_sets": sets}))
        for step in (TRAINED, SCORED, CARRIED):
            record_step(place, step)
        if stage >= 0:
            record_cost(place, Cost(60.0, 10, 0, 0.5, 2 * 10**9, "process"))
            complete.append({"name": recipe["tasks"][stage]["name"], "folder": place.name, "seconds": 90.0})
    folder.complete_task(recipe, complete)
    return folder


def draw_pictures(folder: Path, count: int, size: tuple[int, int] = (64, 48), ending: str = "png") -> list[str]:
    """Write pictures of coarse noise, and return their names; each is another one."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.{ending}" for number in range(count)]
    for number, name in enumerate(names):
        noise = Image.frombytes("RGB", (8, 6), random.Random(number).randbytes(8 * 6 * 3))
        noise.resize(size).save(folder / name)
    return names
