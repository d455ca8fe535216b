import json
import random
from pathlib import Path

import pytest

from sefe_plugin.answers.styles import (
    BRIEF,
    DETAILED,
    FORMAT_LINES,
    MULTIPLE_CHOICE,
    SHORT_ANSWER,
    STYLES,
    YES_NO,
)
from sefe_plugin.asd.rules import AnswerPool, Sample, native_style, other_styles, rewrite


GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
TASKS = {name: [Sample(*pair) for pair in task["samples"]] for name, task in GOLDEN.items()}


@pytest.mark.parametrize("task", TASKS)
def test_the_own_style_of_each_task(task):
    bare = [Sample(sample.question.rsplit("\n", 1)[0], sample.answer) for sample in TASKS[task]]
    assert native_style(TASKS[task]) == GOLDEN[task]["native"]
    if GOLDEN[task]["native"] != "box":
        assert native_style(bare) == GOLDEN[task]["native"]


@pytest.mark.parametrize("task", TASKS)
def test_golden_rewrites(task):
    pool = AnswerPool(TASKS[task], GOLDEN[task]["native"])
    styles = other_styles(GOLDEN[task]["native"])
    expected = GOLDEN[task]["rewrites"]
    assert [(entry["index"], entry["style"]) for entry in expected] == [(i, style) for i in (0, 1) for style in styles]
    for entry in expected:
        rng = random.Random(f"{entry['index']}/{styles.index(entry['style'])}")
        made = rewrite(TASKS[task][entry["index"]], entry["style"], pool, rng, truth=entry["index"] == 1)
        assert made == Sample(entry["question"], entry["answer"])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(20))
def test_every_rewrite_is_well_formed_and_right(task, seed):
    pool = AnswerPool(TASKS[task], GOLDEN[task]["native"])
    for sample in TASKS[task]:
        gold = sample.answer
        if pool.native == MULTIPLE_CHOICE:
            gold = next(line[3:] for line in sample.question.split("\n") if line.startswith(f"{gold}. "))
        for style in other_styles(pool.native):
            made = rewrite(sample, style, pool, random.Random(seed))
            *body, line = made.question.split("\n")
            assert line == FORMAT_LINES[style]
            assert not any(known in "\n".join(body) for known in FORMAT_LINES.values())
            assert made.question.startswith("<image>\n") == sample.question.startswith("<image>\n")
            assert made.question.count("<image>") == sample.question.count("<image>")
            if style == YES_NO:
                claims = body[-1].startswith((f"Is the answer {gold.rstrip('.')}?", f"Is the region {gold} "))
                assert made.answer == (
                    gold.capitalize() if gold.lower() in ("yes", "no") else "Yes" if claims else "No"
                )
            elif style == MULTIPLE_CHOICE:
                options = dict(text.split(". ", 1) for text in body if text[1:3] == ". ")
                assert options[made.answer].casefold() == gold.casefold()
                assert len({text.casefold() for text in options.values()}) == len(options) >= 2
                assert list(options) == list("ABCD")[: len(options)]
            elif style == SHORT_ANSWER:
                assert made.answer == gold
            else:
                assert gold.rstrip(".") in made.answer
                words = len(made.answer.split())
                assert words <= 25 if style == BRIEF else words > len(gold.split()) + 5


def test_the_right_letter_is_spread_evenly():
    samples = [Sample("What is it?", name) for name in ("cat", "dog", "hen", "cow", "pig")]
    pool = AnswerPool(samples, SHORT_ANSWER)
    letters = [rewrite(samples[0], MULTIPLE_CHOICE, pool, random.Random(seed)).answer for seed in range(4000)]
    # 1000 expected for each letter, standard deviation 27; the band is 5 of them.
    assert all(abs(letters.count(letter) - 1000) < 137 for letter in "ABCD")


@pytest.mark.parametrize(
    ("answers", "style"),
    [
        (["yes", "no", "Yes."], YES_NO),
        (["yes", "no", "yes", "red"], SHORT_ANSWER),
        (["red", "two dogs", "3"], SHORT_ANSWER),
        (["The cat sits on the mat in front of the door."] * 3, BRIEF),
        (["The cat sits on the mat in front of the door. " * 5] * 3, DETAILED),
        (["[0.1, 0.2, 0.3, 0.4]"] * 3, "box"),
    ],
)
def test_without_a_line_the_form_of_the_answers_decides(answers, style):
    assert native_style([Sample("What?", answer) for answer in answers]) == style


@pytest.mark.parametrize("style", STYLES)
def test_a_line_counts_more_than_the_form(style):
    assert native_style([Sample(f"Is it?\n{FORMAT_LINES[style]}", "[0.1, 0.2, 0.3, 0.4]")]) == style


@pytest.mark.parametrize("answers", [[""], ["red", "The cat sits on the mat in front of the door."]])
def test_an_unclear_style_is_an_error_that_says_what_was_seen(answers):
    with pytest.raises(ValueError, match=r"not clear.*seen"):
        native_style([Sample("What?", answer) for answer in answers])


def test_no_sample_at_all_is_an_error_of_its_own():
    with pytest.raises(ValueError, match=r"no sample of one question and one answer.*`asd_ratio` in the recipe"):
        native_style([])


def test_styles_that_cannot_be_rewritten_to_are_errors():
    sample = Sample("What?", "cat")
    with pytest.raises(ValueError, match="style must be one of"):
        rewrite(sample, SHORT_ANSWER, AnswerPool([sample], SHORT_ANSWER), random.Random(0))
    with pytest.raises(ValueError, match="let a model write"):
        rewrite(sample, SHORT_ANSWER, AnswerPool([sample], BRIEF), random.Random(0))
    with pytest.raises(ValueError, match=r"native style must be one of.*'boxes'"):
        other_styles("boxes")


def test_a_box_stands_in_the_place_of_the_short_answer():
    assert other_styles("box") == other_styles(SHORT_ANSWER) == (YES_NO, MULTIPLE_CHOICE, BRIEF, DETAILED)
