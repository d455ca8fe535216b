"""The command `sefe`."""

import argparse

import pytest
import yaml

import sefe_plugin.cli as cli
from sefe_plugin.cli import main
from sefe_plugin.evaluation.report import write_report
from sefe_plugin.files import write_json
from sefe_plugin.run import verify
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.reporting import run_report


def test_init_writes_recipes_and_templates_once(tmp_path, capsys):
    assert main(["init", str(tmp_path)]) == 0
    recipes = sorted(file.name for file in (tmp_path / "recipes").glob("*.yaml"))
    assert {"coin_sefe.yaml", "minicoin_lora.yaml", "minicoin_sefe.yaml"} <= set(recipes)
    assert all(isinstance(yaml.safe_load((tmp_path / "recipes" / name).read_text()), dict) for name in recipes)
    assert main(["init", str(tmp_path)]) == 0  # unchanged files are no conflict


def test_init_never_overwrites_a_changed_file(tmp_path, capsys):
    changed = tmp_path / "recipes" / "minicoin_sefe.yaml"
    changed.parent.mkdir()
    changed.write_text("mine: true\n")
    assert main(["init", str(tmp_path)]) == 1
    assert "minicoin_sefe.yaml" in capsys.readouterr().err
    assert changed.read_text() == "mine: true\n"
    assert [file.name for file in changed.parent.iterdir()] == ["minicoin_sefe.yaml"]


def test_report_of_a_folder_without_a_run_says_so(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_report_of_an_unfinished_run_shows_what_is_complete(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    folder.task_folder(0, "A").mkdir()
    write_json(folder.task_folder(0, "A") / "scores.json", {"A": {"accuracy": 61.5, "format": 90.0, "count": 8}})
    folder.complete_task(
        {"tasks": [{"name": name, "test_dataset": name, "scorer": "yes_no"} for name in "AB"]}, [{"name": "A"}]
    )
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Unfinished: 1 of 2 tasks" in out
    assert "61.50" in out
    # a run that was killed before it wrote the report of its second task
    write_report(folder.path, run_report(folder, ["A", "B", "C"]), "run")
    folder.task_folder(1, "B").mkdir()
    scores = {name: {"accuracy": 71.5, "format": 90.0, "count": 8} for name in "AB"}
    write_json(folder.task_folder(1, "B") / "scores.json", scores)
    folder.complete_task(
        {"tasks": [{"name": name, "test_dataset": name, "scorer": "yes_no"} for name in "ABC"]},
        [{"name": "A"}, {"name": "B"}],
    )
    assert main(["report", str(tmp_path)]) == 0
    assert "Unfinished: 2 of 3 tasks" in capsys.readouterr().out
    finding = verify._report(folder, ["A", "B", "C"], 2)
    assert finding.state is None
    assert finding.what.startswith("of a task before")
    write_report(folder.path, run_report(folder, ["A", "B", "C"]), "run")
    assert verify._report(folder, ["A", "B", "C"], 2).state is True


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(command in out for command in ("init", "report", "minicoin"))


def test_every_command_and_argument_says_what_it_is():
    def look(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                told = {choice.dest: choice.help for choice in action._choices_actions}
                for name, command in action.choices.items():
                    assert told[name], f"{parser.prog} {name}"
                    look(command)
            else:
                assert action.help, f"{parser.prog}: {action.dest}"

    look(cli._parser())
