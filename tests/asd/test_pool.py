import random
from collections import Counter

import pytest

from sefe_plugin.answers.boxes import box_iou, parse_box
from sefe_plugin.answers.styles import MULTIPLE_CHOICE, SHORT_ANSWER
from sefe_plugin.asd.items import parse_item
from sefe_plugin.asd.pool import AnswerPool, shuffled
from sefe_plugin.data.sample import Sample, UnsuitableSampleError


def draw(samples, sample, count=3, seeds=50, native=SHORT_ANSWER):
    pool = AnswerPool(samples, native)
    item = parse_item(sample, native, pool.shares)
    return [pool.distractors(item, count, random.Random(seed)) for seed in range(seeds)]


def test_wrong_answers_differ_from_the_gold_and_each_other_whatever_the_case():
    answers = ["Cat", "cat", "CAT.", "dog", "Dog", "hen", "cow", "cow."]
    samples = [Sample("What is it?", answer) for answer in answers]
    for drawn in draw(samples, samples[0]):
        assert sorted(text.rstrip(".").casefold() for text in drawn) == ["cow", "dog", "hen"]


def test_the_same_question_comes_first():
    samples = [Sample("Who wrote it?", name) for name in ("Ann", "Bob", "Cid", "Dan", "Eve")]
    samples += [Sample(f"What is the title {i}?", f"title {i}") for i in range(50)]
    assert {text for drawn in draw(samples, samples[0]) for text in drawn} == {"Bob", "Cid", "Dan", "Eve"}


def test_the_same_opening_comes_before_the_kind():
    samples = [Sample(f"What color is {i}?", name) for i, name in enumerate(("red", "blue", "green", "pink"))]
    samples += [Sample(f"Who is {i}?", f"person {i}") for i in range(50)]
    assert {text for drawn in draw(samples, samples[0]) for text in drawn} == {"blue", "green", "pink"}


def test_numbers_are_confused_with_numbers_while_there_are_some():
    samples = [Sample(f"{word} many?", number) for word, number in zip("abcd", "1234", strict=True)]
    samples += [Sample(f"{i}?", f"word {i}") for i in range(50)]
    assert {text for drawn in draw(samples, samples[0]) for text in drawn} == {"2", "3", "4"}
    few = samples[:2] + samples[4:]
    for drawn in draw(few, samples[0]):
        assert "2" in drawn and len(drawn) == 3


def test_draws_follow_the_frequency_of_the_answers():
    samples = [Sample("What?", "often")] * 80 + [Sample("What?", f"rare {i}") for i in range(20)]
    counts = Counter(drawn[0] for drawn in draw(samples, samples[-1], count=1, seeds=1000))
    # 80 of the 99 admissible draws; the standard deviation is 0.0125, the band is 4 of them.
    assert abs(counts["often"] / 1000 - 80 / 99) < 0.05


def test_a_small_task_offers_what_it_has_and_none_is_an_error():
    two = [Sample("What?", "cat"), Sample("What?", "dog")]
    assert draw(two, two[0], seeds=3) == [["dog"]] * 3
    with pytest.raises(UnsuitableSampleError, match="no answer other than 'cat'"):
        draw(two[:1], two[0])


def test_words_are_never_confused_with_yes_or_no():
    samples = [Sample("What?", "cat"), Sample("What?", "yes"), Sample("What?", "dog")]
    assert draw(samples, samples[0], seeds=20) == [["dog"]] * 20


def test_ocr_tokens_come_first_but_not_parts_of_the_gold():
    line = "Reference OCR token: dakota, DIGITAL, dakota digital camera, 42, menu, exit, save"
    samples = [Sample(f"What?\n{line}", "dakota digital"), Sample("What?\nReference OCR token: ", "sony")]
    for drawn in draw(samples, samples[0]):
        assert sorted(drawn) == ["exit", "menu", "save"]


def test_wrong_boxes_overlap_the_gold_by_at_most_a_half():
    rng = random.Random(0)
    boxes = [sorted((rng.random(), rng.random())) + sorted((rng.random(), rng.random())) for _ in range(40)]
    question = "described by the sentence 'x' in the format [x1, y1, x2, y2]."
    samples = [Sample(question, f"[{x1:.2f}, {y1:.2f}, {x2:.2f}, {y2:.2f}]") for x1, x2, y1, y2 in boxes]
    samples.append(Sample(question, "[0.00, 0.00, 1.00, 1.00]"))
    for sample in samples:
        for drawn in draw(samples, sample, seeds=5, native="box"):
            assert len(set(drawn)) == 3
            assert all(box_iou(parse_box(text), parse_box(sample.answer)) <= 0.5 for text in drawn)


