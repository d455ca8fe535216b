"""What ASD writes is right: by the scorer's view of the old answer, whatever form the samples have."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sefe_plugin.answers.boxes import box_iou, parse_box
from sefe_plugin.answers.options import read_options
from sefe_plugin.answers.styles import (
    BRIEF,
    DETAILED,
    EXPLANATIONS,
    FORMAT_LINES,
    MULTIPLE_CHOICE,
    SHORT_ANSWER,
    YES_NO,
)
from sefe_plugin.answers.texts import content_key, split_question
from sefe_plugin.asd import Sample, diversify
from sefe_plugin.asd.rules import native_style
from sefe_plugin.evaluation.scorers import SCORERS


WORDS = (
    "red",
    "two dogs",
    "Ohio",
    "a cat",
    "3",
    "12:30",
    "St. Louis",
    "白色",
    "黑色和白色",
    "สุนัข",
    "U.S.",
    "dog!",
    "x-ray",
)
#: How a list of options is written: before each mark, after it, and between options.
LISTS = {
    "lines": ("", ". ", "\n"),
    "brackets": ("(", ") ", "\n"),
    "inline": ("(", ") ", " "),
    "commas": ("", ") ", ", "),
    "chinese": ("", "\u3001", "\n"),
    "wide": ("", "\uff0e", " "),
    "colon": ("", ": ", "\n"),
}


@st.composite
def choices(draw):
    """A task of multiple choice: samples, and the text of each sample's right option."""
    before, after, joint = LISTS[draw(st.sampled_from(sorted(LISTS)))]
    lower, heading = draw(st.booleans()), draw(st.sampled_from(["", "Options:\n", "Choose: "]))
    line = draw(st.sampled_from(["", f"\n{FORMAT_LINES[MULTIPLE_CHOICE]}", f"\n{FORMAT_LINES[SHORT_ANSWER]}"]))
    with_text = draw(st.booleans())
    samples, golds = [], []
    for i in range(draw(st.integers(4, 12))):
        texts = draw(st.lists(st.sampled_from(WORDS), min_size=2, max_size=5, unique=True))
        letters = "abcde" if lower else "ABCDE"
        listed = joint.join(f"{before}{letters[k]}{after}{text}" for k, text in enumerate(texts))
        right = draw(st.integers(0, len(texts) - 1))
        answer = letters[right] + (f"{after}{texts[right]}" if with_text else "")
        samples.append(Sample(f"<image>\nWhich is number {i}?\n{heading}{listed}{line}", answer))
        golds.append(texts[right])
    return samples, golds


@st.composite
def answers(draw):
    """A task of short answers, or of yes and no."""
    words = draw(st.sampled_from([WORDS, ("yes", "No", "Yes."), (*WORDS, "yes", "no")]))
    line = draw(st.sampled_from(["", f"\n{FORMAT_LINES[SHORT_ANSWER]}"]))
    golds = draw(st.lists(st.sampled_from(words), min_size=4, max_size=12))
    return [Sample(f"What is number {i}?{line}", gold) for i, gold in enumerate(golds)], golds


def check(sample, style, gold):
    """The new question, with its new answer, says what the old answer said."""
    _, stem, line = split_question(sample.question)
    assert line == style
    if style == YES_NO:
        assert sample.answer in ("Yes", "No")
        if content_key(gold) in ("yes", "no"):
            assert content_key(sample.answer) == content_key(gold)
        else:
            claimed = stem[stem.rindex("\nIs the answer ") + len("\nIs the answer ") :].removesuffix("?")
            assert (sample.answer == "Yes") == (content_key(claimed) == content_key(gold))
    elif style == MULTIPLE_CHOICE:
        options = read_options(stem)
        assert read_options(options.stem).texts == ()
        right = options.texts[options.marks.index(sample.answer)]
        assert content_key(right) == content_key(gold)
        assert [content_key(text) for text in options.texts].count(content_key(gold)) == 1
    elif style == SHORT_ANSWER:
        assert SCORERS["short_answer"].score([sample.answer], [{"answer": gold}]).accuracy == 100
    else:
        assert content_key(gold) in content_key(sample.answer) or gold.rstrip(".") in sample.answer


