"""Where the time of a run went: recorded process by process, kept when it goes on, summed in the report."""

import json
import sys
import time

import pytest
import script_host
import yaml

from sefe_plugin.cli import main
from sefe_plugin.evaluation.ledger import PHASES, ledger, phase_table, run_table, task_table
from sefe_plugin.evaluation.report_text import format_ledgers, format_report
from sefe_plugin.files import read_json
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run.costs import bytes_written_by_process
from sefe_plugin.run.job import TaskFailedError
from sefe_plugin.run.ledger import LEDGER_FILE, read_ledger, read_processes, record_process, record_stopped
from sefe_plugin.run.process import spawn
from sefe_plugin.run.progress import CARRYING, DATA, LOADING, PREPARING, SCORING, TRAINING, Phase, ProgressFile, Usage
from sefe_plugin.run.records import RunFolderError
from sefe_plugin.run.runner import run_sequence


TASKS = tuple(Task(name, f"{name}_train", f"{name}_test", "short_answer", {}) for name in "AB")

#: A task whose process is killed in its second step, if it is the one that is to be stopped.
HOST = """
import json, os, pathlib, signal, sys, time, yaml
import numpy as np
from safetensors.numpy import save_file
from sefe_plugin.run.progress import DATA, LOADING, SCORING, TRAINING, ProgressFile, Usage
from sefe_plugin.run.steps import CARRIED, SCORED, TRAINED, record_step
keys = yaml.safe_load(open(sys.argv[1]))
folder = pathlib.Path(keys["output_dir"])
written = iter(range(1000, 10**6, 1000))
progress = ProgressFile(folder, lambda: Usage(5 * 10**9, None, next(written)))
progress.go_on()
progress.begin(LOADING)
progress.begin(DATA)
progress.count(64)
progress.begin(TRAINING, total=8, samples=64)
progress.count(1)
time.sleep(0.05)
progress.count(2)
if sys.argv[2] == folder.name:
    progress._write()
    os.kill(os.getpid(), signal.SIGKILL)
progress.note(64, None)
progress.count(8)
progress.begin(SCORING, total=4)
progress.count(4)
(folder / "merged").mkdir()
(folder / "merged/config.json").write_text("{}")
config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False}
(folder / "adapter_config.json").write_text(json.dumps(config))
key = "base_model.model.q_proj.lora_{}.weight"
save_file({key.format(m): np.ones((2, 2), np.float32) for m in "AB"}, folder / "adapter_model.safetensors")
scores = {one["name"]: {"accuracy": 90.0, "format": 100.0, "count": 5} for one in keys["test_sets"]}
(folder / "scores.json").write_text(json.dumps(scores))
for step in (TRAINED, SCORED, CARRIED):
    record_step(folder, step)
progress.end()
"""


class ScriptHost:
    """Has the script train a task."""

    start = staticmethod(spawn)

    def __init__(self, script, stop):
        self.script, self.stop = script, stop

    def train(self, file, keys):
        file.write_text(yaml.safe_dump(dict(keys)))
        return [script_host.PYTHON, str(self.script), str(file), self.stop]


@pytest.fixture
def run(tmp_path):
    """Runs the sequence, or goes on with it; returns its report."""
    script = tmp_path / "host.py"
    script.write_text(HOST)
    keys = {"cl_method": "lora", "carry": "merge", "model_name_or_path": "base"}

    def start(stop="none", began=None):
        recipe = Recipe("test.yaml", keys, TASKS, tmp_path / "run", None)
        return run_sequence(recipe, ScriptHost(script, stop), host_keys(), [].append, began=began)

    return start


def by_phase(entry):
    return {phase["phase"]: phase for phase in entry["phases"]}


def test_a_run_says_where_its_time_went(run, tmp_path):
    report = run()
    found = report["ledger"]
    assert [task["task"] for task in found["tasks"]] == ["A", "B"]
    for task, complete in zip(found["tasks"], read_json(tmp_path / "run/manifest.json")["complete"], strict=True):
        phases = by_phase(task)
        assert list(phases) == ["start-up", "data", "model", "training", "scoring", "rest"]
        # every second of the task is in one of them, and none in two
        assert task["seconds"] == pytest.approx(complete["seconds"], abs=0.1)
        assert task["seconds"] == pytest.approx(sum(phase["seconds"] for phase in phases.values()), abs=0.01)
        assert task["besides"] == pytest.approx(100 - 100 * phases["training"]["seconds"] / task["seconds"], abs=0.01)
        assert phases["start-up"]["seconds"] > 0.05  # Python starts, and imports numpy
        assert phases["training"]["seconds"] >= 0.05
        assert (phases["training"]["count"], phases["training"]["unit"]) == (64, "samples")
        assert 0 < phases["training"]["per_second"] <= 64 / 0.05
        assert (phases["scoring"]["count"], phases["scoring"]["unit"]) == (4, "answers")
        assert phases["data"]["count"] == 64
        assert {phases[name]["written"] for name in ("start-up", "data", "model", "training")} == {1000}
        assert phases["training"]["peak_memory"] == 5 * 10**9
        assert "device_memory" not in phases["training"]
    together = by_phase(found)
    for name, phase in by_phase(found["tasks"][0]).items():
        assert together[name]["seconds"] == pytest.approx(
            phase["seconds"] + by_phase(found["tasks"][1])[name]["seconds"], abs=0.002
        )
    assert together["training"]["count"] == 128
    assert together["training"]["written"] == 2000
    assert together["training"]["peak_memory"] == 5 * 10**9
    assert read_json(tmp_path / "run/report.json")["ledger"] == found
    assert "## Where the time went" in (tmp_path / "run/report.md").read_text()
    assert "Where the time went" in (tmp_path / "run/report.html").read_text()
    assert not list((tmp_path / "run").rglob("progress.json"))


