"""A checkpoint counts only with all that the training needs to go on, and without a file that was cut short."""

import json

import pytest
from whole_checkpoint import write_checkpoint, write_states

from sefe_plugin.run.checkpoints import is_whole_checkpoint, whole_checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "checkpoint-2")


FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors")


def test_what_the_host_saves_is_whole(checkpoint):
    assert is_whole_checkpoint(checkpoint)
    assert whole_checkpoints(checkpoint.parent) == [checkpoint]


@pytest.mark.parametrize("name", FILES)
def test_without_a_file_it_is_not(checkpoint, name):
    """With `save_only_model` the host would begin a new optimizer and a new schedule."""
    (checkpoint / name).unlink()
    assert not is_whole_checkpoint(checkpoint)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_with_a_file_that_was_cut_short_it_is_not(checkpoint, name, kept):
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[: int(len(content) * kept)])
    assert not is_whole_checkpoint(checkpoint)


def test_several_processes_leave_a_state_each(checkpoint):
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    write_states(checkpoint / "rng_state_2.pth")
    assert not is_whole_checkpoint(checkpoint)
    write_states(checkpoint / "rng_state_1.pth")
    assert is_whole_checkpoint(checkpoint)


def test_deepspeed_keeps_the_states_in_a_folder_that_a_file_names_last(checkpoint):
    for name in ("optimizer.pt", "scheduler.pt"):
        (checkpoint / name).unlink()
    shard = checkpoint / "global_step2" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    write_states(shard)
    write_states(checkpoint / "global_step2" / "mp_rank_00_model_states.pt")
    assert not is_whole_checkpoint(checkpoint)
    (checkpoint / "latest").write_text("global_step2")
    assert is_whole_checkpoint(checkpoint)
    shard.write_bytes(shard.read_bytes()[:-10])
    assert not is_whole_checkpoint(checkpoint)


def test_all_shards_of_a_model_are_needed(checkpoint):
    (checkpoint / "adapter_model.safetensors").rename(checkpoint / "model-00001-of-00002.safetensors")
    index = checkpoint / "model.safetensors.index.json"
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index.write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))
    assert not is_whole_checkpoint(checkpoint)
    (checkpoint / names[1]).write_bytes((checkpoint / names[0]).read_bytes())
    assert is_whole_checkpoint(checkpoint)
