"""What a run says of itself: seed, versions, counts and standard errors; and runs of earlier versions without them."""

import math

import pytest
from llamafactory.hparams.training_args import TrainingArguments

import sefe_plugin.versions
from sefe_plugin.evaluation.report import load_report, write_report
from sefe_plugin.evaluation.report_text import format_report
from sefe_plugin.evaluation.results import write_predictions, write_scores
from sefe_plugin.files import read_json, write_json
from sefe_plugin.run.folder import RunFolder, RunFolderError
from sefe_plugin.run.reporting import DEFAULT_SEED, run_report
from sefe_plugin.run.rescoring import rescore_run
from sefe_plugin.run.verify import verify_run


RECIPE = {
    "cl_method": "lora",
    "carry": "continue",
    "tasks": [
        {"name": name, "test_dataset": "t", "scorer": scorer}
        for name, scorer in (("A", "short_answer"), ("B", "text_vqa"))
    ],
}
OLD, NEW = {"torch": "1", "python": "3.11"}, {"torch": "2", "python": "3.11"}
SOFT = {"answers": ["stop"] * 2 + ["go"] * 8}
ROWS = {
    "A": ([{"answer": "red"}] * 4, ["red", "red", "red", "blue"]),
    "B": ([SOFT] * 3, ["stop", "go", "left"]),  # worth 0.6, 1 and 0
}


@pytest.fixture
def folder(tmp_path):
    """A finished run of two tasks, the second with another version."""
    folder = RunFolder(tmp_path / "run")
    for index, names in enumerate(("A", "AB")):
        place = folder.task_folder(index, names[-1])
        for name in names:
            write_predictions(place, name, *ROWS[name])
        write_scores(
            place, [{"name": task["name"], "scorer": task["scorer"]} for task in RECIPE["tasks"][: index + 1]], None
        )
    complete = [
        {"name": name, "folder": f"{index}_{name}", "seconds": 1.0, "versions": versions}
        for index, (name, versions) in enumerate((("A", OLD), ("B", NEW)), start=1)
    ]
    folder.complete_task(RECIPE, complete)
    return folder


def test_the_report_says_how_sure_its_numbers_are(folder):
    report = run_report(folder, ["A", "B"])
    binomial = 100 * math.sqrt(0.75 * 0.25 / 4)
    mean = 1.6 / 3
    of_parts = 100 * math.sqrt(sum((part - mean) ** 2 for part in (0.6, 1.0, 0.0)) / 3) / math.sqrt(3)
    assert report["stderr_matrix"][0] == [pytest.approx(binomial), None]
    assert report["stderr_matrix"][1] == pytest.approx([binomial, of_parts])
    assert report["counts"] == {"A": 4, "B": 3}


def test_report_md_says_seed_counts_and_versions_in_one_line_and_errors_in_one_row(folder):
    report = run_report(folder, ["A", "B"])
    text = format_report(report, "x")
    assert "Seed 42; 3 to 4 answers to each test set; torch 1, python 3.11, later torch 2, python 3.11." in text
    (row,) = [line for line in text.splitlines() if line.startswith("| ±")]
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["21.65", "23.73"]
    write_report(folder.path, report, "x")
    assert load_report(folder.path) == report


def test_the_seed_is_the_recipes_or_the_hosts_default_and_of_each_task_where_they_differ(folder):
    assert TrainingArguments.__dataclass_fields__["seed"].default == DEFAULT_SEED
    for recipe, seed in (
        (RECIPE, 42),
        (RECIPE | {"seed": 7}, 7),
        (RECIPE | {"seed": 7, "tasks": [RECIPE["tasks"][0] | {"seed": 1}, RECIPE["tasks"][1]]}, [1, 7]),
    ):
        folder.complete_task(recipe, folder.read_manifest()["complete"])
        assert run_report(folder, ["A", "B"])["seed"] == seed


def strip(folder) -> None:
    """Make of the run one of an earlier version."""
    manifest = folder.read_manifest()
    folder.complete_task(RECIPE, [{k: v for k, v in task.items() if k != "versions"} for task in manifest["complete"]])
    for file in folder.path.glob("*/scores.json"):
        write_json(file, {name: {k: v for k, v in s.items() if k != "stderr"} for name, s in read_json(file).items()})
    report = run_report(folder, ["A", "B"])
    write_report(folder.path, {k: v for k, v in report.items() if k not in ("seed", "counts")}, "x")


def reported(folder) -> list[str]:
    found = verify_run(folder.path, lambda keys, place: iter(()))
    return [finding.what for finding in found if finding.where == "report.json"]


def test_a_run_of_an_earlier_version_opens_and_is_no_damage(folder):
    strip(folder)
    report = run_report(folder, ["A", "B"])
    assert not {"versions", "stderr_matrix"} & report.keys()
    assert "±" not in format_report(report, "x")
    assert reported(folder) == ["the same when made again"]
    rescore_run(folder.path, {})
    assert read_json(folder.path / "report.json")["stderr_matrix"][0][0] == pytest.approx(21.65, abs=0.01)
    assert reported(folder) == ["the same when made again"]


def test_another_seed_in_the_report_is_noticed(folder):
    write_report(folder.path, run_report(folder, ["A", "B"]) | {"seed": 3}, "x")
    assert reported(folder) == ["differs from the scores in seed"]


@pytest.mark.parametrize("versions", [[], {"torch": 2}, "2.11"])
def test_damaged_versions_are_told(folder, versions):
    manifest = read_json(folder.manifest_file)
    manifest["complete"][0]["versions"] = versions
    write_json(folder.manifest_file, manifest)
    with pytest.raises(RunFolderError, match=r"manifest\.json is damaged"):
        folder.read_manifest()


@pytest.mark.parametrize("change", [{"stderr": -1.0}, {"stderr": "1"}, {"count": 0}, {"count": 1.5}])
def test_damaged_scores_are_told(folder, change):
    file = folder.task_folder(0, "A") / "scores.json"
    write_json(file, {"A": read_json(file)["A"] | change})
    with pytest.raises(RunFolderError, match=r"scores\.json is damaged"):
        run_report(folder, ["A", "B"])


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(sefe_plugin.versions, "_PACKAGES", ("torch", "no-such-package"))
    assert list(sefe_plugin.versions.installed_versions()) == ["torch", "python"]
