"""A run that is continued: on purpose with changed data, with a mended recipe, and from what the host saves."""

import json
import os
import shutil
import signal

import pytest
import yaml
from safetensors.torch import load_file

from sefe_plugin.hosts.llamafactory import sequence
from sefe_plugin.hosts.llamafactory.sequence import ACCEPT, VERBOSE, intercept
from sefe_plugin.hosts.llamafactory.watch import RUNNER_PID
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.run.checkpoints import is_whole_checkpoint
from sefe_plugin.run.job import TaskFailedError


@pytest.fixture
def runner():
    """Undoes what makes this process one that runs sequences."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    os.environ.pop(RUNNER_PID, None)


@pytest.mark.parametrize("words", [[], [ACCEPT], ["seed=3", ACCEPT], [VERBOSE, ACCEPT, "seed=3"], [VERBOSE]])
def test_a_flag_is_no_key_of_the_recipe(monkeypatch, runner, small_recipe, tmp_path, words):
    seen = []
    monkeypatch.setattr(sequence, "_run", lambda recipe, source, *more: seen.append((recipe, more)))
    assert intercept([str(small_recipe(tmp_path, 1)), *words])
    ((recipe, (accept, verbose, _)),) = seen
    assert (accept, verbose) == (ACCEPT in words, VERBOSE in words)
    assert recipe.arguments["seed"] == (3 if "seed=3" in words else 7)
    assert not {ACCEPT, VERBOSE} & recipe.arguments.keys()


@pytest.mark.parametrize("flag", [ACCEPT, VERBOSE])
def test_a_flag_belongs_to_a_sequence(tmp_path, capsys, flag):
    file = tmp_path / "single.yaml"
    file.write_text(yaml.safe_dump({"model_name_or_path": "base", "cl_method": "lora", "asd_ratio": 0.2}))
    with pytest.raises(SystemExit):
        intercept([str(file), flag])
    assert f"`{flag}` belongs to a sequence" in capsys.readouterr().err
    file.write_text(yaml.safe_dump({"model_name_or_path": "base"}))
    assert not intercept([str(file), flag])  # a run of the host alone, which says itself what it does not know


def test_a_start_that_fails_does_not_block_the_mended_recipe(train_here, small_recipe, tmp_path):
    mistakes = (
        {"template": "lava"},
        {"cl_method": "lora", "reglora_weight": None, "lora_target": "k_porj"},
    )
    for mistake in mistakes:
        recipe = small_recipe(tmp_path, 1, num_train_epochs=1, **mistake)
        keys = {key: value for key, value in yaml.safe_load(recipe.read_text()).items() if value is not None}
        recipe.write_text(yaml.safe_dump(keys))
        with pytest.raises((TaskFailedError, RecipeError)):
            train_here(recipe)
    report = train_here(small_recipe(tmp_path, 1, num_train_epochs=1, lora_rank=2))
    assert report["num_scored_tasks"] == 1


@pytest.mark.parametrize("changes", [{}, {"save_only_model": True}, {"cl_method": "full", "asd_ratio": 0.0}])
def test_checkpoints_of_the_host_are_whole_unless_they_hold_the_model_only(
    train_here, small_recipe, tmp_path, changes
):
    keys = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1, "max_new_tokens": 1, **changes}
    train_here(small_recipe(tmp_path, 1, **keys, keep_checkpoints=True))
    checkpoints = list((tmp_path / "run" / "1_ScienceQA").glob("checkpoint-*"))
    assert len(checkpoints) == 2
    assert {is_whole_checkpoint(checkpoint) for checkpoint in checkpoints} == {"save_only_model" not in changes}


def test_full_fine_tuning_goes_on_with_the_weights_of_its_checkpoint(train_here, small_recipe, tmp_path):
    """The host's Trainer takes from a checkpoint what has the names of the model, and leaves the rest as it is."""
    keys = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1, "max_new_tokens": 1}
    keys |= {"cl_method": "full", "asd_ratio": 0.0, "learning_rate": 1e-3}
    train_here(small_recipe(tmp_path, 1, **keys, keep_checkpoints=True))
    folder = tmp_path / "run" / "1_ScienceQA"
    undisturbed = load_file(folder / "model.safetensors")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["complete"].clear()
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    for file in ("steps.json", "model.safetensors", "config.json", "scores.json"):
        (folder / file).unlink()
    shutil.rmtree(folder / "checkpoint-4")
    train_here(small_recipe(tmp_path, 1, **keys))
    assert list(folder.glob("checkpoint-*")) == []  # of no use any more
    resumed = load_file(folder / "model.safetensors")
    assert resumed.keys() == undisturbed.keys()
    assert [name for name, value in undisturbed.items() if not value.equal(resumed[name])] == []
