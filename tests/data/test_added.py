"""Samples that join a task's own: exact counts, and draws that depend on their seed alone."""

import doctest
from collections import Counter

import pytest

from sefe_plugin.data import added
from sefe_plugin.data.added import added_samples, draw, mix_names, replay_counts
from sefe_plugin.recipe.combinations import key_value_errors


def test_examples():
    assert doctest.testmod(added).failed == 0


@pytest.mark.parametrize("own", [1, 7, 1000])
@pytest.mark.parametrize("ratio", [0.001, 0.1, 1 / 3, 5.0])
@pytest.mark.parametrize("earlier", [1, 2, 7])
def test_earlier_tasks_give_equally_many_and_all_in_all_the_exact_share(own, ratio, earlier):
    counts = replay_counts(own, ratio, earlier)
    assert sum(counts) == round(ratio * own) and len(counts) == earlier
    assert max(counts) - min(counts) <= 1 and counts == sorted(counts, reverse=True)


def test_the_first_task_has_none_to_draw_from():
    assert added_samples(1000, {"replay_ratio": 0.5}, 0) == 0
    keys = {"replay_ratio": 0.1, "mix": [{"dataset": "a", "share": 0.2}, {"dataset": "b", "share": 5.0}]}
    assert added_samples(1000, keys, 0) == 5200 and added_samples(1000, keys, 2) == 5300
    assert mix_names(keys) == ["a", "b"] and mix_names({}) == []
    assert added_samples(1000, {"replay_ratio": None, "mix": None}, 3) == 0


def test_a_sample_comes_again_only_after_all_have_come():
    for size, count in ((10, 4), (10, 10), (3, 8)):
        drawn = draw(size, count, "seed")
        assert len(drawn) == count and set(drawn) <= set(range(size))
        times = Counter(drawn)
        assert max(times.values()) - min(times[i] for i in range(size)) <= 1


def test_of_nothing_nothing_is_drawn():
    assert draw(0, 0, "seed") == []
    with pytest.raises(ValueError, match="3/mix/general: 4 samples are to be drawn where there are none"):
        draw(0, 4, "3/mix/general")


def test_draws_depend_on_their_stream_alone():
    assert draw(1000, 100, "7/a") == draw(1000, 100, "7/a") == draw(1000, 200, "7/a")[:100]
    assert draw(1000, 100, "7/a") != draw(1000, 100, "7/b")
    assert draw(6, 6, "7/a") == [4, 5, 3, 1, 2, 0]  # on every machine, with every Python


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"replay_ratio": 0.1, "replay_size": 5, "mix": [{"dataset": "a", "share": 1}]}, []),
        ({"replay_ratio": 0}, ["`replay_ratio` must be a number above 0"]),
        ({"replay_ratio": 0.1, "replay_size": 0}, ["`replay_size` must be a whole number of at least 1"]),
        ({"replay_size": 5}, ["`replay_size` has no effect without `replay_ratio`"]),
        ({"replay_ratio": 0.1, "streaming": True}, ["`streaming` cannot be combined with `replay_ratio`"]),
        (
            {"mix": [{"dataset": "a", "share": 1}], "tokenized_path": "x", "disable_shuffling": True},
            ["`tokenized_path` cannot be combined with `mix`", "`disable_shuffling` cannot be combined with `mix`"],
        ),
    ],
)
def test_what_the_keys_need(keys, parts):
    errors = key_value_errors(keys)
    assert len(errors) == len(parts), errors
    assert all(error.startswith(part) for part, error in zip(parts, errors, strict=True))


@pytest.mark.parametrize(
    "mix",
    [
        [],
        [{}],
        [{"dataset": "a"}],
        [{"dataset": "a", "share": 0}],
        [{"dataset": "a", "share": "0.2"}],
        [{"dataset": "a", "share": True}],
        [{"dataset": "a,b", "share": 1}],
        [{"dataset": 3, "share": 1}],
        [{"dataset": "a", "share": 1, "ratio": 2}],
        [{"dataset": "a", "share": 1}, {"dataset": "a", "share": 2}],
        "a",
    ],
)
def test_general_data_is_named_with_its_share(mix):
    (error,) = key_value_errors({"mix": mix})
    assert error.startswith("`mix` must be a list of mappings {dataset: name, share: a number above 0}")
