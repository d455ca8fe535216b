"""Through `llamafactory-cli train`: a task that is only trained, one that is answered and not scored, a plain one."""

import json

import yaml

from sefe_plugin.evaluation.report import load_report
from sefe_plugin.json_lines import read_json_lines
from sefe_plugin.run.rescoring import rescore_run
from sefe_plugin.run.steps import CARRIED, SCORED, TRAINED, steps_of
from sefe_plugin.run.verify import verify_run


SHORT = {"max_samples": 16, "max_steps": 2, "max_new_tokens": 8, "gradient_accumulation_steps": 1}


def test_a_sequence_with_scores_for_one_task(train, small_recipe, tmp_path):
    file = small_recipe(tmp_path, 3, cl_method="lora", max_test_samples=5, **SHORT)
    keys = yaml.safe_load(file.read_text())
    first, second, third = keys["tasks"]
    first["dataset"] = [first["dataset"], second["dataset"]]
    first["asd_ratio"] = 0  # letters and words
    del first["test_dataset"], first["scorer"]
    second |= {"scorer": "none", "max_test_samples": 3}
    file.write_text(yaml.safe_dump(keys))
    result = train(file)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    folder = tmp_path / "run"
    places = [folder / f"{index}_{task['name']}" for index, task in enumerate(keys["tasks"], start=1)]
    assert [sorted(steps_of(place)) for place in places] == [sorted([TRAINED, SCORED, CARRIED])] * 3
    # its two datasets give up to 16 samples each, as in the host
    assert json.loads((places[0] / "all_results.json").read_text())["epoch"] == 0.5
    assert not (places[0] / "predictions").exists()
    counts = {
        (place.name[0], file.stem): len(read_json_lines(file))
        for place in places
        for file in sorted((place / "predictions").glob("*.jsonl"))
    }
    assert counts == {("2", second["name"]): 3, ("3", second["name"]): 3, ("3", third["name"]): 5}
    report = load_report(folder)
    assert report["unscored"] == [first["name"], second["name"]]
    assert report["mft"] == report["mfn"] == report["accuracy_matrix"][2][2]
    assert [line["dataset"] for line in read_json_lines(places[1] / "asd.jsonl")] == [second["dataset"]] * 3
    findings = list(verify_run(folder, lambda keys, place: iter(())))
    assert all(finding.state for finding in findings), findings
    scored = rescore_run(folder, {second["name"]: "text_vqa"})
    assert scored["unscored"] == [first["name"]]
    assert None not in (scored["accuracy_matrix"][1][1], scored["accuracy_matrix"][2][1])
