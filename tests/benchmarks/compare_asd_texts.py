"""Mini-CoIN with ASD's texts made by rule against texts written by a model, the one that learned each task.

    llamafactory-cli train recipes/minicoin_lora_asd.yaml output_dir=runs/rules
    python tests/benchmarks/compare_asd_texts.py runs/rules --out runs/texts
    sefe report runs/rules runs/texts/run

The first run's merged model of a task writes the brief and detailed explanations of that task's rewritten samples
(`sefe asd build --generator llamafactory`); what it cannot write falls back to rules. Yes/no and multiple-choice items
come from rules in both. The second run differs from the first in these texts alone.
"""

import argparse
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import yaml

from sefe_plugin.files import read_json, shipped_folder, write_json, write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules_run", type=Path, help="finished run folder of minicoin_lora_asd.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder for the data and the second run; must be new")
    options = parser.parse_args()
    run, out = options.rules_run.absolute(), options.out.absolute()
    out.mkdir(parents=True)

    templates = out / "templates"
    shutil.copytree(shipped_folder("data_templates") / "asd", templates)
    write_text(templates / "tasks.yaml", "small: {kind: plain, replies: plain}\n")
    manifest = read_json(run / "manifest.json")
    recipe = {key: value for key, value in manifest["recipe"].items() if key not in ("benchmark", "asd_ratio")}
    info = read_json(run / "data" / "dataset_info.json")
    for done in manifest["complete"]:
        task = next(task for task in recipe["tasks"] if task["name"] == done["name"])
        chat = {key: recipe[key] for key in ("template", "default_system")}
        chat |= {"model_name_or_path": str(run / done["folder"] / "merged"), "max_new_tokens": 48}
        write_text(out / f"{task['name']}.yaml", yaml.safe_dump(chat))
        file = out / f"{task['name']}.json"
        keys = {
            "dataset": task["dataset"],
            "dataset_dir": run / "data",
            "out": file,
            "ratio": manifest["recipe"]["asd_ratio"],
            "seed": recipe["seed"],
            "task": "small",
            "templates": templates,
            "generator": "llamafactory",
            "config": out / f"{task['name']}.yaml",
        }
        command("sefe", "asd", "build", *(part for key, value in keys.items() for part in (f"--{key}", value)))
        info[task["dataset"]]["file_name"] = str(file)
        info[task["test_dataset"]]["file_name"] = str(run / "data" / info[task["test_dataset"]]["file_name"])
    write_json(out / "data" / "dataset_info.json", info)
    recipe |= {"dataset_dir": str(out / "data"), "media_dir": str(run / "data"), "output_dir": str(out / "run")}
    write_text(out / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False))
    command("llamafactory-cli", "train", out / "recipe.yaml")


def command(name: str, *arguments) -> None:
    program = Path(sysconfig.get_paths()["scripts"]) / name
    result = subprocess.run([program, *map(str, arguments)], check=False)
    if result.returncode:
        sys.exit(f"{name} failed with exit status {result.returncode}")


if __name__ == "__main__":
    main()
