import pytest
from hypothesis import given
from hypothesis import strategies as st

from sefe_plugin.evaluation.scorers import NO_SCORER, Score, SetScore, judge_predictions, score_predictions
from sefe_plugin.evaluation.scorers import SCORERS as ALL_SCORERS


#: The scorers of answer styles; those of other kinds stand in test_other_scorers.py.
STYLES = ("multiple_choice", "short_answer", "text_vqa", "class_name", "box", "yes_no")
SCORERS = {name: ALL_SCORERS[name] for name in STYLES}
RIGHT, WRONG, LOST = Score(1.0, True), Score(0.0, True), Score(0.0, False)
RECORDS = {
    "multiple_choice": {"answer": "B", "num_choices": 4},
    "short_answer": {"answer": "red car"},
    "text_vqa": {"answer": "red car", "answers": ["Red car."] * 4 + ["red"] * 2 + ["a blue bike"] * 4},
    "class_name": {"answer": "great white shark"},
    "box": {"answer_bbox": "[0.10, 0.10, 0.50, 0.50]", "size": [640, 480]},
    "yes_no": {"answer": "Yes"},
}


@pytest.mark.parametrize(
    ("scorer", "prediction", "score"),
    [
        *[("multiple_choice", text, RIGHT) for text in ("B", " B\n", "B.", "(B)", "B. Leaves", "B: Leaves")],
        *[("multiple_choice", text, RIGHT) for text in ("(B) Leaves", "B) Leaves", "(B). Leaves")],
        *[("multiple_choice", text, WRONG) for text in ("A", "D.", "(C)")],
        *[("multiple_choice", text, LOST) for text in ("b", "", "E", "Leaves", "The answer is B.", "B or C", "AB")],
        *[("short_answer", text, RIGHT) for text in ("red car", "Red Car.", " red car ", "red car .")],
        *[
            ("short_answer", text, WRONG)
            for text in ("car", "blue", "12", "a big blue car", "yes", "U.S.", "red car..")
        ],
        *[
            ("short_answer", text, LOST)
            for text in ("", "B", "B.", "It is red.", "The answer is red car.", "red\ncar")
        ],
        *[("short_answer", text, LOST) for text in ("[0.1, 0.2, 0.3, 0.4]", "one two three four five")],
        *[("text_vqa", text, RIGHT) for text in ("red car", "the red car", "Blue bike")],
        *[("text_vqa", text, WRONG) for text in ("car", "12")],
        *[("text_vqa", text, LOST) for text in ("", "B", "The answer is red car.", "[0.1, 0.2, 0.3, 0.4]")],
        *[("class_name", text, RIGHT) for text in ("a Great-White_shark.", "the great white  shark")],
        *[("class_name", text, WRONG) for text in ("shark", "white great shark", "greatwhiteshark")],
        *[("class_name", text, LOST) for text in ("", "A", "The object is a great white shark.")],
        *[("box", text, RIGHT) for text in ("[0.1, 0.1, 0.5, 0.5]", "[.1,.1,.5,.31]", "[1e-1, .1, 5E-1, 0.5]")],
        *[
            ("box", text, WRONG)
            for text in ("[0.1, 0.1, 0.5, 0.3]", "[0.6, 0.6, 0.9, 0.9]", "[0.5, 0.5, 0.1, 0.1]", "[0., 0., 1., 1.]")
        ],
        *[("box", text, LOST) for text in ("", "0.1, 0.1, 0.5, 0.5", "[0.1, 0.1, 0.5]", "It is [0.1, 0.1, 0.5, 0.5]")],
        *[("yes_no", text, RIGHT) for text in ("Yes", "yes.", " YES")],
        *[("yes_no", text, WRONG) for text in ("No", "no.")],
        *[("yes_no", text, LOST) for text in ("", "A", "Yes, it is.", "true")],
    ],
)
def test_each_rule(scorer, prediction, score):
    assert SCORERS[scorer].rule(prediction, RECORDS[scorer]) == score


