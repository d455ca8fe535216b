"""The loop over tasks, with a host that a few lines of Python stand in for."""

import json
import sys
import time
from dataclasses import replace

import pytest
import yaml
from script_host import ScriptHost

import sefe_plugin.run.runner as runner
from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.evaluation.report import load_report
from sefe_plugin.evaluation.results import write_predictions
from sefe_plugin.files import read_json, write_json
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import Recipe, load_recipe
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run.ending import read_ending
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.job import TaskFailedError, task_arguments
from sefe_plugin.run.runner import run_sequence
from sefe_plugin.run.steps import SCORED, TRAINED, steps_of


#: What a checked recipe holds.
KEYS = {"cl_method": "reglora", "carry": "merge", "model_name_or_path": "base"}

TASKS = tuple(Task(name, f"{name}_train", f"{name}_test", "short_answer", {}) for name in "ABC")

HOST = """
import json, pathlib, sys, yaml
import numpy as np
from safetensors.numpy import save_file
from sefe_plugin.run.steps import SCORED, record_step
keys = yaml.safe_load(open(sys.argv[1]))
folder = pathlib.Path(keys["output_dir"])
if (folder.parent / "fail").is_file() and folder.name == (folder.parent / "fail").read_text():
    sys.exit(3)
with open(folder.parent / "calls", "a") as calls:
    calls.write(folder.name + "\\n")
if keys["merge_adapter"]:
    (folder / "merged").mkdir()
    (folder / "merged/config.json").write_text("{}")
config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False}
(folder / "adapter_config.json").write_text(json.dumps(config))
key = "base_model.model.q_proj.lora_{}.weight"
save_file({key.format(m): np.ones((2, 2), np.float32) for m in "AB"}, folder / "adapter_model.safetensors")
save_file({"q_proj": np.ones(2, np.uint8)}, folder / "key_elements.safetensors")
names = [test_set["name"] for test_set in keys["test_sets"]]
last = len(names) - 1
scores = {name: {"accuracy": 90.0 - 10 * (last - i), "format": 100.0, "count": 5} for i, name in enumerate(names)}
(folder / "scores.json").write_text(json.dumps(scores))
if keys.get("scoring_backend") != "vllm":
    record_step(folder, SCORED)
"""


class FakeHost(ScriptHost):
    """Writes the keys as YAML and runs the script of `HOST`; merging is another script, which notes its arguments."""

    def merge(self, file, keys, adapter, folder):
        code = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.mkdir(); (p / 'config.json').write_text('{}')"
        return [sys.executable, "-c", code, str(folder)]

    def score(self, file, keys):
        code = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); (p / 'unread.json').rename(p / 'scores.json')"
        return [sys.executable, "-c", code, str(file.parent)]


@pytest.fixture
def run(tmp_path):
    """Runs the sequence and returns the lines it said."""
    script = tmp_path / "host.py"
    script.write_text(HOST)

    def start(tasks=TASKS, accept=False, merge_fails=False, **changes):
        lines = []
        recipe = Recipe("test.yaml", KEYS | changes, tasks, tmp_path / "run", None)
        host = FakeHost(script)
        if merge_fails:
            host.merge = lambda *arguments: [sys.executable, "-c", "raise SystemExit(1)"]
        run_sequence(recipe, host, host_keys(), lines.append, accept)
        return lines

    return start


def test_tasks_run_in_order_and_end_in_a_report(run, tmp_path):
    lines = run()
    folder = tmp_path / "run"
    assert (folder / "calls").read_text().split() == ["1_A", "2_B", "3_C"]
    assert [line.split("|")[1].strip() for line in lines] == ["A 90.0", "A 80.0  B 90.0", "A 70.0  B 80.0  C 90.0"]
    report = read_json(folder / "report.json")
    assert report["tasks"] == ["A", "B", "C"]
    assert report["accuracy_matrix"] == [[90.0, None, None], [80.0, 90.0, None], [70.0, 80.0, 90.0]]
    assert report["mft"] == 90.0
    assert report["mfn"] == 80.0
    assert report["bwt"] == -10.0
    assert (folder / "report.md").is_file()
    assert "the answers of 1_A cannot be shown" in (folder / "report.html").read_text()  # this host leaves none
    assert list(folder.glob("*.png"))


