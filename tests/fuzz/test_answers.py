"""Any text as an answer: parsers never fail; rules refuse a test record that lacks what they need by ValueError."""

import json

from fuzzing import broken, fuzzed, only, scalars, values
from hypothesis import strategies as st

from sefe_plugin.answers.boxes import box_iou, box_notation, fewest_decimals, parse_box, place_in_words, strip_zeros
from sefe_plugin.answers.options import mentions_options, option_mark, read_options
from sefe_plugin.answers.styles import BRIEF, MULTIPLE_CHOICE, SHORT_ANSWER, YES_NO
from sefe_plugin.answers.text_vqa import normalize_answer, soft_accuracy, text_vqa_answers
from sefe_plugin.answers.texts import (
    answer_key,
    answer_kind,
    content_key,
    content_words,
    in_words,
    option_letter,
    split_question,
)
from sefe_plugin.asd.items import Item
from sefe_plugin.asd.writer.questions import Entry
from sefe_plugin.asd.writer.replies import read_json_reply, read_plain_reply
from sefe_plugin.benchmarks.coin.official import OFFICIAL, official_accuracy
from sefe_plugin.evaluation.scorers import NO_SCORER, SCORERS


BOXES = (b"[0.76, 0.33, 0.99, 0.65]", b"[0,0,1,1]", b"[1e-3, .5, 1., -0.25]")
QUESTIONS = (
    b"<image>\nWhat is it?\nA. a dog\nB. a cat\nAnswer with the option's letter from the given choices directly.",
    "<image>Who\u2028is it? (B) it's two o'clock. Answer the question using a single word or phrase.".encode(),
    b"(B) The queen's two-door cars dont stop.",
)
REPLY = [
    {"index": i, "question": f"What color is it, part {i}?", "text": "It is red.", "distractors": ["a", "b", "c"]}
    for i in (1, 2)
]
REPLIES = (
    json.dumps(REPLY).encode(),
    json.dumps({"entries": REPLY}, indent=1).encode(),
    b"<think>hm</think>```json\n" + json.dumps(REPLY).encode() + b"\n```",
    b"1. green\n2. blue\n- yellow",
)


@fuzzed(data=broken(*BOXES) | st.binary(max_size=60))
def test_boxes(folder, data):
    text = data.decode(errors="surrogateescape")
    box = parse_box(text)
    if box is not None:
        assert 0 <= box_iou(box, (0, 0, 1, 1)) <= 1 or box_iou(box, (0, 0, 1, 1)) != box_iou(box, (0, 0, 1, 1))
        place_in_words(box)
        box_notation(text)
        strip_zeros(text, fewest_decimals(text))


@fuzzed(data=broken(*QUESTIONS) | st.text(max_size=80).map(lambda text: text.encode(errors="surrogatepass")))
def test_texts(folder, data):
    text = data.decode(errors="surrogateescape")
    for read in (
        split_question,
        read_options,
        option_mark,
        mentions_options,
        option_letter,
        answer_key,
        content_key,
        content_words,
        answer_kind,
    ):
        read(text)
    in_words(text, "<image>")
    assert normalize_answer(text) is not None
    assert 0 <= soft_accuracy(text, [text] * 3 + ["a"] * 7) <= 1


FIELDS = st.sampled_from(["answer", "answers", "answer_bbox", "num_choices", "size", "question_id", "gold"])
GOOD = [
    {"answer": "A", "num_choices": 3, "answers": ["a"] * 10, "answer_bbox": "[0, 0, 1, 1]", "size": [3, 4]},
    {"answer": "red", "question_id": "7", "answers": ["a"] * 10, "answer_bbox": "[0, 0, 0, 0]", "size": [0, 0]},
]


@fuzzed(
    task=st.sampled_from(list(OFFICIAL)),
    rows=st.lists(
        st.tuples(
            st.sampled_from(GOOD),
            st.dictionaries(FIELDS, values | st.lists(scalars, min_size=10, max_size=10), max_size=3),
            st.text(max_size=30) | st.sampled_from(["[0, 0, 1, 1]", "[nan, 0, inf, 1]", "The answer is B.", "A"]),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_official_rules(folder, task, rows):
    rows = [{**good, **odd, "prediction": prediction} for good, odd, prediction in rows]
    with only(ValueError):
        assert 0 <= official_accuracy(task, rows) <= 100
    with only(ValueError):
        text_vqa_answers(rows[0])


@fuzzed(
    name=st.sampled_from(list(SCORERS)),
    record=st.dictionaries(FIELDS, values, max_size=4),
    good=st.sampled_from(GOOD),
    prediction=st.text(max_size=40),
)
def test_scorers_score_whatever_they_have_checked(folder, name, record, good, prediction):
    scorer, record = SCORERS[name], {**good, **record}
    try:
        scorer.check(record)
    except ValueError:
        return
    from sefe_plugin.evaluation.scorers import score_predictions

    scores = score_predictions(name, [prediction], [record])
    assert scores.accuracy is None if name == NO_SCORER else 0 <= scores.accuracy <= 100


@fuzzed(
    data=broken(*REPLIES) | st.text(max_size=80).map(lambda text: text.encode(errors="surrogatepass")),
    style=st.sampled_from([BRIEF, MULTIPLE_CHOICE, SHORT_ANSWER, YES_NO]),
)
def test_replies_give_texts_or_faults(folder, data, style):
    items = [Item("<image>\n", f"What color is it, part {i}?", gold) for i, gold in ((1, "red"), (2, "blue"))]
    entries = {i: Entry(item, style, False, item.question) for i, item in enumerate(items, start=1)}
    reply = data.decode(errors="surrogateescape")
    found, faults = read_json_reply(reply, entries)
    assert len(found) + len(faults) == 2
    found, faults = read_plain_reply(reply, {1: entries[1]})
    assert len(found) + len(faults) == 1


@fuzzed(reply=values, wrap=st.booleans())
def test_replies_of_any_structure(folder, reply, wrap):
    item = Item("<image>\n", "What color is it, part 1?", "red")
    text = json.dumps([{**REPLY[0], "index": reply, "text": reply, "question": reply}] if wrap else reply)
    found, faults = read_json_reply(text, {1: Entry(item, BRIEF, False, item.question)})
    assert len(found) + len(faults) == 1
