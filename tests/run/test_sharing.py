"""Tasks that runs have in common are trained once, and give what they give when every run trains its own."""

import json

import pytest
import yaml
from script_host import ScriptHost, write_three_tasks

from sefe_plugin.files import read_json
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run import sharing
from sefe_plugin.run.runner import run_sequence
from sefe_plugin.run.sharing import SHARED_RUNS, shared_from


#: Trains something that depends on the base, on all keys of training and on the data, and scores it.
HOST = """
import hashlib, json, pathlib, sys, yaml
import numpy as np
from safetensors.numpy import save_file
from sefe_plugin.evaluation.results import write_predictions, write_scores
from sefe_plugin.run.costs import Cost, record_cost
from sefe_plugin.run.steps import SCORED, record_step
keys = yaml.safe_load(open(sys.argv[1]))
folder = pathlib.Path(keys["output_dir"])
with open(folder.parent / "calls", "a") as calls:
    calls.write(folder.name + "\\n")
base = pathlib.Path(keys["model_name_or_path"])
data = pathlib.Path(keys["dataset_dir"])

def score(number):
    for test_set in keys["test_sets"]:
        records = json.loads((data / f"{test_set['dataset']}.json").read_text())
        replies = ["red" if int(number + i) % 2 else "blue" for i in range(len(records))]
        write_predictions(folder, test_set["name"], records, replies)
    write_scores(folder, keys["test_sets"], None)
    record_step(folder, SCORED)

if "cl_method" not in keys:
    score(0)
    sys.exit()
read = [base / "config.json", *base.glob("*.safetensors"), data / f"{keys['dataset']}.json"]
digest = hashlib.sha256(b"".join(file.read_bytes() for file in read))
digest.update(repr((keys["learning_rate"], keys["seed"])).encode())
key = "base_model.model.q_proj.lora_{}.weight"
value = np.frombuffer(digest.digest(), np.uint8).astype(np.float32).reshape(2, 16)
save_file({key.format("A"): value, key.format("B"): value.T.copy()}, folder / "adapter_model.safetensors")
config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False, "base_model_name_or_path": str(base)}
(folder / "adapter_config.json").write_text(json.dumps(config))
(folder / "merged").mkdir()
(folder / "merged/config.json").write_text("{}")
save_file({"weight": value}, folder / "merged/model.safetensors")
record_cost(folder, Cost(7.0, 2, 0, 1.0, 1000, "process"))
if keys["cl_method"] == "reglora":
    save_file({}, folder / "key_elements.safetensors")
score(value.sum())
"""
NAMES = "ABC"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Makes a run of three tasks, and returns the tasks that it has trained."""
    (tmp_path / "host.py").write_text(HOST)
    data = write_three_tasks(tmp_path)

    def run(out, name, changes=None, overrides=None, is_sharing=True):
        out.mkdir(exist_ok=True)
        monkeypatch.setenv(SHARED_RUNS, str(out)) if is_sharing else monkeypatch.delenv(SHARED_RUNS, raising=False)
        keys = {"cl_method": "lora", "carry": "merge", "model_name_or_path": str(tmp_path / "base"), "seed": 1}
        keys |= {"dataset_dir": str(data), "learning_rate": 0.1, **(changes or {})}
        tasks = tuple(
            Task(task, f"{task}_train", f"{task}_test", "short_answer", (overrides or {}).get(task, {}))
            for task in NAMES
        )
        recipe = Recipe("test.yaml", keys, tasks, out / name, None)
        lines = []
        run_sequence(recipe, ScriptHost(tmp_path / "host.py"), host_keys(), lines.append)
        calls = out / name / "calls"
        return "".join(line[2:] for line in calls.read_text().split()) if calls.is_file() else "", lines

    return run


#: Arms that agree in all tasks, in the first two, in the first, and in none.
ARMS = {
    "first": ({}, {}),
    "last": ({}, {"C": {"learning_rate": 0.3}}),
    "second": ({}, {"B": {"learning_rate": 0.2}}),
    "none": ({"seed": 2}, {}),
}


def results(run):
    """Return what a run has found and learned, by file, with its own place in it by another name."""
    files = [*run.glob("*/predictions/*"), *run.glob("*/scores.json")]
    files += [*run.glob("*/*.safetensors"), *run.glob("*/merged/*"), *run.glob("*/adapter_config.json")]
    files += [*run.glob("*/cost.json"), *run.glob("*/task.yaml"), *run.glob("*/steps.json")]
    return {file.relative_to(run).as_posix(): file.read_bytes().replace(str(run).encode(), b"RUN") for file in files}


def test_arms_share_the_tasks_before_they_differ_and_find_the_same(start, tmp_path):
    trained = {name: start(tmp_path / "shared", name, *arm)[0] for name, arm in ARMS.items()}
    assert trained == {"first": "ABC", "last": "C", "second": "BC", "none": "ABC"}
    for name, arm in ARMS.items():
        assert start(tmp_path / "apart", name, *arm, is_sharing=False)[0] == "ABC"
        expected, found = (results(tmp_path / place / name) for place in ("apart", "shared"))
        assert len(expected) == 6 + 3 * 8
        assert found == expected
        reports = [read_json(tmp_path / place / name / "report.json") for place in ("apart", "shared")]
        assert all(report.pop("ledger") for report in reports)  # where each run's own time went
        assert reports[0] == reports[1]
    assert not list((tmp_path / "apart").rglob("identity.json"))
    assert shared_from(tmp_path / "shared/last") == {"A": "first", "B": "first"}
    assert shared_from(tmp_path / "shared/second") == {"A": "first"}
    assert shared_from(tmp_path / "shared/first") == shared_from(tmp_path / "apart/last") == {}
    # the time of a shared task is that of its training
    manifests = [read_json(tmp_path / "shared" / name / "manifest.json") for name in ("first", "last")]
    first, last = ([task["seconds"] for task in manifest["complete"]] for manifest in manifests)
    assert first[:2] == last[:2]
    weights = [tmp_path / "shared" / name / "1_A/merged/model.safetensors" for name in ("first", "last")]
    assert weights[0].samefile(weights[1])
    inputs = read_json(tmp_path / "shared/last/1_A/inputs.json")
    assert inputs == read_json(tmp_path / "shared/first/1_A/inputs.json")


def test_a_shared_task_is_said_and_a_chain_names_who_trained_it(start, tmp_path):
    start(tmp_path / "out", "a")
    assert start(tmp_path / "out", "b")[0] == ""
    (tmp_path / "out/a").rename(tmp_path / "elsewhere")
    trained, lines = start(tmp_path / "out", "c")
    assert trained == ""
    assert lines[0].endswith("trained by a, and taken from there")
    assert shared_from(tmp_path / "out/c") == dict.fromkeys(NAMES, "a")


def test_arms_of_two_methods_share_the_scores_of_the_base(start, tmp_path):
    keys = {"score_unseen": True}
    regularised = {"cl_method": "reglora", "reglora_weight": 100.0}
    assert start(tmp_path / "out", "a", keys)[0] == "baseABC"
    trained, lines = start(tmp_path / "out", "b", keys | regularised)
    assert trained == "ABC"
    assert lines[0].endswith("scored by a, and taken from there")
    assert start(tmp_path / "apart", "b", keys | regularised, is_sharing=False)[0] == "baseABC"
    found, expected = (results(tmp_path / place / "b") for place in ("out", "apart"))
    assert found == expected
    assert {"0_base/scores.json", "0_base/predictions/C.jsonl", "0_base/steps.json"} <= found.keys()
    scores = [read_json(tmp_path / place / "b" / "report.json")["zero_shot"] for place in ("out", "apart")]
    assert scores[0] == scores[1]
    (tmp_path / "out/a").rename(tmp_path / "elsewhere")
    assert start(tmp_path / "out", "c", keys | {"seed": 2})[0] == "baseABC"
    assert start(tmp_path / "out", "d", keys)[1][0].endswith("scored by a, and taken from there")


def test_a_base_that_is_not_whole_is_not_taken(start, tmp_path):
    start(tmp_path / "out", "a", {"score_unseen": True})
    (tmp_path / "out/a/0_base/steps.json").unlink()
    assert start(tmp_path / "out", "b", {"score_unseen": True})[0] == "base"  # the tasks are whole


@pytest.mark.parametrize("name", ["A_train", "A_test"])
def test_other_data_shares_nothing(start, tmp_path, name):
    start(tmp_path / "out", "a")
    file = tmp_path / "data" / f"{name}.json"
    file.write_text(json.dumps([{"text": "another", "answer": "red"}]))
    assert start(tmp_path / "out", "b")[0] == "ABC"


def test_another_base_shares_nothing(start, tmp_path):
    start(tmp_path / "out", "a")
    (tmp_path / "base/config.json").write_text('{"other": 1}')
    assert start(tmp_path / "out", "b")[0] == "ABC"


def test_other_versions_share_nothing(start, tmp_path, monkeypatch):
    start(tmp_path / "out", "a")
    monkeypatch.setattr(sharing, "installed_versions", lambda: {"torch": "0"})
    assert start(tmp_path / "out", "b")[0] == "ABC"


def test_another_test_set_of_a_later_task_counts_where_it_is_scored(start, tmp_path):
    """A task that is answered before it is learned has answers in the folders of earlier ones."""
    start(tmp_path / "out", "a")
    (tmp_path / "data/C_test.json").write_text(json.dumps([{"text": "another", "answer": "red"}]))
    assert start(tmp_path / "out", "b")[0] == "C"


def test_a_model_that_is_gone_is_not_shared(start, tmp_path):
    start(tmp_path / "out", "a", {"keep_merged": "last"})
    assert start(tmp_path / "out", "b", {"keep_merged": "last"})[0] == "ABC"
    # the model of the last task is there; but it goes on from others than those that this run has trained
    assert (tmp_path / "out/a/3_C/merged").exists()
    assert not (tmp_path / "out/a/1_A/merged").exists()


def test_a_task_that_has_begun_goes_on_where_it_was(start, tmp_path):
    start(tmp_path / "out", "a")
    started, _ = start(tmp_path / "out", "b", {}, {"A": {"learning_rate": 0.5}})
    assert started == "ABC"
    # continued without sharing, or without what it needs to know of the tasks before, it trains
    (tmp_path / "out/b/1_A/identity.json").unlink()
    manifest = read_json(tmp_path / "out/b/manifest.json")
    manifest["complete"] = manifest["complete"][:1]
    (tmp_path / "out/b/manifest.json").write_text(json.dumps(manifest))
    for task in ("2_B", "3_C"):
        (tmp_path / "out/b" / task / "steps.json").unlink()
    assert start(tmp_path / "out", "b", {}, {"A": {"learning_rate": 0.5}})[0] == "ABCBC"


def test_files_of_the_copy_lead_into_its_own_run(start, tmp_path):
    start(tmp_path / "out", "a")
    start(tmp_path / "out", "a_b", {}, {"C": {"learning_rate": 0.3}})
    own = tmp_path / "out/a_b"
    assert yaml.safe_load((own / "2_B/task.yaml").read_text())["model_name_or_path"] == str(own / "1_A/merged")
    assert read_json(own / "2_B/adapter_config.json")["base_model_name_or_path"] == str(own / "1_A/merged")
    assert yaml.safe_load((own / "2_B/task.yaml").read_text())["output_dir"] == str(own / "2_B")


def test_a_place_with_blanks_shares_nothing(start, tmp_path):
    start(tmp_path / "two words", "a")
    assert start(tmp_path / "two words", "b")[0] == "ABC"
