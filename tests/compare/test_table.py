"""`sefe minicoin table`: what it runs, how it resumes and what it refuses, with a host of a few lines."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

import sefe_plugin.versions
from sefe_plugin.cli import main
from sefe_plugin.compare import table
from sefe_plugin.compare.arms import ARMS, Arm, choose_arms
from sefe_plugin.compare.report import BEGIN, END
from sefe_plugin.compare.table import Plan, compare_runs, mean_update, run_all
from sefe_plugin.files import shipped_folder
from sefe_plugin.hosts.llamafactory.host import read_recipe
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.load import load_recipe


#: Stands for `llamafactory-cli train`: notes the call, fails or writes a report that depends on seed and recipe.
HOST = """
import os, sys
from pathlib import Path
from sefe_plugin.evaluation.report_data import build_report
from sefe_plugin.files import write_json
import numpy as np
from safetensors.numpy import save_file
keys = dict(argument.split("=", 1) for argument in sys.argv[2:])
out = Path(keys["output_dir"])
with (out.parent / "calls").open("a") as calls:
    calls.write(f"{out.name} {os.environ.get('OMP_NUM_THREADS')} {Path(sys.argv[1]).name}\\n")
print("this is", out.name)
if (out.parent / "fail").is_file() and out.name in (out.parent / "fail").read_text().split():
    sys.exit(3)
if (out.parent / "edit").is_file():
    Path(sys.argv[1]).write_text((out.parent / "edit").read_text())
again = (out / "manifest.json").is_file() and (out.parent / "train").is_file()
gain = int(keys["seed"]) % 10 + (5 if "reglora" in sys.argv[1] else 0)
for number, task in enumerate("AB", start=1):
    factors = {"q.lora_A.weight": np.ones((2, 4)), "q.lora_B.weight": np.full((3, 2), -1e-4 * number)}
    (out / f"{number}_{task}").mkdir(parents=True, exist_ok=True)
    save_file(factors, out / f"{number}_{task}" / "adapter_model.safetensors")
