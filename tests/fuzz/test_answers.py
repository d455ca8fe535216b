"""Any text as an answer: parsers never fail; rules refuse a test record that lacks what they need by ValueError."""

import json

from fuzzing import broken, fuzzed, only, scalars, values
from hypothesis import strategies as st

from sefe_plugin.answers.any_box import box_in
from sefe_plugin.answers.boxes import box_iou, box_notation, fewest_decimals, parse_box, place_in_words, strip_zeros
from sefe_plugin.answers.numbers import quantities_in, read_quantity
from sefe_plugin.answers.options import mentions_options, option_mark, read_options
from sefe_plugin.answers.reading import holds_words, said_option, said_quantity, said_yes_no, says_phrase, unwrapped
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
from sefe_plugin.benchmarks.official import RULES
from sefe_plugin.benchmarks.official import official_accuracy as shared_accuracy
from sefe_plugin.evaluation.scorers import NO_SCORER, SCORERS, score_predictions, scorer_of, spec_faults
from sefe_plugin.evaluation.scorers.base import MOST_ACCURACY


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
        unwrapped,
        box_in,
        read_quantity,
        quantities_in,
        said_option,
        said_quantity,
        said_yes_no,
    ):
        read(text)
    said_option(text, read_options(text, numbers=True))
    holds_words(text, text)
    says_phrase(text, [text, "yes", "no"])
    in_words(text, "<image>")
    assert normalize_answer(text) is not None
    assert 0 <= soft_accuracy(text, [text] * 3 + ["a"] * 7) <= 1


FIELDS = st.sampled_from(
    [
        *("answer", "answers", "answer_bbox", "num_choices", "size", "question_id", "gold", "image", "images"),
        *("text", "prompt", "choices", "captions", "messages"),
    ]
)
GOOD = [
    {"answer": "A", "num_choices": 3, "answers": ["a"] * 10, "answer_bbox": "[0, 0, 1, 1]", "size": [3, 4]},
    {"answer": "red", "question_id": "7", "answers": ["a"] * 10, "answer_bbox": "[0, 0, 0, 0]", "size": [0, 0]},
    {"answer": "iowa, ohio", "image": "a/MapQA_1.png", "text": "Which states?", "answer_bbox": "[0, 0, 1, 1]"},
    {"answer": "B", "image": "AI2D_1.png", "text": "Which?\nA. cat\nB. dog", "answer_bbox": "[0, 0, 1, 1]"},
    {"answer": "$1,200", "image": "MapQA_1.png", "messages": [{"role": "user", "content": "How many?"}]},
    {"answer": "Yes", "captions": ["a dog"], "answer_bbox": "[0.1, 0.2, 0.5, 1]", "size": [3, 4], "text": "Is it?"},
]
#: What models answer, whole and broken, and any other text.
PREDICTIONS = broken(
    *(
        b"The answer is **(B)** because it barks.",
        b"iowa, ohio",
        b"$1,200",
        b"Yes, it is.",
        b"three dogs",
        b"Answer: B",
    ),
    *(b'```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "dog"}]\n```', b"[0, 0, 1, 1]", b"3 + 4 = 7", b"A) cat"),
).map(lambda data: data.decode(errors="surrogateescape")) | st.text(max_size=60)


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
    rule=st.sampled_from(list(RULES)),
    rows=st.lists(
        st.tuples(st.sampled_from(GOOD), st.dictionaries(FIELDS, values, max_size=2), PREDICTIONS),
        min_size=1,
        max_size=4,
    ),
)
def test_shared_official_rules(folder, rule, rows):
    rows = [{**good, **odd, "prediction": prediction} for good, odd, prediction in rows]
    with only(ValueError):
        assert 0 <= shared_accuracy(rule, rows) <= 100


@fuzzed(rule=st.sampled_from(list(RULES)), good=st.sampled_from(GOOD), prediction=PREDICTIONS)
def test_shared_official_rules_score_every_prediction(folder, rule, good, prediction):
    whole = {"image": "MapQA_1.png", "text": "?", **good, "prediction": prediction}
    assert 0 <= shared_accuracy(rule, [whole]) <= 100


#: Scorers with options beside those without; the judge is no rule.
SPECS = [
    *(name for name in SCORERS if name not in ("judge", "regex")),
    {"name": "number", "tolerance": 0.05, "units": "required"},
    {"name": "box", "box_scale": "pixel"},
    {"name": "regex", "pattern": "answer is \\W*(\\w+)"},
    {"name": "exact_match", "ignore_case": True, "ignore_punctuation": True, "ignore_articles": True},
]


@fuzzed(
    spec=st.sampled_from(SPECS),
    record=st.dictionaries(FIELDS, values, max_size=4),
    good=st.sampled_from(GOOD),
    prediction=PREDICTIONS,
)
def test_scorers_score_whatever_they_have_checked(folder, spec, record, good, prediction):
    scorer, record = scorer_of(spec), {**good, **record}
    try:
        scorer.check(record)
    except ValueError:
        record = good
        try:
            scorer.check(record)
        except ValueError:
            return
    scores = score_predictions(spec, [prediction], [record])
    assert scores.accuracy is None if spec == NO_SCORER else 0 <= scores.accuracy <= MOST_ACCURACY
    assert scores.lenient is None or scores.accuracy <= scores.lenient <= 100
    assert scores.format is None or scores.accuracy <= scores.format


@fuzzed(
    spec=values | st.dictionaries(st.sampled_from(["name", "tolerance", "pattern", "file", "x"]), values, max_size=3)
)
def test_specs_of_any_structure(folder, spec):
    if spec_faults(spec):
        with only(ValueError):
            scorer_of(spec)


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