@settings(deadline=None, max_examples=150)
@given(task=choices() | answers(), seed=st.integers(0, 9))
def test_a_rewritten_sample_is_right_or_the_task_is_refused(task, seed):
    samples, golds = task
    try:
        rewritten, origins = diversify(samples, 0.75, seed)
    except ValueError as error:
        assert str(error)  # too few samples can be rewritten: every answer is the same
        return
    assert len(origins) == round(0.75 * len(samples))
    for origin in origins:
        check(rewritten[origin.index], origin.style, golds[origin.index])


@settings(deadline=None, max_examples=60)
@given(
    boxes=st.lists(st.tuples(*[st.integers(0, 45)] * 2, *[st.integers(5, 50)] * 2), min_size=6, max_size=12),
    seed=st.integers(0, 9),
)
def test_boxes_are_right_by_their_overlap(boxes, seed):
    golds = [f"[{x / 100}, {y / 100}, {(x + w) / 100}, {(y + h) / 100}]" for x, y, w, h in boxes]
    question = "Give the box of the region described by the sentence 'number {}' in the format [x1, y1, x2, y2]."
    samples = [Sample(question.format(i), gold) for i, gold in enumerate(golds)]
    rewritten, origins = diversify(samples, 0.75, seed)
    for origin in origins:
        new, gold = rewritten[origin.index], golds[origin.index]
        _, stem, _ = split_question(new.question)
        if origin.style == YES_NO:
            claimed = parse_box(stem[stem.index("[") : stem.index("]") + 1])
            assert (new.answer == "Yes") == (box_iou(claimed, parse_box(gold)) > 0.5)
        elif origin.style == MULTIPLE_CHOICE:
            options = read_options(stem)
            overlaps = [box_iou(parse_box(text), parse_box(gold)) > 0.5 for text in options.texts]
            assert [mark for mark, right in zip(options.marks, overlaps, strict=True) if right] == [new.answer]
        else:
            assert gold in new.answer


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_every_form_are_multiple_choice(name):
    before, after, joint = LISTS[name]
    samples = []
    for i in range(8):
        listed = joint.join(f"{before}{mark}{after}{text}" for mark, text in zip("ABC", WORDS[:3], strict=True))
        samples.append(Sample(f"Which is number {i}?\n{listed}", "ABC"[i % 3]))
    assert native_style(samples) == MULTIPLE_CHOICE


UNREADABLE = "Options: Maine | Ohio | Utah"


def letters(line="", question="Which is number {}?", answer="ABC", count=12):
    samples = []
    for i in range(count):
        samples.append(
            Sample(question.format(i) + (f"\n{FORMAT_LINES[line]}" if line else ""), answer[i % len(answer)])
        )
    return samples


@pytest.mark.parametrize("scored_as", [None, MULTIPLE_CHOICE])
def test_letters_that_nobody_can_read_are_refused_by_name(scored_as):
    samples = letters(question=f"Which is number {{}}?\n{UNREADABLE}")
    with pytest.raises(ValueError, match=r"letters or numbers that may stand for options|only 0 can be"):
        diversify(samples, 0.5, 0, scored_as=scored_as)


def test_the_scorer_settles_the_style_against_a_line():
    samples = letters(SHORT_ANSWER, f"Which is number {{}}?\n{UNREADABLE}")
    assert native_style(samples) == SHORT_ANSWER  # the line says that a letter is the answer itself
    assert native_style(samples, MULTIPLE_CHOICE) == MULTIPLE_CHOICE
    with pytest.raises(ValueError, match=r"style 'multiple_choice' are to be rewritten, but only 0 can be"):
        diversify(samples, 0.5, 0, scored_as=MULTIPLE_CHOICE)


def test_the_scorer_says_that_letters_are_words():
    samples = letters(question="Which letter is on sign {}?")
    assert native_style(samples, SHORT_ANSWER) == SHORT_ANSWER
    rewritten, origins = diversify(samples, 0.5, 0, scored_as=SHORT_ANSWER)
    for origin in origins:
        check(rewritten[origin.index], origin.style, origin.answer)


def test_the_style_of_another_dataset_of_the_task_stays_its_own():
    """A task scored by multiple choice may be trained on captions and short answers too."""
    words = [Sample(f"What is number {i}?", WORDS[i % 4]) for i in range(12)]
    captions = [Sample(f"Describe picture {i}.", "A cat sits on a mat in front of the door.") for i in range(12)]
    assert native_style(words, MULTIPLE_CHOICE) == SHORT_ANSWER
    assert native_style(captions, MULTIPLE_CHOICE) == BRIEF