carry = keys.get("carry", "merge")
accuracy, formats = [[80, None], [40 + gain, 70]], [[100, None], [90, 100]]
write_json(out / "report.json", build_report(["A", "B"], accuracy, formats))
complete = [{"name": "A", "seconds": 1.5 + again}, {"name": "B", "seconds": 2.0}]
recipe = {"carry": carry, "tasks": [{"name": "A"}, {"name": "B"}]}
write_json(out / "manifest.json", {"version": 2, "recipe": recipe, "complete": complete})
"""


@pytest.fixture
def plan(tmp_path):
    return Plan(choose_arms(["lora", "reglora"]), [101, 103], ["coin", "reversed"], tmp_path / "out")


@pytest.fixture
def run(tmp_path):
    """Makes the runs of a plan and returns the lines that were said."""
    host = tmp_path / "host.py"
    host.write_text(HOST)

    def start(plan, jobs=1):
        lines = []
        run_all(plan, [sys.executable, str(host)], jobs, lines.append)
        return lines

    return start


def calls(plan):
    return [line.split()[0] for line in (plan.out / "calls").read_text().splitlines()]


def test_every_run_is_made_once_and_said_in_a_line(plan, run):
    lines = run(plan)
    names = [f"{a}_{o}_{s}" for o in ("coin", "reversed") for s in (101, 103) for a in ("lora", "reglora")]
    assert calls(plan) == names
    assert len(lines) == 8
    # MFT (80 + 70) / 2, MFN (41 + 70) / 2, MAA (80 + 55.5) / 2, format (90 + 100) / 2
    assert lines[0] == ("[1/8] lora, order coin, seed 101: MFT 75.0  MFN 55.5  MAA 67.8  BWT -19.5  Format 95.0 | 4 s")
    assert (plan.out / "logs" / "lora_coin_101.log").read_text() == "this is lora_coin_101\n"
    compared = compare_runs(plan)
    assert list(compared) == ["coin", "reversed"]
    assert compared["coin"]["differences"][0]["mfn"]["each"] == [2.5, 2.5]
    # the second task's |B A| alone: 2 * 2e-4 everywhere
    assert [run["update"] for run in compared["coin"]["runs"]["lora"]] == pytest.approx([4.0, 4.0])


def test_mean_update_is_over_all_elements(tmp_path):
    generator = torch.Generator().manual_seed(0)
    values = []
    for name, shapes in (("first", [(2, 2)]), ("one", [(3, 5)]), ("two", [(7, 2), (4, 4)])):
        factors = {}
        for i, (rows, cols) in enumerate(shapes):
            A, B = torch.randn(2, cols, generator=generator), torch.randn(rows, 2, generator=generator)
            factors |= {f"m{i}.lora_A.weight": A, f"m{i}.lora_B.weight": B}
            if name == "first":  # has no penalty in any arm
                continue
            values += [abs(sum(B[i, k] * A[k, j] for k in range(2)).item()) for i in range(rows) for j in range(cols)]
        (tmp_path / name).mkdir()
        save_file(factors, tmp_path / name / "adapter_model.safetensors")
    folders = [tmp_path / name for name in ("first", "one", "two")]
    assert mean_update(folders) == pytest.approx(sum(values) / len(values), rel=1e-6)


def test_the_update_of_a_continued_adapter_is_its_change(tmp_path):
    folders, totals = [tmp_path / name for name in ("one", "two", "three")], (1.0, 3.0, -2.0)
    for folder, total in zip(folders, totals, strict=True):
        folder.mkdir()
        factors = {"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.full((3, 2), total / 2)}
        save_file(factors, folder / "adapter_model.safetensors")
    assert mean_update(folders, continued=True) == pytest.approx((2 + 5) / 2)
    assert mean_update(folders) == pytest.approx((3 + 2) / 2)


def test_a_run_that_leaves_models_has_no_update(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert mean_update([tmp_path / "one", tmp_path / "two"]) is None


def test_experts_with_a_router_have_no_update(tmp_path):
    """What they change depends on the token, so B A is not it."""
    factors = {"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.ones(3, 2)}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_file(factors | {"q.lora_router.weight": torch.ones(2, 4)}, tmp_path / name / "adapter_model.safetensors")
    assert mean_update([tmp_path / "one", tmp_path / "two"]) is None


def test_the_update_of_an_arm_that_goes_on_with_its_adapter_is_its_change(plan, run):
    arms = choose_arms(["lora", "lora_continue"])
    plan = Plan(arms, [101], ["coin"], plan.out)
    run(plan)
    compared = compare_runs(plan)["coin"]
    # |B A| is 2e-4 after the first task, 4e-4 after the second
    assert compared["arms"]["lora"]["update"]["mean"] == pytest.approx(4.0)
    assert compared["arms"]["lora_continue"]["update"]["mean"] == pytest.approx(2.0)


def test_finished_runs_are_kept_and_failed_ones_made_again(plan, run):
    plan.out.mkdir()
    (plan.out / "fail").write_text("reglora_coin_101 lora_reversed_103")
    with pytest.raises(ValueError, match=r"2 of 8 runs failed; .*again\.\nreglora_coin_101 .*exit status 3.*\nlora_r"):
        run(plan)
    assert len(calls(plan)) == 8
    (plan.out / "fail").unlink()
    lines = run(plan)
    assert lines[0] == "6 of 8 runs are finished already."
    assert [line[:5] for line in lines[1:]] == ["[7/8]", "[8/8]"]
    assert calls(plan)[8:] == ["reglora_coin_101", "lora_reversed_103"]
    assert run(plan) == ["8 of 8 runs are finished already."]
    assert len(calls(plan)) == 10


def test_a_run_of_other_settings_is_given_to_the_host_again(plan, run):
    """The host then refuses its folder with the difference; a table must not show it silently."""
    run(plan)
    run(Plan(plan.arms, plan.seeds, plan.orders, plan.out, ["num_train_epochs=1"]))
    assert len(calls(plan)) == 16


def test_the_versions_are_those_that_the_runs_were_made_with(plan, run, monkeypatch):
    monkeypatch.setattr(sefe_plugin.versions, "version", lambda package: f"1 of {package}")
    run(Plan(plan.arms, [101], plan.orders, plan.out))
    monkeypatch.setattr(sefe_plugin.versions, "version", lambda package: f"2 of {package}")
    assert run(plan)[0] == "4 of 8 runs are finished already."
    assert [versions["torch"] for versions in table.versions_of(plan)] == ["1 of torch", "2 of torch"]


def runs_of(plan):
    return json.loads((plan.out / "runs.json").read_text())


@pytest.fixture
def own_recipe(plan, tmp_path):
    """A plan of one run, whose recipe may be edited."""
    recipe = tmp_path / "own.yaml"
    recipe.write_text("seed: 1\n")
    return Plan({"own": Arm(recipe, {})}, [101], ["coin"], plan.out)


def test_a_recipe_edited_during_its_run_does_not_pass_for_the_one_that_ran(own_recipe, run):
    own_recipe.out.mkdir()
    before = own_recipe.record(own_recipe.runs()[0])
    (own_recipe.out / "edit").write_text("seed: 1\nlora_rank: 4\n")
    run(own_recipe)
    assert runs_of(own_recipe)["own_coin_101"].items() >= before.items()
    assert own_recipe.record(own_recipe.runs()[0]) != before
    run(own_recipe)
    assert len(calls(own_recipe)) == 2


def test_versions_stay_where_nothing_is_trained_again(own_recipe, run, monkeypatch):
    recipe = own_recipe.arms["own"].recipe

    def versions_after(number):
        monkeypatch.setattr(sefe_plugin.versions, "version", lambda package: f"{number} of {package}")
        recipe.write_text(f"seed: 1  # {number}\n")
        run(own_recipe)
        return table.versions_of(own_recipe)[0]["torch"]

    assert versions_after(1) == versions_after(2) == "1 of torch"
    assert len(calls(own_recipe)) == 2
    (own_recipe.out / "fail").write_text("own_coin_101")
    before = runs_of(own_recipe)
    with pytest.raises(ValueError, match="1 of 1 runs failed"):
        versions_after(3)
    assert runs_of(own_recipe) == before  # refused
    (own_recipe.out / "fail").unlink()
    (own_recipe.out / "train").touch()
    assert versions_after(4) == "4 of torch"


def test_a_run_that_is_at_work_does_not_count_as_finished(own_recipe, tmp_path):
    host = tmp_path / "host.py"
    seen = "(Path(out) / 'seen').write_text((Path(out) / 'runs.json').read_text())"
    host.write_text(f"import sys\nfrom pathlib import Path\nout = {str(own_recipe.out)!r}\n{seen}\nsys.exit(1)\n")
    own_recipe.out.mkdir()
    entry = {"recipe_sha256": "of another", "overrides": [], "versions": {}}
    (own_recipe.out / "runs.json").write_text(json.dumps({"own_coin_101": entry}))
    with pytest.raises(ValueError, match="1 of 1 runs failed"):
        run_all(own_recipe, [sys.executable, str(host)], 1, lambda line: None)
    assert json.loads((own_recipe.out / "seen").read_text()) == {}


def test_a_run_without_its_report_is_made_again(plan, run):
    run(plan)
    (plan.out / "lora_coin_103" / "report.json").unlink()
    run(plan)
    assert calls(plan)[8:] == ["lora_coin_103"]


def test_several_jobs_make_the_same_with_one_thread_each(plan, run, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run(plan)
    assert {line.split()[1] for line in (plan.out / "calls").read_text().splitlines()} == {"7"}
    other = Plan(plan.arms, plan.seeds, plan.orders, plan.out.with_name("two"))
    run(other, jobs=2)
    assert {line.split()[1] for line in (other.out / "calls").read_text().splitlines()} == {"1"}
    assert sorted(calls(other)) == sorted(calls(plan))
    assert compare_runs(other) == compare_runs(plan)


TABLE = """
import signal, sys
from pathlib import Path
from sefe_plugin.compare.arms import choose_arms
from sefe_plugin.compare.table import Plan, run_all
signal.signal(signal.SIGTERM, signal.default_int_handler)
plan = Plan(choose_arms(["lora", "reglora"]), [101], ["coin"], Path(sys.argv[1]))
run_all(plan, [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"], 1, print)
"""


def test_a_killed_table_ends_the_runs_at_work(tmp_path):
    table = subprocess.Popen(
        [sys.executable, "-c", TABLE, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    log = tmp_path / "logs" / "lora_coin_101.log"
    deadline = time.monotonic() + 60
    while not (log.is_file() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    (run,) = psutil.Process(table.pid).children()
    table.terminate()
    said, error = table.communicate(timeout=60)
    assert b"KeyboardInterrupt" in error
    assert said == b""  # no run failed
    assert not run.is_running()
    assert not (tmp_path / "logs" / "reglora_coin_101.log").exists()  # and none was started


def test_two_tables_cannot_share_a_folder(plan, run):
    import filelock

    plan.out.mkdir()
    with filelock.FileLock(plan.out / ".lock"), pytest.raises(ValueError, match="in use by another table"):
        run(plan)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_a_sound_recipe(name, tmp_path):
    plan = Plan(choose_arms([name]), [101], ["shuffled"], tmp_path)
    recipe, *overrides = plan.arguments(plan.runs()[0])
    assert Path(recipe).parent == shipped_folder("recipes")
    loaded = load_recipe(read_recipe(Path(recipe), overrides), recipe, host_keys())
    assert loaded.arguments["seed"] == 101
    assert loaded.task_order == "shuffled"
    assert loaded.output_dir == tmp_path / f"{name}_shuffled_101"
    assert loaded.arguments.items() >= ARMS[name].overrides.items()


def test_arms_say_what_their_names_say():
    assert {
        name: ARMS[name].overrides for name in ("lora_continue_asd", "asd_40", "m_0.5", "lambda_2500", "rank_64")
    } == {
        "lora_continue_asd": {"carry": "continue"},
        "asd_40": {"asd_ratio": 0.4},
        "m_0.5": {"reglora_key_ratio": 0.005},
        "lambda_2500": {"reglora_weight": 2500},
        "rank_64": {"lora_rank": 64, "lora_alpha": 128},
    }
    assert choose_arms(["l1", "lora"])["l1"].overrides["reglora_key_ratio"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--arms", "lora", "sfee"], "'sfee' is no arm. Did you mean `sefe`?"),
        (["--arms", "lora", "lora"], "must name each arm once"),
        (["--arms", "lora", "--against", "sefe"], "`--against` must be one of the arms, lora; got sefe."),
        (["--orders", "backwards"], "`--orders` must be of coin, reversed, shuffled"),
        (["--seeds", "1", "1", "--jobs", "0"], "`--jobs` must be at least 1; got 0."),
        (["--set", "seed=3"], "got 'seed=3'"),
        (["--set", "num_train_epochs"], "`--set` takes KEY=VALUE"),
        (["--set", "reglora_weight=1", "--arms", "sefe", "l1"], "would undo what the arm l1 is"),
        (["--write", "nowhere.md"], "nowhere.md must hold"),
        (["--pictures", "docs"], "`--pictures` needs `--write`"),
    ],
)
def test_refusals_come_before_anything_starts(tmp_path, capsys, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert main(["minicoin", "table", "--out", "out", *arguments]) == 1
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_table_and_puts_it_where_it_is_wanted(tmp_path, monkeypatch, capsys):
    """With a package `llamafactory` of a few lines in place of the host."""
    (tmp_path / "path" / "llamafactory").mkdir(parents=True)
    (tmp_path / "path" / "llamafactory" / "__init__.py").touch()
    # `llamafactory-cli train RECIPE ...` has one more word in front than the host above
    code = f"import sys\ndef main():\n    del sys.argv[1]\n    exec({HOST!r}, {{}})\n"
    (tmp_path / "path" / "llamafactory" / "cli.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'path'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("SEFE_PLUGIN_DISABLE", "1")  # the start-up hook would look for the real host
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text(f"Head\n{BEGIN}\n{END}\nTail\n")
    command = ["minicoin", "table", "--arms", "lora", "reglora", "--seeds", "101", "102", "--out", "out"]
    assert main([*command, "--write", "README.md", "--pictures", "docs/table"]) == 0
    said = capsys.readouterr().out
    assert "[4/4] reglora, order coin, seed 102" in said
    text = Path("README.md").read_text()
    made = "Made by `sefe minicoin table --arms lora reglora --seeds 101 102 --orders coin --out out`"
    assert text.startswith(f"Head\n{BEGIN}\n\n{made}")
    assert text.endswith(f"{END}\nTail\n")
    assert "| reglora - lora | +0.0" in text
    assert "| reglora - lora |" in said
    assert json.loads(Path("out/table.json").read_text())["orders"]["coin"]["seeds"] == [101, 102]
    assert Path("out/differences_coin.png").is_file()
    for name in ("differences_coin.png", "accuracy_coin.png"):
        assert f"](docs/table/{name})" in text
        assert Path("docs/table", name).read_bytes().startswith(b"\x89PNG")
    assert ".png" not in said