def test_a_report_that_fails_on_the_way_does_not_end_the_run(run, tmp_path, monkeypatch):
    write = runner.write_report

    def write_once_all_is_there(folder, report, *rest):
        if report["num_scored_tasks"] < 3:
            raise ValueError("no such colour")
        write(folder, report, *rest)

    monkeypatch.setattr(runner, "write_report", write_once_all_is_there)
    lines = run()
    failed = [line for line in lines if line.startswith("The report so far could not be written: ValueError: no such")]
    assert len(failed) == 2
    assert load_report(tmp_path / "run")["num_scored_tasks"] == 3


def test_a_report_is_written_while_the_next_task_is_at_work(run, tmp_path, monkeypatch):
    write, seen = runner.write_report, []

    def write_slowly(folder, report, *rest):
        done = report["num_scored_tasks"]
        calls = folder / "calls"
        deadline = time.monotonic() + 60
        while done < 3 and len(calls.read_text().split()) == done and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)  # the task that has begun comes to its end
        seen.append((done, len(calls.read_text().split()), len(read_json(folder / "manifest.json")["complete"])))
        write(folder, report, *rest)

    monkeypatch.setattr(runner, "write_report", write_slowly)
    run()
    # done in the report, begun meanwhile, and complete: nothing becomes complete before it is written
    assert seen == [(1, 2, 1), (2, 3, 2), (3, 3, 3)]


def test_a_run_that_fails_ends_after_the_report_of_the_task_before(run, tmp_path, monkeypatch):
    write = runner.write_report

    def write_slowly(*given):
        time.sleep(2)
        write(*given)

    monkeypatch.setattr(runner, "write_report", write_slowly)
    script = tmp_path / "host.py"
    script.write_text(f"import sys\nif '2_B' in sys.argv[1]: sys.exit(3)\n{script.read_text()}")
    with pytest.raises(TaskFailedError):
        run()
    assert load_report(tmp_path / "run")["num_scored_tasks"] == 1


def test_the_order_of_a_benchmarks_tasks_is_in_the_report(tmp_path):
    folder = tmp_path / "run"
    script = tmp_path / "host.py"
    script.write_text(HOST)
    for order, said in (("reversed", "in the order reversed"), (["C", "B", "A"], "test.yaml: 3 tasks\n")):
        recipe = Recipe("test.yaml", KEYS, TASKS[::-1], folder / str(len(order)), None, order)
        run_sequence(recipe, FakeHost(script), host_keys(), lambda line: None)
        report = read_json(recipe.output_dir / "report.json")
        assert (report["tasks"], report["task_order"]) == (["C", "B", "A"], order)
        assert said in (recipe.output_dir / "report.md").read_text()


def test_test_sets_of_a_benchmark_are_tried_before_the_first_task(tmp_path):
    coin = tmp_path / "coin"
    for task in load_benchmark("coin").tasks:
        (coin / "annotations" / task.name).mkdir(parents=True)
        gold = {"answer": "A", "answer_bbox": "[0, 0, 1, 1]"} if task.name != "VizWiz" else {}
        (coin / "annotations" / task.name / "test.json").write_text(json.dumps([{"text": "Which?", **gold}]))
        (coin / "annotations" / task.name / "train.json").write_text("[]")
    keys = {"benchmark": "coin", "model_name_or_path": "owner/name", "template": "llava", "dataset_dir": str(coin)}
    recipe = load_recipe({**keys, "output_dir": str(tmp_path / "run")}, "test.yaml", host_keys())
    with pytest.raises(RecipeError, match=r"1 of 1 records of 'coin_vizwiz_test' have no gold answer") as caught:
        run_sequence(recipe, FakeHost(tmp_path / "none.py"), host_keys(), lambda line: None)
    assert len(caught.value.errors) == 1


