import hashlib
import logging
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sefe_plugin.answers.styles import BRIEF, FORMAT_LINES, MULTIPLE_CHOICE, SHORT_ANSWER, YES_NO
from sefe_plugin.asd.diversify import diversify
from sefe_plugin.asd.rules import other_styles
from sefe_plugin.data.sample import Sample


def short_task(count):
    names = ("cat", "dog", "hen", "cow", "pig", "yak", "3", "yes")
    return [
        Sample(f"<image>\nWhat is number {i}?\n{FORMAT_LINES[SHORT_ANSWER]}", names[i % len(names)])
        for i in range(count)
    ]


def choice_task(count):
    line = FORMAT_LINES[MULTIPLE_CHOICE]
    return [Sample(f"Which is {i}?\nA. one {i}\nB. two\nC. three\n{line}", "ABC"[i % 3]) for i in range(count)]


def box_task(count):
    rng = random.Random(5)
    task = []
    for i in range(count):
        x, y = rng.random() * 0.7, rng.random() * 0.7
        text = f"Please provide the bounding box described by the sentence 'thing {i}' in the format [x1, y1, x2, y2]."
        task.append(Sample(f"<image>\n{text}", f"[{x:.2f}, {y:.2f}, {x + 0.3:.2f}, {y + 0.2:.2f}]"))
    return task


BUILDERS = {SHORT_ANSWER: short_task, MULTIPLE_CHOICE: choice_task, "box": box_task}


@pytest.mark.parametrize("native", BUILDERS)
@pytest.mark.parametrize("ratio", [0, 0.05, 0.1, 0.2, 0.4, 1])
@pytest.mark.parametrize("count", [2, 37, 101, 200])
def test_counts_are_exact_and_the_rest_is_untouched(native, ratio, count):
    samples = BUILDERS[native](count)
    new, origins = diversify(samples, ratio, seed=7)
    wanted = round(ratio * count)
    assert len(new) == count and len(origins) == wanted
    changed = [i for i in range(count) if new[i] != samples[i]]
    assert changed == [origin.index for origin in origins]
    shares = Counter(origin.style for origin in origins)
    assert max(shares.values(), default=0) - min((shares[style] for style in other_styles(native)), default=0) <= 1
    for origin in origins:
        assert Sample(origin.question, origin.answer) == samples[origin.index]
        assert origin.native_style == native
        assert new[origin.index].question.endswith(FORMAT_LINES[origin.style])
        assert new[origin.index].question.count("<image>") == origin.question.count("<image>")


@given(st.integers(2, 120), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**9), st.sampled_from(list(BUILDERS)))
@settings(max_examples=60, deadline=None)
def test_a_larger_share_keeps_every_rewrite_of_a_smaller_one(count, first, second, seed, native):
    samples = BUILDERS[native](count)
    small, large = (diversify(samples, ratio, seed, native) for ratio in sorted((first, second)))
    assert set(small[1]) <= set(large[1])
    assert all(small[0][origin.index] == large[0][origin.index] for origin in small[1])


@pytest.mark.parametrize("native", [MULTIPLE_CHOICE, "box"])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ratio", [0.3, 0.37, 1])
def test_claims_are_balanced(native, seed, ratio):
    new, origins = diversify(BUILDERS[native](93), ratio, seed)
    answers = Counter(new[origin.index].answer for origin in origins if origin.style == YES_NO)
    assert abs(answers["Yes"] - answers["No"]) <= 1


def test_constructed_claims_are_balanced_beside_real_yes_and_no():
    samples = short_task(240)
    new, origins = diversify(samples, 1, seed=3)
    claims = [new[o.index].answer for o in origins if o.style == YES_NO and o.answer != "yes"]
    assert len(claims) > 40
    assert abs(claims.count("Yes") - claims.count("No")) <= 1
    assert all(new[o.index].answer == "Yes" for o in origins if o.style == YES_NO and o.answer == "yes")


@pytest.mark.parametrize(
    ("native", "digest"),
    [
        (SHORT_ANSWER, "9208e538036bb911d294b2a434ff65b35c93f5b84ddb3387516701867015010d"),
        (MULTIPLE_CHOICE, "05f999a7045a374e6c2aec9b6068df12d4f3fcd81b6d7ec1ffe4d9acc52ebd0b"),
        ("box", "4658c9267b1794ec101cd592671d2d8f1ef09005901f06782953c8dbf3eeb18e"),
    ],
)
def test_the_result_is_the_same_on_every_machine_and_version(native, digest):
    new, _ = diversify(BUILDERS[native](64), 0.5, seed=42)
    text = "\x00".join(part for sample in new for part in (sample.question, sample.answer))
    assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_seeds_choose_other_samples():
    samples = short_task(200)
    chosen = [{origin.index for origin in diversify(samples, 0.2, seed)[1]} for seed in (0, 1)]
    # 40 of 200 each: 8 in common on average, standard deviation 2.3.
    assert len(chosen[0] & chosen[1]) < 20


def test_a_change_of_one_sample_shifts_no_other():
    samples = choice_task(50)
    other = [*samples[:-1], Sample(samples[-1].question.replace("Which", "What"), samples[-1].answer)]
    first, second = diversify(samples, 1, seed=0)[0], diversify(other, 1, seed=0)[0]
    assert first[:-1] == second[:-1]


def test_samples_without_their_parts_are_passed_over_with_a_warning(caplog):
    samples = choice_task(40)
    samples[::4] = [Sample(sample.question, "one") for sample in samples[::4]]
    with caplog.at_level(logging.WARNING):
        _, origins = diversify(samples, 0.7, seed=0)
    assert len(origins) == 28
    assert all(origin.index % 4 for origin in origins)
    assert "passed over" in caplog.text


def test_too_few_suitable_samples_are_an_error():
    samples = choice_task(40)
    samples[::2] = [Sample(sample.question, "one") for sample in samples[::2]]
    with pytest.raises(ValueError, match=r"24 of 40 .* only 20 can be; lower the ratio"):
        diversify(samples, 0.6, seed=0)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, 20, float("nan")])
def test_a_ratio_out_of_range_is_an_error(ratio):
    with pytest.raises(ValueError, match=r"share in \[0, 1\]"):
        diversify(short_task(4), ratio, seed=0)


def test_explanations_are_refused_and_named():
    samples = [Sample(f"Why?\n{FORMAT_LINES[BRIEF]}", "Because it is so.")] * 10
    with pytest.raises(ValueError, match="let a model write"):
        diversify(samples, 0.2, seed=0)
    assert diversify(samples, 0, seed=0) == (samples, [])


def test_no_samples_are_fine():
    assert diversify([], 1, seed=0) == ([], [])
