"""The command `sefe`."""

import argparse
import re
import subprocess
import sys
from importlib import metadata

import pytest
import yaml

import sefe_plugin.cli as cli
from sefe_plugin import versions
from sefe_plugin.cli import main
from sefe_plugin.evaluation.report import write_report
from sefe_plugin.files import write_json
from sefe_plugin.run import verify
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.reporting import run_report


def test_init_writes_readme_recipes_and_templates_once(tmp_path, capsys):
    assert main(["init", str(tmp_path)]) == 0
    recipes = sorted(file.name for file in (tmp_path / "recipes").glob("*.yaml"))
    assert {"coin_sefe.yaml", "minicoin_lora.yaml", "minicoin_sefe.yaml"} <= set(recipes)
    assert all(isinstance(yaml.safe_load((tmp_path / "recipes" / name).read_text()), dict) for name in recipes)
    assert (tmp_path / "README.md").read_text().startswith("# sefe-plugin")
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    said = capsys.readouterr().out
    assert f"{len(files)} files written: README.md, recipes/, data_templates/, docs/." in said
    assert f"cd {tmp_path} && llamafactory-cli train recipes/minicoin_sefe.yaml" in said
    assert f"cd {tmp_path} && sefe new" in said
    assert main(["init", str(tmp_path)]) == 0
    assert f"0 files written, {len(files)} are there already" in capsys.readouterr().out


def test_every_link_of_the_readme_leads_to_a_file_that_init_writes(tmp_path):
    main(["init", str(tmp_path)])
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (tmp_path / "README.md").read_text())
    assert len(links) > 10
    assert [link for link in links if not (tmp_path / link).exists()] == []


def test_init_leaves_changed_files_alone_and_writes_the_others(tmp_path, capsys, monkeypatch):
    changed, folder = tmp_path / "recipes" / "minicoin_sefe.yaml", tmp_path / "docs" / "asd.md"
    changed.parent.mkdir()
    changed.write_text("mine: true\n")
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    said = capsys.readouterr().out
    assert "2 files differ from the plugin's and are left as they are" in said
    assert [line for line in said.splitlines() if line.startswith("  ")][:2] == [
        "  recipes/minicoin_sefe.yaml",
        "  docs/asd.md",
    ]
    assert "\n  llamafactory-cli train" in said  # no `cd` where one is already
    assert changed.read_text() == "mine: true\n"
    assert folder.is_dir()
    assert (changed.parent / "minicoin_lora.yaml").is_file()


def test_report_of_a_folder_without_a_run_says_so(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_report_of_an_unfinished_run_shows_what_is_complete(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    folder.task_folder(0, "A").mkdir()
    write_json(folder.task_folder(0, "A") / "scores.json", {"A": {"accuracy": 61.5, "format": 90.0, "count": 8}})
    tasks = [{"name": name, "test_dataset": "t", "scorer": "yes_no"} for name in "ABC"]
    folder.complete_task({"tasks": tasks[:2]}, [{"name": "A"}])
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Unfinished: 1 of 2 tasks" in out
    assert "61.50" in out
    # a run that was killed before it wrote the report of its second task
    write_report(folder.path, run_report(folder, ["A", "B", "C"]), "run")
    folder.task_folder(1, "B").mkdir()
    scores = {name: {"accuracy": 71.5, "format": 90.0, "count": 8} for name in "AB"}
    write_json(folder.task_folder(1, "B") / "scores.json", scores)
    folder.complete_task({"tasks": tasks}, [{"name": "A"}, {"name": "B"}])
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


def test_without_a_command_the_help_is_printed_in_a_newcomer_s_order(capsys):
    assert main([]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if re.match(r"    [a-z]", line)]
    way = ["doctor", "init", "new", "plan", "report"]
    assert [name for name in listed if name in way] == way
    assert listed.index("report") < listed.index("compare") < listed.index("keys")


def test_the_example_of_every_command_is_one():
    """Each stands at the end of its command's help, and can be read by it."""

    def look(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            for command in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
                start, _, example = (command.epilog or "").partition("example: ")
                assert (start, example.startswith(command.prog)) == ("", True), command.prog
                whole.parse_args(example.split()[1:])
                look(command)

    whole = cli._parser()
    look(whole)


def test_versions_are_one_line_and_import_no_host(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    (line,) = capsys.readouterr().out.splitlines()
    for package in ("sefe-plugin", "llamafactory", "transformers", "peft", "torch"):
        assert f"{package} {metadata.version(package)}" in line
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'llamafactory'): sys.modules[name] = None\n"
        "from sefe_plugin.cli import main; main(['--version'])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == [line]


def test_a_package_that_is_not_there_has_no_version(monkeypatch):
    monkeypatch.setattr(versions, "_PACKAGES", ("sefe-plugin", "no-such-package"))
    assert versions.installed_versions().keys() == {"sefe-plugin", "python"}


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["pl"], {"plan"}),
        (["new", "--m"], {"--model", "--method"}),
        (["asd", "bu"], {"build"}),
        (["asd", "build", "--generator", ""], {"rules", "openai", "llamafactory"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["plan", "mi"], {"mine.yaml"}),
        (["verify", "r"], {"runs"}),
    ],
)
def test_bash_completes_commands_options_and_files(tmp_path, capsys, words, completed):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "recipe.yaml").touch()
    quoted = " ".join(f"'{word}'" for word in ["sefe", *words])
    ask = f'COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; $(complete -p sefe | sed "s/.*-F //; s/ .*//")'
    ran = subprocess.run(
        ["bash", "-c", f'{script}\n{ask}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert {*ran.stdout.split()} - {"-h", "--help"} == completed


@pytest.mark.parametrize(("shell", "head"), [("zsh", "#compdef sefe"), ("fish", "complete -c sefe")])
def test_other_shells_have_scripts_of_their_own(capsys, shell, head):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert head in script
    assert all(command in script for command in ("plan", "report", "--dataset-dir"))


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