def test_a_continued_run_keeps_the_figures_and_adds_what_was_stopped(run, tmp_path):
    with pytest.raises(TaskFailedError, match="SIGKILL"):
        run(stop="2_B")
    first = (tmp_path / "run/1_A" / LEDGER_FILE).read_bytes()
    assert not (tmp_path / "run/2_B" / LEDGER_FILE).exists()
    found = run()["ledger"]["tasks"]
    assert (tmp_path / "run/1_A" / LEDGER_FILE).read_bytes() == first
    stopped, whole, _ = read_processes(tmp_path / "run/2_B")
    assert [entry["phase"] for entry in stopped["phases"]] == ["start-up", "model", "data", "training"]
    assert stopped["phases"][-1]["seconds"] >= 0.05
    assert [entry["phase"] for entry in whole["phases"]] == [
        *("start-up", "model", "data", "training", "scoring", "rest")
    ]
    training = by_phase(found[1])["training"]
    own = whole["phases"][3]["seconds"]
    assert training["seconds"] == pytest.approx(stopped["phases"][-1]["seconds"] + own, abs=0.002)
    # the rate is that of the process whose samples are known
    assert training["per_second"] == pytest.approx(64 / own, rel=0.01)
    before = (tmp_path / "run/report.json").read_bytes()
    run()
    assert (tmp_path / "run/report.json").read_bytes() == before


def test_what_came_before_the_first_task_of_a_command_counts_with_it(run, tmp_path):
    first = time.time()
    with pytest.raises(TaskFailedError, match="SIGKILL"):
        run(stop="2_B", began=first - 70)
    second = time.time()
    found = run(began=second - 50)["ledger"]
    checks = [by_phase(task)["checks"]["seconds"] for task in found["tasks"]]
    assert 70 <= checks[0] < 70 + second - first
    assert 50 <= checks[1] < 50 + time.time() - second
    assert by_phase(found)["checks"]["seconds"] == pytest.approx(sum(checks), abs=0.002)
    # all of the second command's time is that of the task that it trained, but for the stopped process before
    stopped, *own = read_processes(tmp_path / "run/2_B")
    assert "checks" not in [entry["phase"] for entry in stopped["phases"]]
    spent = sum(entry["seconds"] for process in own for entry in process["phases"])
    recorded = (tmp_path / "run/2_B" / LEDGER_FILE).stat().st_mtime
    assert spent == pytest.approx(recorded - second + 50, abs=0.1)


def phases_of(began: float) -> list[Phase]:
    """Start-up of 2 s, training of 6 s, an end that nobody has said."""
    return [
        Phase(PREPARING, began, began + 2),
        Phase(TRAINING, began + 2, began + 8, before=4, done=8, total=8, samples=64, trained=48, tokens=600),
    ]


def test_a_process_is_recorded_once(tmp_path):
    record_process(tmp_path, phases_of(100.0), ended=109.0)
    record_process(tmp_path, phases_of(200.0), ended=208.0)
    entries = read_ledger(tmp_path)
    assert [(entry["phase"], entry["seconds"]) for entry in entries] == [
        *(("start-up", 2.0), ("training", 6.0), ("rest", 1.0)),
        *(("start-up", 2.0), ("training", 6.0), ("rest", 0.0)),
    ]
    assert ledger([("A", entries)])["tasks"][0]["phases"][1] == {
        **{"phase": "training", "seconds": 12.0, "count": 96, "unit": "samples", "per_second": 8.0},
        **{"tokens": 1200, "tokens_per_second": 100.0},
    }
    # what a process has left of its progress is that which is recorded already
    (tmp_path / "progress.json").write_text(json.dumps([phase._asdict() for phase in phases_of(200.0)]))
    before = (tmp_path / LEDGER_FILE).read_bytes()
    record_stopped(tmp_path)
    assert (tmp_path / LEDGER_FILE).read_bytes() == before
    # and that of a phase of a method, in a folder of its own, is of this task too
    (tmp_path / "calibrate").mkdir()
    (tmp_path / "calibrate/progress.json").write_text(json.dumps([phase._asdict() for phase in phases_of(300.0)]))
    record_stopped(tmp_path)
    assert [process["began"] for process in read_processes(tmp_path)] == [100.0, 200.0, 300.0]