@pytest.mark.parametrize("scorer", SCORERS)
def test_answers_in_the_style_of_another_task_lose_the_format(scorer):
    answers = {
        "multiple_choice": "B",
        "short_answer": "red car",
        "box": "[0.10, 0.10, 0.50, 0.50]",
        "brief": "The answer is red car.",
        "detailed": "The question is: What is it? Looking at the image, the answer is red car.",
    }
    own = {"class_name": "short_answer", "text_vqa": "short_answer"}.get(scorer, scorer)
    assert [style for style in answers if SCORERS[scorer].rule(answers[style], RECORDS[scorer]).formatted] == [
        style for style in answers if style == own
    ]


@given(st.sampled_from(list(SCORERS)), st.text(alphabet="ABredcar gwhitshk.,[]0123456789yesno()\n", max_size=30))
def test_a_lost_format_is_never_right(scorer, prediction):
    score = SCORERS[scorer].rule(prediction, RECORDS[scorer])
    assert 0 <= score.correct <= 1
    assert score.formatted or score.correct == 0


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_gold_answer_is_right(scorer):
    record = RECORDS[scorer]
    assert SCORERS[scorer].rule(record.get("answer", record.get("answer_bbox")), record) == RIGHT


@pytest.mark.parametrize("scorer", SCORERS)
def test_silence_is_never_right_and_every_gold_that_passes_can_be_matched(scorer):
    SCORERS[scorer].check(RECORDS[scorer])
    for silence in ("", " ", "\n", ".", " . "):
        assert SCORERS[scorer].rule(silence, RECORDS[scorer]) == LOST


@pytest.mark.parametrize(
    ("scorer", "record", "message"),
    [
        *[("short_answer", {"answer": gold}, "a text that is not empty") for gold in ("", " ", "\n", ".")],
        *[("class_name", {"answer": gold}, "a text that is not empty") for gold in ("", "_", "- ")],
        ("text_vqa", {"answers": [""] * 10}, "a text that is not empty"),
        ("text_vqa", {"answer": ""}, "a text that is not empty"),
        ("multiple_choice", {"answer": "E", "num_choices": 4}, "one of its `num_choices` options, .* got 'E'"),
        ("multiple_choice", {"answer": "A", "num_choices": 0}, "one of its `num_choices` options, .* got 'A'"),
        *[
            ("multiple_choice", {"answer": "A", "num_choices": count}, "whole number as 'num_choices'")
            for count in (None, "3", True, 3.0, [3])
        ],
        *[
            ("box", {"answer_bbox": box}, "x1 < x2 and y1 < y2")
            for box in ("[0.5, 0.5, 0.2, 0.3]", "[0.1, 0.1, 0.1, 0.5]", "[0, 0, 0, 0]")
        ],
        *[
            ("box", {"answer_bbox": box}, "written as")
            for box in ("", "[]", "[0.1, 0.2, 0.3]", "[nan, 0, 1, 1]", "[0, 0, 1e999, 1]")
        ],
        *[
            (scorer, {SCORERS[scorer].gold: gold}, "needs a text")
            for scorer in SCORERS
            for gold in (None, 3, 0.5, ["red"], {"text": "red"}, True)
        ],
        *[(scorer, {}, "needs a text") for scorer in SCORERS],
    ],
)
def test_a_gold_that_no_answer_can_match_is_refused(scorer, record, message):
    with pytest.raises(ValueError, match=message):
        SCORERS[scorer].check(record)


@given(st.sampled_from(list(SCORERS)), st.text(alphabet="ABbre _-.,;[]01\n\u0301\u00e9", max_size=12))
def test_a_gold_is_refused_or_repeating_it_is_right_and_silence_wrong(scorer, gold):
    record = {SCORERS[scorer].gold: gold}
    try:
        SCORERS[scorer].check(record)
    except ValueError:
        return
    assert SCORERS[scorer].rule(gold, record) == RIGHT
    assert SCORERS[scorer].rule("", record) == LOST


def test_accents_are_equal_however_they_are_written():
    assert SCORERS["short_answer"].rule("cafe\u0301", {"answer": "caf\u00e9"}) == RIGHT


def test_the_best_of_ten_answers_is_the_one_that_most_gave():
    record = RECORDS["text_vqa"]
    assert SCORERS["text_vqa"].best_answer(record) == "Red car."
    SCORERS["text_vqa"].check({"answers": [f"answer {i}" for i in range(10)]})  # all of them are worth a little


