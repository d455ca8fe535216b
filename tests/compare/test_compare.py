"""`sefe compare`: any recipes, their results and costs, with a host of a few lines."""

import doctest
import json
import math
import os
import shutil
from pathlib import Path

import matplotlib.image
import pytest
from left_run import leave_run, usual_cost

from sefe_plugin.cli import main
from sefe_plugin.compare import page, table
from sefe_plugin.compare.arms import Arm, read_arms
from sefe_plugin.compare.kept import run_costs
from sefe_plugin.compare.page import compare_recipes
from sefe_plugin.compare.table import Plan, Run
from sefe_plugin.files import write_json
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run.costs import Cost, record_cost
from sefe_plugin.run.inputs import accepted, read_inputs, task_inputs, write_inputs
from sefe_plugin.run.verify import input_changes, verify_run


#: Stands for a package `llamafactory`: notes the call, and leaves the run that `leave_run` makes of seed and method.
HOST = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from left_run import leave_run
def main():
    recipe, *overrides = sys.argv[2:]
    keys = dict(argument.split("=", 1) for argument in overrides)
    out = Path(keys["output_dir"])
    with (out.parent / "calls").open("a") as calls:
        calls.write(f"{{out.name}} {{os.environ.get('CUDA_VISIBLE_DEVICES')}}\\n")
    if device := os.environ.get("CUDA_VISIBLE_DEVICES"):
        held = out.parent / f"device {{device}}"
        held.touch(exist_ok=False)  # fails where another run has the device
        time.sleep(0.3)
        held.unlink()
    leave_run(out, int(keys["seed"]), "asd_ratio" in keys)
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with recipes, and the host above in place of LLaMA-Factory."""
    (tmp_path / "path" / "llamafactory").mkdir(parents=True)
    (tmp_path / "path" / "llamafactory" / "__init__.py").touch()
    code = HOST.format(here=str(Path(__file__).parents[1]))
    (tmp_path / "path" / "llamafactory" / "cli.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'path'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("SEFE_PLUGIN_DISABLE", "1")  # the start-up hook would look for the real host
    monkeypatch.chdir(tmp_path)
    Path("lora.yaml").write_text("benchmark: minicoin\ncl_method: lora\nseed: 5\noutput_dir: runs/x\n")
    return tmp_path


def calls() -> list[str]:
    return Path("out/calls").read_text().split("\n")[:-1]


COMMAND = ["compare", "lora.yaml", "lora.yaml+asd_ratio=0.2", "--out", "out"]


def test_a_run_whose_folder_is_gone_counts_by_what_is_kept_of_it(work, capsys):
    assert main([*COMMAND, "--seeds", "2"]) == 0
    before = [Path("out", name).read_text() for name in ("compare.json", "compare.md")]
    shutil.rmtree("out/lora_5")
    assert main([*COMMAND, "--seeds", "2"]) == 0
    assert len(calls()) == 4
    assert [Path("out", name).read_text() for name in ("compare.json", "compare.md")] == before
    # a run that was made elsewhere joins by its file and its entry
    Path("out/results/lora_5.json").rename("lora_5.json")
    assert main([*COMMAND, "--seeds", "2"]) == 0
    assert len(calls()) == 5
    assert json.loads(Path("lora_5.json").read_text()) == json.loads(Path("out/results/lora_5.json").read_text())
    # without its entry it is no run of this comparison
    shutil.rmtree("out/lora_6")
    finished = json.loads(Path("out/runs.json").read_text())
    write_json(Path("out/runs.json"), {name: record for name, record in finished.items() if name != "lora_6"})
    assert main([*COMMAND, "--seeds", "2"]) == 0
    assert len(calls()) == 6


def test_the_page_says_what_the_runs_are_worth(work, capsys):
    assert main([*COMMAND, "--seeds", "2"]) == 0
    said = capsys.readouterr().out
    assert [call.split()[0] for call in calls()] == [
        f"{arm}_{seed}" for seed in (5, 6) for arm in ("lora", "lora+asd_ratio=0.2")
    ]
    assert "[1/4] lora, seed 5: MFT 75.0  MFN 55.0" in said
    found = json.loads(Path("out/compare.json").read_text())
    assert (found["against"], found["seeds"], found["memory_of"]) == ("lora", [5, 6], "process")
    (pair,) = found["differences"]
    # MFN is (40 + gain + 70) / 2, and the gain 15 and 16; t(0.975, 1) = 12.7062
    assert pair["mfn"]["each"] == [7.5, 8.0]
    half = 12.7062 * math.sqrt(0.125) / math.sqrt(2)
    assert pair["mfn"]["low"] == pytest.approx(7.75 - half, abs=1e-4)
    assert pair["training"]["each"] == [2.0, 2.0]
    assert pair["memory"]["each"] == [1.0, 1.0]
    interval = found["intervals"]["lora+asd_ratio=0.2"]["mfn"]
    assert [interval["mean"], interval["high"]] == pytest.approx([62.75, 62.75 + half], abs=1e-4)
    assert found["matrices"]["lora+asd_ratio=0.2"]["accuracy"] == [[80, None], [55.5, 70]]
    assert {key: value["mean"] for key, value in found["arms"]["lora"].items() if key in ("step", "left")} == {
        "step": (10 * 0.5 + 20 * 1.0) / 30,
        "left": pytest.approx(1.5e-3),
    }
    text = Path("out/compare.md").read_text()
    assert "Made by `sefe compare lora.yaml lora.yaml+asd_ratio=0.2 --seeds 2 --out out` with sefe-plugin" in text
    assert "| lora+asd_ratio=0.2 - lora | " in text
    assert "+7.8 [+4.6, +10.9]" in text
    assert "| 2.00 [2.00, 2.00] |" in text  # minutes
    for name in ("differences", "accuracy", "costs", "matrix_lora", "matrix_lora+asd_ratio=0.2"):
        assert f"({name}.png)" in text
        assert matplotlib.image.imread(f"out/{name}.png").ndim == 3
    assert "matrix_lora" not in said


@pytest.fixture
def no_page(monkeypatch):
    """Leaves out the page, whose pictures take most of a second each."""
    monkeypatch.setattr("sefe_plugin.compare.page.write_page", lambda folder, comparison: None)


def test_finished_runs_are_kept_and_a_changed_recipe_is_told(work, no_page, capsys):
    (work / "base.yaml").write_text(Path("lora.yaml").read_text())
    Path("lora.yaml").write_text("include: base.yaml\n")
    assert main([*COMMAND, "--seeds", "1"]) == 0
    assert main([*COMMAND, "--seeds", "5", "6"]) == 0
    assert len(calls()) == 4
    capsys.readouterr()
    (work / "base.yaml").write_text(Path("base.yaml").read_text() + "lora_rank: 4\n")
    assert main([*COMMAND, "--seeds", "1"]) == 0
    said = capsys.readouterr().out
    assert "lora_5 is finished, but its recipe or keys have changed since. It is started again, and refused" in said
    assert len(calls()) == 6


def test_a_run_at_a_time_is_made_on_each_device(work, no_page):
    assert main([*COMMAND, "--seeds", "3", "--devices", "0", "2,3"]) == 0
    assert len(calls()) == 6
    assert {call.split()[1] for call in calls()} == {"0", "2,3"}  # and none failed at a device that another run had


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lora.yaml", "other/lora.yaml"], "Two recipes are called lora: lora.yaml and other/lora.yaml. Rename one"),
        (["lora.yaml+seed=1"], "lora+seed=1: `seed` comes from `--seeds`."),
        (["lora.yaml+output_dir=x"], "`output_dir` comes from `--out`."),
        (["lora.yaml", "--against", "sefe"], "`--against` must be one of the arms, lora; got sefe."),
        (["lora.yaml", "--seeds", "0"], "`--seeds` with one number is how many, 1 to 50; got 0."),
        (["lora.yaml", "--seeds", "1001"], "For one seed alone, set `seed` in the recipes and write `--seeds 1`."),
        (["lora.yaml", "--seeds", "3", "3"], "`--seeds` must differ; got 3 3."),
        (["lora.yaml", "--jobs", "2", "--devices", "0"], "`--jobs` and `--devices` exclude each other"),
        (["lora.yaml", "--devices", "0", "0"], "`--devices` must differ; got 0 0."),
        (["lora.yaml+carry=stack", "--set", "carry=merge"], "`--set carry=merge` would undo what the arm"),
        (["lora.yaml", "--set", "seed=1"], "`--set` takes KEY=VALUE"),
        (["gone.yaml"], "gone.yaml cannot start: 1 error.\n  - the file does not exist."),
        (["lora.yaml+lora_rnk=4"], "lora.yaml+lora_rnk=4 cannot start: 1 error.\n  - `lora_rnk`"),
        (
            ["lora.yaml", "seed7.yaml"],
            "`--seeds` must list the seeds, because the recipes have different ones: lora 5",
        ),
        (["lora.yaml", "lora.yaml+task_order=reversed"], "All recipes must train the same tasks in the same order"),
        (["own.yaml", "own_2.yaml"], "own has A (a_test, short_answer), and own_2 has A (b_test, short_answer)."),
        (["own.yaml", "more.yaml"], "own has no more task, and more has B (b_test, short_answer)."),
        (["lora.yaml", "own.yaml"], "lora has the benchmark minicoin, and own has no benchmark."),
        (["included.yaml"], "`lora_rank` stands in bad.yaml.)"),
        (["single.yaml"], "single.yaml describes no sequence."),
    ],
)
def test_refusals_come_before_anything_starts(work, capsys, arguments, expected):
    Path("seed7.yaml").write_text(Path("lora.yaml").read_text().replace("seed: 5", "seed: 7"))
    Path("bad.yaml").write_text(Path("lora.yaml").read_text() + "lora_rank: many\n")
    Path("included.yaml").write_text("include: bad.yaml\n")
    Path("single.yaml").write_text("model_name_or_path: owner/name\ntemplate: llava\noutput_dir: x\n")
    info = {name: {"file_name": "data.json"} for name in ("a_test", "b_test")}
    Path("dataset_info.json").write_text(json.dumps(info))
    Path("data.json").write_text('[{"output": "red"}]')
    own = "model_name_or_path: owner/name\ntemplate: llava\noutput_dir: x\nseed: 5\ndataset_dir: .\ntasks:\n"
    task = "- {{name: {}, dataset: a_test, test_dataset: {}, scorer: short_answer}}\n"
    for name, tasks in (("own", ["Aa"]), ("own_2", ["Ab"]), ("more", ["Aa", "Bb"])):
        Path(f"{name}.yaml").write_text(own + "".join(task.format(n, f"{test}_test") for n, test in tasks))
    assert main(["compare", *arguments, "--out", "out"]) == 1
    assert expected in capsys.readouterr().err
    assert not Path("out").exists()


OWN = "model_name_or_path: owner/name\ntemplate: llava\noutput_dir: x\nseed: 5\n"
OWN_TASK = "{name: A, dataset: train, test_dataset: test, scorer: short_answer%s}"


def write_data(folder: Path, answer: str) -> Path:
    """Write a dataset folder with a picture, and return it."""
    columns = {"prompt": "instruction", "response": "output", "images": "images"}
    info = {name: {"file_name": f"{name}.json", "columns": columns} for name in ("train", "test")}
    write_json(folder / "dataset_info.json", info)
    write_json(folder / "train.json", [{"output": "red", "images": ["a.png"]}])
    write_json(folder / "test.json", [{"output": answer, "images": ["a.png"]}])
    (folder / "a.png").write_text("a picture")
    return folder


def write_own(name: str, keys: str, task: str = "") -> None:
    """Write a recipe with a task of its own."""
    Path(name).write_text(f"{OWN}{keys}\ntasks:\n- {OWN_TASK % task}\n")


@pytest.mark.parametrize("command", ["compare lora.yaml", "minicoin table"])
def test_a_folder_with_blanks_is_refused_before_anything_starts(work, capsys, command):
    assert main([*command.split(), "--out", "my runs"]) == 1
    said = capsys.readouterr().err
    assert "`--out`: `output_dir` must hold no blanks" in said and "got 'my runs'. Choose another folder." in said
    assert not Path("my runs").exists()


def test_seeds_of_tasks_are_refused_where_several_seeds_are_compared(work, no_page, capsys):
    write_data(work, "red")
    write_own("own.yaml", "dataset_dir: .", ", seed: 7")
    assert main(["compare", "own.yaml", "--seeds", "2", "--out", "out"]) == 1
    said = capsys.readouterr().err
    assert "own: task A sets `seed: 7`, so that `--seeds` would not vary it. Take `seed` out of its entry of" in said
    keys = Path("lora.yaml").read_text() + "task_keys: [{name: GQA, seed: 7}, {name: VizWiz, seed: 8}]\n"
    Path("keys.yaml").write_text(keys)
    assert main(["compare", "keys.yaml", "lora.yaml", "--seeds", "5", "6", "--out", "out"]) == 1
    said = capsys.readouterr().err
    for task in ("GQA sets `seed: 7`", "VizWiz sets `seed: 8`"):
        assert f"keys: task {task}" in said
    assert "Take `seed` out of `task_keys`" in said and "lora: task" not in said
    assert not Path("out").exists()
    assert main(["compare", "keys.yaml", "--seeds", "1", "--out", "out"]) == 0


def test_test_sets_of_one_name_that_differ_are_refused_before_anything_starts(work, capsys):
    for folder, answer in (("here", "red"), ("there", "blue"), ("same", "red")):
        write_own(f"{folder}.yaml", f"dataset_dir: {write_data(work / folder, answer)}")
    assert main(["compare", "here.yaml", "there.yaml", "--out", "out"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert f"test of there ({work}/there/test.json) does not hold what that of here does ({work}/here/test.js" in said
    assert not Path("out").exists()
    Path("same/a.png").write_text("another")
    assert main(["compare", "here.yaml", "same.yaml", "--out", "out"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert f"images of test of same ({work}/same) does not hold" in said
    # retention sets are test sets too
    Path("same/a.png").write_text("a picture")
    write_json(Path("same/train.json"), [{"output": "red", "images": []}])
    for name in ("here", "same"):
        info = json.loads(Path(name, "dataset_info.json").read_text())
        write_json(Path(name, "general.json"), [{"output": name}])
        write_json(Path(name, "dataset_info.json"), info | {"general": {"file_name": "general.json"}})
        keys = "retention_sets: [{name: G, dataset: general, scorer: short_answer}]"
        write_own(f"{name}.yaml", f"dataset_dir: {work / name}\n{keys}")
    assert main(["compare", "here.yaml", "same.yaml", "--out", "out"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "; general of same" in said


def test_equal_test_sets_are_compared_wherever_they_lie(work, no_page, monkeypatch):
    write_own("here.yaml", f"dataset_dir: {write_data(work / 'here', 'red')}")
    write_own("copy.yaml", f"dataset_dir: {write_data(work / 'copy', 'red')}")
    write_json(work / "copy" / "train.json", [{"output": "other training data", "images": []}])
    assert main(["compare", "here.yaml", "copy.yaml", "--out", "out"]) == 0
    # files that both name are not even read
    monkeypatch.setattr("sefe_plugin.compare.test_data.test_inputs", lambda *_: pytest.fail("a file is read"))
    write_own("linked.yaml", "dataset_dir: link")
    Path("link").symlink_to("here")
    assert main(["compare", "here.yaml", "here.yaml+lora_rank=4", "linked.yaml", "--out", "out_2"]) == 0


def test_arms_are_recipes_and_what_differs_from_them():
    assert read_arms(["a/x.yaml", "a/x.yaml+k=1+lora_target=q,v", "b+c/y.yaml+rate=1e+3"]) == {
        "x": Arm(Path("a/x.yaml"), {}),
        "x+k=1+lora_target=q_v": Arm(Path("a/x.yaml"), {"k": "1", "lora_target": "q,v"}),
        "y+rate=1e+3": Arm(Path("b+c/y.yaml"), {"rate": "1e+3"}),
    }


def test_a_digest_covers_included_recipes_and_is_a_files_own_without_them(tmp_path):
    own, base = tmp_path / "own.yaml", tmp_path / "base.yaml"
    base.write_text("seed: 1\n")
    own.write_text("include: base.yaml\n")

    def digest(recipe):
        plan = Plan({"x": Arm(recipe, {})}, [1], [None], tmp_path)
        return plan.record(Run("x", None, 1))["recipe_sha256"]

    assert digest(base) == table.file_digest(base)
    before = digest(own)
    base.write_text("seed: 2\n")
    assert digest(own) != before


def plan_of(folder: Path, **costs) -> Plan:
    """A plan of two arms with one finished run each; `costs` says what differs from the usual cost of each."""
    for arm in ("a", "b"):
        leave_run(folder / f"{arm}_1", 1, arm == "b", **costs.get(arm, {}))
    return Plan({arm: Arm(Path(f"{arm}.yaml"), {}) for arm in ("a", "b")}, [1], [None], folder)


@pytest.fixture
def finished(tmp_path):
    """A plan of two finished runs on data whose digests they have recorded."""
    plan = plan_of(tmp_path / "out")
    plan = Plan({arm: Arm(tmp_path / f"{arm}.yaml", {}) for arm in plan.arms}, [1], [None], plan.out)
    data = tmp_path / "data"
    write_json(data / "dataset_info.json", {name: {"file_name": f"{name}.json"} for name in ("train", "test")})
    for name in ("train", "test"):
        write_json(data / f"{name}.json", [{"output": name}])
    task = {"dataset": "train", "test_dataset": "test", "scorer": "short_answer"}
    recipe = {"cl_method": "lora", "carry": "merge", "model_name_or_path": "owner/name", "dataset_dir": str(data)}
    recipe["tasks"] = [{"name": name, **task} for name in "AB"]
    for run in plan.runs():
        plan.arms[run.arm].recipe.write_text("seed: 1\n")
        manifest = json.loads((plan.out / run.name / "manifest.json").read_text())
        write_json(plan.out / run.name / "manifest.json", manifest | {"recipe": recipe})
        for folder in ("1_A", "2_B"):
            (plan.out / run.name / folder / "task.yaml").write_text(f"dataset_dir: {data}\n")
            write_inputs(plan.out / run.name / folder, task_inputs(recipe, Task("A", **task, overrides={}), {}))
    write_json(plan.out / "runs.json", {run.name: {**plan.record(run), "versions": {}} for run in plan.runs()})
    return plan


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train.json", "train (for training, "),
        ("test.json", "test (for test, "),
        ("dataset_info.json", "train in dataset_info.json"),
    ],
)
def test_changed_data_of_a_finished_run_is_refused(finished, name, said):
    file = finished.out.with_name("data") / name
    table.run_all(finished, ["false"], 1, lambda line: None)
    file.write_text(file.read_text().replace("output", "prompt").replace("train.json", "test.json"))
    with pytest.raises(ValueError, match="Put it back") as caught:
        table.run_all(finished, ["false"], 1, lambda line: None)
    assert all(f"\n{run}: {said}" in str(caught.value) for run in ("a_1", "b_1"))


def test_the_data_of_a_benchmark_moves_with_its_run(finished):
    moved = (finished.out / "b_1").rename(finished.out / "moved")
    finished.out.with_name("data").rename(moved / "data")
    assert input_changes(moved)
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["recipe"]["benchmark"] = "minicoin"
    write_json(moved / "manifest.json", manifest)
    assert input_changes(moved) == []
    said = {finding.what: finding.state for finding in verify_run(moved, lambda keys, place: iter(()))}
    assert said["inputs: 5 as recorded"]


def test_runs_on_different_test_sets_are_not_compared(finished):
    (finished.out.with_name("data") / "test.json").write_text('[{"output": "another"}]')
    keys = json.loads((finished.out / "b_1" / "manifest.json").read_text())["recipe"]
    for arm in ("a", "b"):
        for folder in ("1_A", "2_B"):
            place = finished.out / f"{arm}_1" / folder
            present = task_inputs(keys, Task("A", "train", "test", "short_answer", {}), {})
            write_inputs(place, present if arm == "a" else accepted(read_inputs(place), present))
    with pytest.raises(ValueError, match=r"cannot be compared.*\nb_1 after a_1: test \(for test, .*test\.json\)"):
        table.run_all(finished, ["false"], 1, lambda line: None)


def test_a_continued_training_has_neither_time_nor_memory(tmp_path):
    plan_of(tmp_path, b={"steps_before": 3})
    values, memory_of = run_costs(tmp_path / "b_1")
    assert values["training"] is values["memory"] is None
    assert values["step"] is not None
    assert memory_of == "process"


def test_costs_that_are_not_recorded_are_dashes(tmp_path):
    from sefe_plugin.compare.page import format_page, write_page

    plan = plan_of(tmp_path)
    (tmp_path / "b_1" / "2_B" / "cost.json").unlink()
    comparison = {"command": "x", "versions": [], **compare_recipes(plan, "a")}
    assert comparison["arms"]["b"]["training"]["mean"] is None
    assert comparison["memory_of"] is None
    assert "not recorded in all runs" in format_page(comparison)
    write_page(tmp_path / "page", comparison)


def test_a_phase_whose_record_is_gone_leaves_no_time(tmp_path):
    leave_run(tmp_path, 1, False)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["recipe"]["cl_method"] = "lota"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for number, name in enumerate("AB", start=1):
        (tmp_path / f"{number}_{name}" / "calibrate").mkdir()
        record_cost(tmp_path / f"{number}_{name}" / "calibrate", Cost(**usual_cost(False, number)))
    assert run_costs(tmp_path)[0]["training"] == 4.0
    (tmp_path / "1_A" / "calibrate" / "cost.json").unlink()
    values, memory_of = run_costs(tmp_path)
    assert [values[key] for key in ("training", "step", "memory")] == [None] * 3 and memory_of is None


def test_amounts_are_written_with_three_digits_and_rounding_as_0():
    assert doctest.testmod(page).failed == 0
    noise, little = ({"mean": number, "low": None} for number in (5.5e-17, 0.0123))
    assert (page._amount_difference(noise), page._amount_difference(little)) == ("0", "+0.0123")


def test_memory_of_different_devices_is_not_compared(tmp_path):
    compared = compare_recipes(plan_of(tmp_path, b={"memory_of": "cuda"}), "a")
    assert compared["memory_of"] is None
    assert compared["runs"]["a"][0]["memory"] is None
    assert compared["differences"][0]["training"]["each"] == [2.0]


def test_the_picture_of_costs_shows_every_run_and_the_means(tmp_path):
    from sefe_plugin.compare.figures import draw_costs

    compared = compare_recipes(plan_of(tmp_path, a={"steps_before": 2}), "a")
    panels = draw_costs(compared["runs"], "a").axes
    shown = [
        {(round(float(x), 6), float(y)) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)}
        for axes in panels
    ]
    accuracy = {arm: compared["runs"][arm][0]["mfn"] for arm in ("a", "b")}
    assert shown == [
        {(4.0, accuracy["b"])},  # minutes: two tasks of 120 s; the time of the other is not known
        set(),  # nor the memory, and it is what that of the other is compared with
        {(0.0015, accuracy["a"]), (0.0015, accuracy["b"])},
    ]