def test_a_clock_that_was_set_back_takes_no_time_away(tmp_path):
    record_process(tmp_path, [Phase(SCORING, 100.0, 90.0), Phase(CARRYING, 90.0, 95.0)], ended=80.0)
    assert [entry["seconds"] for entry in read_ledger(tmp_path)] == [0.0, 5.0, 0.0]


@pytest.mark.parametrize(
    "content",
    [
        {},
        [{"began": 1.0}],
        [{"began": 1.0, "phases": [{"phase": "sleeping", "seconds": 1.0}]}],
        [{"began": 1.0, "phases": [{"phase": "training", "seconds": -1.0}]}],
        [{"began": 1.0, "phases": [{"phase": "training", "seconds": 1.0, "written": "much"}]}],
        [{"began": 1.0, "phases": [{"phase": "training", "seconds": 1.0, "count": 5}]}],
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / LEDGER_FILE).write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match=r"ledger\.json is damaged"):
        read_ledger(tmp_path)


def test_runs_made_before_have_none(run, tmp_path, capsys):
    run()
    for file in (tmp_path / "run").rglob(LEDGER_FILE):
        file.unlink()
    report = run()
    assert "ledger" not in report
    assert "Where the time went" not in format_report(report, "run")
    assert format_ledgers({"run": report}) == ""
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run"), str(tmp_path / "run")]) == 0
    assert "Where the time went" not in capsys.readouterr().out


def test_what_a_process_uses_is_told_phase_by_phase(tmp_path):
    used = iter([Usage(10, None, 100), Usage(30, 7, 150), Usage(30, 7, None)])
    progress = ProgressFile(tmp_path, lambda: next(used))
    progress.begin(LOADING)
    progress.begin(DATA)
    progress.begin(TRAINING)
    progress.end()
    content = read_json(tmp_path / "progress.json")
    assert [(phase["memory"], phase["device_memory"], phase["written"]) for phase in content] == [
        *((10, None, 100), (30, 7, 50), (30, 7, None))
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what a process has written")
def test_bytes_that_a_process_has_written_are_counted(tmp_path):
    before = bytes_written_by_process()
    (tmp_path / "file").write_bytes(bytes(10**6))
    assert 10**6 <= bytes_written_by_process() - before < 2 * 10**6


def entry(phase: str, seconds: float, **more) -> dict:
    return {"phase": phase, "seconds": seconds, **more}


FIRST = ledger(
    [
        ("base", [entry("start-up", 5.0), entry("scoring", 5.0, count=20, unit="answers", peak_memory=10**9)]),
        (
            "A",
            [
                entry("start-up", 10.0),
                entry("training", 30.0, count=600, unit="samples", device_memory=3 * 10**9, written=5 * 10**6),
            ],
        ),
    ]
)


def test_the_base_trains_nothing_and_counts_in_the_sum():
    assert [(one["seconds"], one["besides"]) for one in FIRST["tasks"]] == [(10.0, None), (40.0, 25.0)]
    assert (FIRST["seconds"], FIRST["besides"]) == (50.0, 40.0)
    assert task_table(FIRST) == (
        ["task", "start-up", "training", "scoring", "all", "besides, %"],
        [
            ["base", "5.00", "-", "5.00", "10.00", "-"],
            ["A", "10.00", "30.00", "-", "40.00", "25.00"],
            ["all tasks", "15.00", "30.00", "5.00", "50.00", "40.00"],
        ],
    )


def test_the_table_of_phases_has_what_is_known():
    heads, rows = phase_table(FIRST)
    assert heads == [
        *("phase", "s", "share, %", "samples or answers per s", "peak memory, GB", "peak GPU memory, GB"),
        *("written, MB", "what it is"),
    ]
    assert [row[:-1] for row in rows] == [
        ["start-up", "15.00", "30.00", "-", "-", "-", "-"],
        ["training", "30.00", "60.00", "20.00", "-", "3.00", "5.00"],
        ["scoring", "5.00", "10.00", "4.00", "1.00", "-", "-"],
    ]
    assert [row[-1] for row in rows] == [PHASES[row[0]] for row in rows]


def test_several_runs_are_summed_side_by_side():
    second = ledger([("A", [entry("training", 30.0), entry("carry", 10.0)])])
    assert run_table({"a": FIRST, "b": second}) == (
        ["run", "recorded tasks", "start-up", "training", "scoring", "carry", "all", "besides, %"],
        [
            ["a", "2", "15.00", "30.00", "5.00", "-", "50.00", "40.00"],
            ["b", "1", "-", "30.00", "-", "10.00", "40.00", "25.00"],
        ],
    )
    said = format_ledgers({"a": {"ledger": FIRST}, "old": {}, "b": {"ledger": second}})
    assert "| a   |" in said and "| b   |" in said and "old" not in said