def test_a_letter_among_words_is_left_alone():
    samples = [Sample(f"What is number {i}?", WORDS[i % 4]) for i in range(12)]
    samples[3] = Sample("Which one?", "B")
    rewritten, origins = diversify(samples, 11 / 12, 0)
    assert [origin.index for origin in origins] == [i for i in range(12) if i != 3] and rewritten[3] == samples[3]


@pytest.mark.parametrize("seed", range(5))
def test_no_second_list_of_options_is_added(seed):
    """Where the list cannot be read, other styles are fine."""
    samples = [
        Sample(f"Which is number {i}? A-Maine B-Ohio C-Utah", ("Maine", "Ohio", "Utah")[i % 3]) for i in range(12)
    ]
    with pytest.raises(ValueError, match="the question has options already, and nobody knows which is right"):
        diversify(samples, 1.0, seed)
    wide = [Sample(f"Which is number {i}?\n\uff21\uff0eMaine\n\uff22\uff0eOhio", "both") for i in range(6)]
    with pytest.raises(ValueError, match="the question has options already"):
        diversify([*wide, *[Sample(f"Which is number {i}?\n(A) Maine (B) Ohio", "none") for i in range(6)]], 1.0, seed)
    some = samples[:6] + [Sample(f"What is number {i}?", WORDS[i % 4]) for i in range(6)]
    _, origins = diversify(some, 0.5, seed)
    assert all(origin.index >= 6 for origin in origins if origin.style == MULTIPLE_CHOICE)


def test_short_answers_take_the_options_of_their_question():
    options = "\nA. Maine\nB. Ohio\nC. Utah\nD. Iowa"
    samples = [Sample(f"Which is number {i}?{options}", ("Maine", "Ohio", "Utah")[i % 3]) for i in range(12)]
    rewritten, origins = diversify(samples, 1.0, 0)
    assert origins[0].native_style == SHORT_ANSWER
    for origin in origins:
        new = rewritten[origin.index]
        check(new, origin.style, origin.answer)
        if origin.style == MULTIPLE_CHOICE:
            assert sorted(read_options(split_question(new.question)[1]).texts) == ["Iowa", "Maine", "Ohio", "Utah"]


CAPTIONS = {
    "chinese": "图中是一位穿着红色外套的老人坐在公园的长椅上,旁边有一只黄色的小狗正在看着他手里的面包。",
    "thai": "ชายชราสวมเสื้อโค้ทสีแดงนั่งอยู่บนม้านั่งในสวนสาธารณะข้างๆมีสุนัขสีเหลืองตัวเล็กมองดูขนมปังในมือของเขา",
    "japanese": "赤いコートを着た老人が公園のベンチに座り、黄色い小さな犬が彼の手の中のパンを見ています。",
}


@pytest.mark.parametrize("script", CAPTIONS)
def test_captions_in_scripts_without_blanks_are_explanations(script):
    samples = [Sample(f"{i}?", CAPTIONS[script]) for i in range(8)]
    assert native_style(samples) in EXPLANATIONS
    with pytest.raises(ValueError, match="cannot be shortened by rule"):
        diversify(samples, 0.5, 0)


def test_short_answers_in_scripts_without_blanks_are_rewritten():
    samples = [Sample(f"什么颜色 {i}?", ("红色。", "蓝色", "黑色和白色", "白色")[i % 4]) for i in range(16)]
    rewritten, origins = diversify(samples, 1.0, random.Random(0).randrange(9))
    assert origins[0].native_style == SHORT_ANSWER
    for origin in origins:
        new = rewritten[origin.index]
        check(new, origin.style, origin.answer)
        assert "。." not in new.answer and "。?" not in new.question
        if origin.style == MULTIPLE_CHOICE and "白色" in origin.answer:
            # the part of an answer is no wrong answer, nor is the whole of a part
            texts = set(read_options(split_question(new.question)[1]).texts)
            assert not {"黑色和白色", "白色"} <= texts
        if origin.style in (BRIEF, DETAILED):
            assert new.answer.endswith(("。", "."))