def test_text_vqa_counts_annotators_and_falls_back_to_the_single_answer():
    # two of ten: (2 * 1/3 + 8 * 2/3) / 10, ten terms below 1
    assert SCORERS["text_vqa"].rule("red", RECORDS["text_vqa"]).correct == pytest.approx(0.6, abs=1e-12)
    single = {"answer": "red car"}
    for text in ("red car", "red", "It is a red car."):
        assert SCORERS["text_vqa"].rule(text, single) == SCORERS["short_answer"].rule(text, single)
    with pytest.raises(ValueError, match="list of 10 texts as 'answers'"):
        SCORERS["text_vqa"].rule("red", {"answer": "red", "answers": ["red"]})


@pytest.mark.parametrize(
    "gold", ["B", "The Origin of the Species and Other Long Titles", "12:30", "Hello there, world."]
)
def test_any_gold_phrase_is_right_and_formatted(gold):
    assert SCORERS["short_answer"].rule(gold, {"answer": gold}) == RIGHT


def test_the_longer_the_gold_the_longer_a_formatted_answer_may_be():
    assert SCORERS["short_answer"].rule("a b c d e f", {"answer": "one two three"}).formatted
    assert not SCORERS["short_answer"].rule("a b c d e f g", {"answer": "one two three"}).formatted


def test_an_iou_of_exactly_a_half_is_wrong():
    assert SCORERS["box"].rule("[0, 0, 2, 1]", {"answer_bbox": "[0, 0, 2, 2]"}) == WRONG


def test_shares_are_percent():
    result = score_predictions("multiple_choice", ["B", "A", "Leaves"], [RECORDS["multiple_choice"]] * 3)
    assert result.count == 3
    # One division of small whole numbers.
    assert [result.accuracy, result.format] == pytest.approx([100 / 3, 200 / 3], abs=1e-12)


@pytest.mark.parametrize(
    ("scorer", "predictions", "records", "message"),
    [
        ("bleu", ["x"], [{"answer": "x"}], "`scorer` must be one of multiple_choice, .*; got 'bleu'."),
        ("yes_no", ["yes"], [], "1 predictions for 0 records"),
        ("yes_no", [], [], "there must be some"),
        ("yes_no", ["yes"], [{"text": "x"}], "'yes_no', test record 0: needs a text as 'answer', got None"),
        ("short_answer", ["3"], [{"answer": 3}], "needs a text as 'answer', got 3"),
        ("yes_no", ["yes", "yes"], [{"answer": "no"}, {"answer": "maybe"}], "record 1: .*yes or no, got 'maybe'"),
        ("multiple_choice", ["A"], [{"answer": "Leaves"}], "option's letter, got 'Leaves'"),
        ("box", ["A"], [{"answer_bbox": "0.1, 0.2"}], "written as '.x1, y1, x2, y2.', got '0.1, 0.2'"),
    ],
)
def test_faults_are_named(scorer, predictions, records, message):
    with pytest.raises(ValueError, match=message):
        score_predictions(scorer, predictions, records)


@pytest.mark.parametrize("scorer", SCORERS)
def test_single_answers_are_judged_as_the_whole_set_is_scored(scorer):
    record = RECORDS[scorer]
    answers = ["B", "red car", "Yes", "[0.10, 0.10, 0.50, 0.50]", "great white shark", "", "The answer is red car."]
    each, whole = (ask(scorer, answers, [record] * len(answers)) for ask in (judge_predictions, score_predictions))
    assert 100 * sum(score.correct for score in each) / len(each) == pytest.approx(whole.accuracy)
    assert 100 * sum(score.formatted for score in each) / len(each) == pytest.approx(whole.format)
    assert 0 < whole.accuracy < 100
    with pytest.raises(ValueError, match=f"scorer '{scorer}', test record 1: "):
        judge_predictions(scorer, ["B", "B"], [record, {}])


@pytest.mark.parametrize("record", [{}, {"answer": None}, {"answer": "red"}, {"answer_bbox": 7}])
def test_without_a_scorer_every_record_is_taken_and_no_answer_is_worth_anything(record):
    ALL_SCORERS[NO_SCORER].check(record)
    assert score_predictions(NO_SCORER, ["red", ""], [record] * 2) == SetScore(None, None, 2)
    assert ALL_SCORERS[NO_SCORER].best_answer(record) == (record.get("answer") or "")
