"""An interpreter that is to score with vLLM is asked what it holds before the sequence starts."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from sefe_plugin.hosts.llamafactory import trial_process, vllm_python
from sefe_plugin.hosts.llamafactory.vllm_python import interpreter_faults, scoring_python_errors
from sefe_plugin.recipe.errors import RecipeError


@pytest.fixture
def interpreter(tmp_path):
    """Makes interpreters with packages: name -> version, None for a module that no package owns."""

    def make(**packages) -> str:
        folder = tmp_path / "packages"
        for name, version in packages.items():
            (folder / name).mkdir(parents=True)
            (folder / name / "__init__.py").touch()
            if version:
                about = folder / f"{name}_cpu-{version}.dist-info"
                about.mkdir()
                (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-cpu\nVersion: {version}\n")
                (about / "top_level.txt").write_text(f"{name}\n")
        # -S: without the packages of the tests' own environment
        return script(f'PYTHONPATH={folder} exec {sys.executable} -S "$@"')

    def script(text: str) -> str:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        return str(program)

    make.script = script
    return make


def recipe(*tasks, **keys):
    return SimpleNamespace(arguments=keys, tasks=[SimpleNamespace(overrides=task) for task in tasks or ({},)])


def test_one_with_vllm_may_score(interpreter):
    python = interpreter(vllm="0.32.0", transformers="5.19.0")
    assert scoring_python_errors(recipe(scoring_backend="vllm", scoring_python=python)) == []


def test_a_vllm_of_unknown_version_is_let_pass(interpreter):
    assert interpreter_faults(interpreter(vllm=None, transformers="5.19.0")) == []


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ({"transformers": "5.19.0"}, "holds no vLLM. Install it there: "),
        ({"vllm": "0.11.0", "transformers": "5.19.0"}, "holds vllm 0.11.0, and must hold 0.19.1 or later"),
        ({"vllm": "0.19.1", "transformers": "4.57.1"}, "holds transformers 4.57.1, and must hold 5.0 or later"),
        ({"vllm": "dev", "transformers": "5.19.0"}, "holds vllm dev, and must hold 0.19.1 or later"),
    ],
    ids=str,
)
def test_what_it_lacks_is_said(interpreter, packages, said):
    python = interpreter(**packages)
    (error,) = scoring_python_errors(recipe(scoring_backend="vllm", scoring_python=python))
    assert error.startswith(f"`scoring_python`: {python} {said}")


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("echo hello", "does not answer as a Python interpreter"),
        ("exit 3", "does not answer as a Python interpreter"),
        ("sleep 60", "does not answer as a Python interpreter (TimeoutExpired)"),
        ("""echo '{"python": [3, 9], "versions": {}}'""", "is Python 3.9, and must be 3.11 or later"),
        ("""echo '{"python": [3, 11], "versions": null}'""", "does not answer as a Python interpreter"),
        ("""echo '{"python": ["new"], "versions": {}}'""", "does not answer as a Python interpreter"),
    ],
)
def test_what_is_no_interpreter_is_refused(interpreter, does, said, monkeypatch):
    monkeypatch.setattr(vllm_python, "_PROBE_TIME", 2)
    (fault,) = interpreter_faults(interpreter.script(does.replace("sleep", "exec sleep")))
    assert fault.startswith(said)


def test_each_is_asked_once_and_one_that_is_never_used_is_refused(monkeypatch):
    asked = []
    monkeypatch.setattr(vllm_python, "interpreter_faults", lambda python: asked.append(python) or ["is wrong."])
    one, other = {"scoring_python": "a"}, {"scoring_python": "b"}
    errors = scoring_python_errors(recipe(one, other, one, scoring_backend="vllm"))
    assert errors == ["`scoring_python`: a is wrong.", "`scoring_python`: b is wrong."]
    assert asked == ["a", "b"]
    (error,) = scoring_python_errors(recipe(scoring_python="a"))
    assert "has no effect without `scoring_backend: vllm`" in error
    assert scoring_python_errors(recipe()) == []


def test_it_is_asked_at_every_start_and_told_with_all_other_errors(tmp_path, monkeypatch):
    """Also where the trial of the keys has passed before: an environment can change."""
    (tmp_path / "model").mkdir()
    faulty = SimpleNamespace(
        arguments={"model_name_or_path": str(tmp_path / "model")},
        tasks=[SimpleNamespace(name="A", overrides={})],
        output_dir=tmp_path / "run",
        source="recipe.yaml",
        to_dict=dict,
    )
    monkeypatch.setattr(trial_process, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(trial_process, "recipe_warnings", lambda recipe: [])
    monkeypatch.setattr(trial_process, "with_data", lambda recipe, folder: nullcontext((recipe, [])))
    found = {"errors": [], "notes": [], "tasks": {}}
    trials = []

    def trial(recipe, tasks):
        trials.append(tasks)
        return found

    trial_process.require_trial(faulty, lambda text: None, trial)
    monkeypatch.setattr(trial_process, "scoring_python_errors", lambda recipe: ["`scoring_python`: it is wrong."])
    with pytest.raises(RecipeError, match="it is wrong"):
        trial_process.require_trial(faulty, lambda text: None, trial)
    assert trials == [[]]  # passed before