def test_failed_task_keeps_the_complete_ones_and_is_continued(run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    marker = folder / "fail"
    with pytest.raises(TaskFailedError, match="Task B failed with exit status 3"):
        # the marker must not count as a foreign file, so it appears after the manifest
        run_with_marker(run, folder, marker)
    assert [task["name"] for task in read_json(folder / "manifest.json")["complete"]] == ["A"]
    report = read_json(folder / "report.json")
    assert (report["num_scored_tasks"], report["mfn"]) == (1, 90.0)
    assert "Unfinished: 1 of 3 tasks" in (folder / "report.md").read_text()
    ending = read_ending(RunFolder(folder))
    assert ending.failed
    assert ending.said.startswith("Task B failed with exit status 3")
    marker.unlink()
    lines = run()
    assert lines[0].startswith("Continuing after 1 of 3 tasks: A.")
    assert read_ending(RunFolder(folder)) is None
    assert (folder / "calls").read_text().split() == ["1_A", "2_B", "3_C"]


def run_with_marker(run, folder, marker):
    RunFolder(folder).open_run(Recipe("test.yaml", KEYS, TASKS, folder, None).to_dict(), host_keys())
    marker.write_text("2_B")
    run()


def test_finished_run_does_nothing_but_report_again(run, tmp_path):
    run()
    before = (tmp_path / "run" / "report.json").read_bytes()
    assert run() == ["Continuing after 3 of 3 tasks: A, B, C."]
    assert (tmp_path / "run" / "report.json").read_bytes() == before
    assert (tmp_path / "run" / "calls").read_text().count("\n") == 3


def test_finished_run_takes_a_further_task(run, tmp_path):
    run(TASKS[:2])
    lines = run(TASKS)
    assert lines[0] == "Continuing after 2 of 3 tasks: A, B."
    assert (tmp_path / "run" / "calls").read_text().split() == ["1_A", "2_B", "3_C"]
    report = read_json(tmp_path / "run" / "report.json")
    assert report["accuracy_matrix"] == [[90.0, None, None], [80.0, 90.0, None], [70.0, 80.0, 90.0]]


@pytest.fixture
def data(tmp_path):
    """A dataset folder of the three tasks."""
    info = {f"{name}_{split}": {"file_name": f"{name}_{split}.json"} for name in "ABC" for split in ("train", "test")}
    for name in info:
        write_json(tmp_path / "data" / f"{name}.json", [{"text": name}])
    write_json(tmp_path / "data" / "dataset_info.json", info)
    return tmp_path / "data"


def test_changed_data_of_complete_tasks_is_refused_and_accepted_on_purpose(run, data, tmp_path):
    run(TASKS[:2], dataset_dir=str(data))
    before = (tmp_path / "run/2_B/inputs.json").read_bytes()
    write_json(data / "A_train.json", [{"text": "another"}])
    write_json(data / "B_test.json", [])
    RunFolder(tmp_path / "run").task_folder(2, "C").mkdir()
    write_json(tmp_path / "run/3_C/inputs.json", {"C_train": {"for": "training", "size": 1}})
    with pytest.raises(RunFolderError, match="complete tasks that were made of something else") as caught:
        run(TASKS, dataset_dir=str(data))
    assert f"task A: A_train (for training, {data / 'A_train.json'}): it was sha256" in str(caught.value)
    assert "task B: B_test (for test, " in str(caught.value)
    assert "--accept-changed-data" in str(caught.value)
    assert (tmp_path / "run/3_C/inputs.json").is_file()  # nothing is removed by a start that is refused
    assert (tmp_path / "run/2_B/inputs.json").read_bytes() == before
    lines = run(TASKS, accept=True, dataset_dir=str(data))
    assert lines[0].startswith("C starts anew: C_train")
    assert [line.split(":")[0] for line in lines[1:3]] == ["Accepted as changed"] * 2
    assert (tmp_path / "run" / "calls").read_text().split() == ["1_A", "2_B", "3_C"]
    assert run(TASKS, dataset_dir=str(data)) == ["Continuing after 3 of 3 tasks: A, B, C."]


def test_an_unfinished_task_starts_anew_with_other_training_data(run, data, tmp_path):
    (tmp_path / "host.py").write_text(HOST.replace('keys["merge_adapter"]', "False"))
    with pytest.raises(TaskFailedError, match="failed with exit status"):
        run(TASKS[:1], dataset_dir=str(data), merge_fails=True)
    write_json(data / "A_train.json", [{"text": "another"}])
    lines = run(TASKS[:1], dataset_dir=str(data))
    assert lines[0].startswith("A starts anew: A_train (for training")
    assert (tmp_path / "run" / "calls").read_text().split() == ["1_A", "1_A"]


def test_an_unfinished_task_is_only_scored_anew_with_another_test_set(run, data, tmp_path):
    (tmp_path / "host.py").write_text(HOST.replace('keys["merge_adapter"]', "False"))
    with pytest.raises(TaskFailedError, match="failed with exit status"):
        run(TASKS[:1], dataset_dir=str(data), merge_fails=True)
    folder = tmp_path / "run/1_A"
    assert set(steps_of(folder)) == {TRAINED, SCORED}
    (folder / "predictions").mkdir()
    (folder / "scores.json").rename(folder / "unread.json")
    write_json(data / "A_test.json", [{"text": "another"}])
    lines = run(TASKS[:1], dataset_dir=str(data))
    assert lines[0] == "A is scored anew: the test sets have changed."
    assert (tmp_path / "run" / "calls").read_text().split() == ["1_A"]
    assert not (folder / "predictions").exists()


def test_another_scorer_of_a_complete_task_is_taken_without_the_host(run, tmp_path):
    run(TASKS[:2])
    for folder in ("1_A", "2_B"):
        for name in "AB":
            write_predictions(
                tmp_path / "run" / folder, name, [{"answer": "x b-c"}, {"answer": "d"}], ["the x b c", "e"]
            )
    tasks = (replace(TASKS[0], scorer="class_name"), TASKS[1])
    lines = run(tasks)
    assert lines[0] == "Scored the answers of 2 complete tasks again, from their predictions."
    assert (tmp_path / "run" / "calls").read_text().split() == ["1_A", "2_B"]
    assert read_json(tmp_path / "run" / "report.json")["accuracy_matrix"] == [[50.0, None], [50.0, 0.0]]
    with pytest.raises(RunFolderError, match="cannot be scored by 'yes_no': record 1: 'answer' must be yes or no"):
        run((replace(TASKS[0], scorer="yes_no"), TASKS[1]))
    assert read_json(tmp_path / "run" / "report.json")["accuracy_matrix"] == [[50.0, None], [50.0, 0.0]]
    # a further task at the same time
    lines = run((*tasks, TASKS[2]))
    assert "Scored" not in lines[0]
    assert (tmp_path / "run" / "calls").read_text().split() == ["1_A", "2_B", "3_C"]


def test_missing_result_is_no_success(run, tmp_path):
    (tmp_path / "host.py").write_text("")
    with pytest.raises(TaskFailedError, match=r"adapter_config\.json is missing"):
        run()


def test_quantized_base_is_merged_by_another_process(run, tmp_path):
    run(quantization_bit=4)
    for name, base in (("1_A", "base"), ("2_B", str(tmp_path / "run/1_A/merged"))):
        keys = yaml.safe_load((tmp_path / "run" / name / "task.yaml").read_text())
        assert (keys["merge_adapter"], keys["model_name_or_path"]) == (False, base)
        assert (tmp_path / "run" / name / "merged/config.json").is_file()


def test_stacked_adapters_grow_beside_an_untouched_base(run, tmp_path):
    run(carry="stack")
    for index, name in enumerate(("1_A", "2_B", "3_C")):
        folder = tmp_path / "run" / name
        keys = yaml.safe_load((folder / "task.yaml").read_text())
        assert "carry" not in keys
        assert (keys["merge_adapter"], keys["model_name_or_path"]) == (False, "base")
        earlier = [None, str(tmp_path / "run/1_A/stacked"), str(tmp_path / "run/2_B/stacked")][index]
        assert keys.get("stacked_adapter") == earlier
        assert read_json(folder / "stacked/adapter_config.json")["r"] == 2 * (index + 1)
        assert not (folder / "merged").exists()


def test_a_task_is_scored_by_a_command_of_its_own_where_the_recipe_asks_for_it(run, tmp_path):
    (tmp_path / "host.py").write_text(HOST.replace('"scores.json"', '"unread.json"'))
    run(scoring_backend="vllm")
    assert read_json(tmp_path / "run" / "report.json")["mfn"] == 80.0


def test_a_task_with_an_official_rule_names_it(tmp_path):
    tasks = (TASKS[0], Task("B", "b_train", "b_test", "box", {}, "coin:Grounding"))
    first, second = task_arguments(KEYS, tasks, 1, RunFolder(tmp_path))["test_sets"]
    assert first == {"name": "A", "dataset": "A_test", "scorer": "short_answer"}
    assert second == {"name": "B", "dataset": "b_test", "scorer": "box", "official": "coin:Grounding", "own": True}


@pytest.mark.parametrize(
    ("method", "carry", "started"),
    [
        ("lora", "continue", {"model_name_or_path": "base", "adapter_name_or_path": "2_B", "merge_adapter": False}),
        ("lora", "merge", {"model_name_or_path": "2_B/merged", "merge_adapter": True}),
        ("lora", "stack", {"model_name_or_path": "base", "stacked_adapter": "2_B/stacked", "merge_adapter": False}),
        ("full", "replace", {"model_name_or_path": "2_B", "merge_adapter": False}),
    ],
)
def test_a_task_starts_from_what_the_one_before_left(tmp_path, method, carry, started):
    keys = KEYS | {"cl_method": method, "carry": carry}
    first, third = (task_arguments(keys, TASKS, index, RunFolder(tmp_path)) for index in (0, 2))
    ways = ("model_name_or_path", "adapter_name_or_path", "stacked_adapter", "merge_adapter", "carry")
    assert {key: first[key] for key in ways if key in first} == {
        "model_name_or_path": "base",
        "merge_adapter": started["merge_adapter"],
    }
    expected = {key: str(tmp_path / value) if "2_B" in str(value) else value for key, value in started.items()}
    assert {key: third[key] for key in ways if key in third} == expected


def test_arguments_of_a_task(tmp_path):
    folder = RunFolder(tmp_path)
    for index in (0, 1):
        folder.task_folder(index, "AB"[index]).mkdir()
        (folder.task_folder(index, "AB"[index]) / "key_elements.safetensors").touch()
    tasks = (*TASKS[:2], Task("C", "c_train", "c_test", "box", {"learning_rate": 1e-3, "asd_ratio": 0.1}))
    common = KEYS | {"learning_rate": 1e-4, "output_dir": "run"}
    first = task_arguments(common, tasks, 0, folder)
    assert first["model_name_or_path"] == "base"
    assert first["reglora_key_elements"] == []
    third = task_arguments(common, tasks, 2, folder)
    assert third["learning_rate"] == 1e-3
    assert third["asd_ratio"] == 0.1
    assert third["model_name_or_path"] == str(tmp_path / "2_B" / "merged")
    assert third["reglora_key_elements"] == [str(tmp_path / d / "key_elements.safetensors") for d in ("1_A", "2_B")]
    assert [t["name"] for t in third["test_sets"]] == ["A", "B", "C"]
    assert third["output_dir"] == str(tmp_path / "3_C")
    (tmp_path / "2_B" / "key_elements.safetensors").unlink()  # a lost file is named, so that the check finds it
    assert task_arguments(common, tasks, 2, folder) == third
    assert "reglora_key_elements" not in task_arguments(common | {"cl_method": "lora"}, tasks, 2, folder)
    assert json.dumps(third)


def test_a_task_is_told_where_the_earlier_ones_have_kept_their_samples(tmp_path):
    folder = RunFolder(tmp_path)
    keys = {**KEYS, "replay_ratio": 0.1}
    told = [task_arguments(keys, TASKS, index, folder).get("replay_from") for index in range(3)]
    places = [str(tmp_path / place / "kept_samples") for place in ("1_A", "2_B")]
    assert told == [[], places[:1], places]
    assert task_arguments(keys, TASKS, 1, folder)["replay_to"] == places[1]
    assert not {"replay_from", "replay_to"} & task_arguments(KEYS, TASKS, 2, folder).keys()