def test_boxes_beyond_the_unit_square_are_no_shares_and_wrong_ones_are_not_made_up():
    question = "described by the sentence 'x' in the format [x1, y1, x2, y2]."
    assert AnswerPool([Sample(question, "[0.1, 0.2, 0.3, 1.0]")], "box").shares
    # Of these images nobody knows the size: a box made up beside the first may lie outside of its image.
    texts = ("[200, 10, 320, 240]", "[1, 2, 40, 60]", "[500, 300, 640, 480]", "[0, 0, 90, 90]")
    samples = [Sample(question, text) for text in texts]
    assert not AnswerPool(samples, "box").shares
    assert {text for drawn in draw(samples, samples[0], native="box") for text in drawn} == set(texts[1:])


@pytest.mark.parametrize("places", [1, 2, 3])
@pytest.mark.parametrize("fixed", [True, False])
def test_boxes_are_made_up_in_the_notation_of_the_data(places, fixed):
    """Either every number has as many decimals, or none ends in a zero that Python's own rounding leaves out."""
    rng, question = random.Random(0), "described by the sentence 'x' in the format [x1, y1, x2, y2]."

    def written(number):
        return f"{number:.{places}f}" if fixed else str(round(number, places))

    boxes = [sorted((rng.random(), rng.random())) + sorted((rng.random(), rng.random())) for _ in range(60)]
    samples = [Sample(question, f"[{', '.join(map(written, (x1, y1, x2, y2)))}]") for x1, x2, y1, y2 in boxes]
    own = {sample.answer for sample in samples}
    drawn = {text for sample in samples for texts in draw(samples, sample, seeds=3, native="box") for text in texts}
    made_up = drawn - own
    assert len(made_up) > 50
    assert all(text == f"[{', '.join(map(written, parse_box(text)))}]" for text in made_up)


@pytest.mark.parametrize(
    ("gold", "same"), [("2", "two"), ("dog", "a dog"), ("t-shirt", "T shirt"), ("Dont.", "don't")]
)
def test_the_gold_in_another_spelling_is_not_wrong(gold, same):
    samples = [Sample("What is it?", answer) for answer in (gold, same, "hen", f"the {same}", "cow", "yak", "a cow")]
    for drawn in draw(samples, samples[0]):
        assert sorted(text.removeprefix("a ") for text in drawn) == ["cow", "hen", "yak"]


@pytest.mark.parametrize(
    ("gold", "near"),
    [
        ("black and white", ("white", "Black", "white & black", "black, white and red")),
        ("red", ("red and white", "dark red")),
        ("soda can", ("can", "a soda", "soda can lid")),
        ("grey", ("gray", "light gray", "Grey.")),
        ("2 dogs", ("two dogs", "dogs", "2")),
        ("and", ("&",)),
    ],
)
def test_parts_of_the_gold_and_the_gold_with_more_around_it_are_not_wrong(gold, near):
    samples = [Sample("What is it?", answer) for answer in (gold, *near, "hen", "cow", "12")]
    for drawn in draw(samples, samples[0]):
        assert set(drawn) == {"hen", "cow", "12"}
    with pytest.raises(UnsuitableSampleError, match="that is clearly wrong"):
        draw(samples[:-3], samples[0], seeds=1)


@pytest.mark.parametrize(("gold", "offered"), [("sony", {"menu", "exit"}), ("Sony", {"MENU", "Exit"})])
def test_the_case_of_ocr_tokens_does_not_give_the_gold_away(gold, offered):
    sample = Sample("What?\nReference OCR token: MENU, Exit, SONY", gold)
    assert all(set(drawn) == offered for drawn in draw([sample], sample))


def test_signs_and_articles_alone_still_differ():
    samples = [Sample("Which?", answer) for answer in ("+", "-", "=", "A")]
    assert {text for drawn in draw(samples, samples[0]) for text in drawn} == {"-", "=", "A"}


def test_options_are_as_different_as_their_texts():
    sample = Sample("Which genotype?\nA. ff\nB. FF\nC. Ff\nD. FF.", "B")
    for drawn in draw([sample], sample, native=MULTIPLE_CHOICE):
        assert sorted(drawn) == ["Ff", "ff"]


def test_answers_and_tokens_with_placeholders_are_never_offered():
    line = "Reference OCR token: <image>, menu"
    samples = [Sample(f"What?\n{line}", answer) for answer in ("sony", "<image>", "exit")]
    assert {text for drawn in draw(samples, samples[0]) for text in drawn} == {"menu", "exit"}


def test_shuffles_are_uniform():
    counts = Counter(tuple(shuffled("abc", random.Random(seed))) for seed in range(6000))
    assert len(counts) == 6
    # 1000 expected for each order, standard deviation 29; the band is 5 of them.
    assert all(abs(count - 1000) < 145 for count in counts.values())
