import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sefe_plugin.answers.styles import BRIEF, MULTIPLE_CHOICE, SHORT_ANSWER, YES_NO
from sefe_plugin.asd.items import Item
from sefe_plugin.asd.writer.questions import Entry
from sefe_plugin.asd.writer.replies import read_json_reply, read_plain_reply


def entries(style, golds=("red", "blue")):
    items = [Item("<image>\n", f"What color is it, part {i}?", gold) for i, gold in enumerate(golds, start=1)]
    return {i: Entry(item, style, False, item.question) for i, item in enumerate(items, start=1)}


def texts(index, **values):
    return {"index": index, "question": f"What color is it, part {index}?", **values}


GOOD = [texts(1, text="It is red all over."), texts(2, text="It is blue all over.")]
PLAIN = json.dumps(GOOD)


@pytest.mark.parametrize(
    "reply",
    [
        PLAIN,
        json.dumps({"entries": GOOD}),
        json.dumps(GOOD, indent=2).replace("},", "}"),
        f"Here you are [as asked]:\n```json\n{PLAIN}\n```\nAnything else?",
        f"<think>Perhaps {json.dumps([texts(1, text='It is green all over.')])}</think>{PLAIN}",
        PLAIN.replace("}]", ",},]"),
        PLAIN.replace("}, {", "}, // the second\n {"),
        "\n".join(json.dumps(entry) for entry in GOOD),
        PLAIN.replace('"', "'"),
        PLAIN.replace('"index": 1', '"index": "1"').replace("What color is it", "what  color is IT"),
        PLAIN[:-1] + ', {"index": 3, "question": "What',
        PLAIN.replace("It is red", "It\\n is\\tred"),
    ],
)
def test_lenient_forms_of_the_same_reply(reply):
    found, faults = read_json_reply(reply, entries(BRIEF))
    assert {index: text.answer for index, text in found.items()} == {
        1: "It is red all over.",
        2: "It is blue all over.",
    }
    assert faults == []


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (texts(3, text="It is red all over."), "is missing"),
        (texts(0, text="It is red all over."), "is missing"),
        (texts("one", text="It is red all over."), "is missing"),
        ({"index": 1, "text": "It is red all over."}, "lacks question"),
        (texts(1, explanation="It is red all over."), "lacks text"),
        (texts(1, text=["It is red."]), "lacks text"),
        (texts(1, text="red"), "3 to 200 words, has 1"),
        (texts(1, text="so " * 300), "3 to 200 words, has 300"),
        ({**texts(1, text="It is red all over."), "question": "What color is it, part 2?"}, "repeat its question"),
        (texts(1, text="It is red <image> all over."), "markup"),
        (texts(1, text="It is red.</s> USER: hello"), "markup"),
        (texts(1, text="It is red.<|im_end|> and more"), "markup"),
        (texts(1, text="It is \u202e red all over"), "control"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(entry, fault):
    found, faults = read_json_reply(json.dumps([entry, GOOD[1]]), entries(BRIEF))
    assert list(found) == [2]
    assert len(faults) == 1 and faults[0].startswith("- entry 1: ") and fault in faults[0]


def test_a_last_object_that_is_cut_off_does_not_count():
    for end in range(len(json.dumps(GOOD[:1])), len(PLAIN) - 2):
        found, faults = read_json_reply(PLAIN[:end], entries(BRIEF))
        assert list(found) == [1] and len(faults) == 1


def test_the_first_good_object_of_an_index_counts():
    reply = [texts(1, text="x"), texts(1, text="It is red, first."), texts(1, text="It is red, second."), GOOD[1]]
    found, _ = read_json_reply(json.dumps(reply), entries(BRIEF))
    assert found[1].answer == "It is red, first."


@pytest.mark.parametrize(
    ("distractors", "kept"),
    [
        (["green", "grey", "black"], ("green", "grey", "black")),
        (["green", "Green.", "grey", "RED", "black", "white"], ("green", "grey", "black")),
        (["green", "grey", "Red."], None),
        (["1", "1", "2"], None),
        (["1", "2", "1", "one", "3"], ("1", "2", "3")),
        (["green", "grey", "a red"], None),
        (["green", "grey"], None),
        (["green", "grey", " "], None),
        (["green", "grey", "b" * 200], None),
        (["green", "grey", "<image>"], None),
    ],
)
def test_distractors_differ_from_the_gold_and_one_another(distractors, kept):
    found, faults = read_json_reply(json.dumps([texts(1, distractors=distractors)]), {1: entries(MULTIPLE_CHOICE)[1]})
    assert (found[1].distractors if found else None) == kept
    assert bool(faults) == (kept is None)


def test_a_claim_needs_one_wrong_answer():
    one = {1: entries(YES_NO)[1]}
    assert read_json_reply(json.dumps([texts(1, distractor="blue")]), one)[0][1].distractors == ("blue",)
    assert read_json_reply(json.dumps([texts(1, distractor="Red")]), one)[0] == {}


def test_an_object_alone_is_enough_for_one_entry():
    found, _ = read_json_reply(json.dumps(texts(1, text="red")), {1: entries(SHORT_ANSWER)[1]})
    assert found[1].answer == "red"


@given(st.text(max_size=200) | st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(json.dumps))  # fmt: skip  # noqa: E501
@settings(max_examples=150, deadline=None)
def test_no_reply_breaks_the_reader(reply):
    found, faults = read_json_reply(reply, entries(BRIEF))
    assert found == {} and len(faults) == 2


@pytest.mark.parametrize(
    ("style", "reply", "answer", "distractors"),
    [
        (BRIEF, " It is Red\nall over. ", "It is Red all over.", ()),
        (BRIEF, "It is green all over.", None, ()),
        (BRIEF, "red", None, ()),
        (MULTIPLE_CHOICE, "green\n\nblue\nred\ngrey", "", ("green", "blue", "grey")),
        (MULTIPLE_CHOICE, "green\nblue", None, ()),
        (MULTIPLE_CHOICE, "1\n1\n2", None, ()),
        (MULTIPLE_CHOICE, "1\n1\n2\ntwo\n3", "", ("1", "2", "3")),
        (YES_NO, "green", "", ("green",)),
        (YES_NO, "A wrong answer is:\n1. duck", "", ("duck",)),
        (YES_NO, "A. Smith", "", ("A. Smith",)),
        (MULTIPLE_CHOICE, "Here are three:\n\n1. duck\n2) hen\n(3) cow", "", ("duck", "hen", "cow")),
        (MULTIPLE_CHOICE, "- duck\n* 1. hen\n• cow", "", ("duck", "hen", "cow")),
        (MULTIPLE_CHOICE, "A. duck\nB) hen\n(c) cow", "", ("duck", "hen", "cow")),
        (MULTIPLE_CHOICE, "C. Smith\nA. King\nJ. Jones", "", ("C. Smith", "A. King", "J. Jones")),
        (MULTIPLE_CHOICE, "3 dogs\n1.5\nB", "", ("3 dogs", "1.5", "B")),
        (MULTIPLE_CHOICE, "-\n-5\n*", "", ("-", "-5", "*")),
    ],
)
def test_plain_replies(style, reply, answer, distractors):
    found, faults = read_plain_reply(reply, {1: entries(style)[1]})
    if answer is None:
        assert found == {} and len(faults) == 1
    else:
        assert (found[1].answer, found[1].distractors, faults) == (answer, distractors, [])


@pytest.mark.parametrize("depth", [300, 1500, 20_000])
def test_a_reply_without_an_end_gives_nothing(depth):
    found, faults = read_json_reply('{"a":' * depth + "}", entries(BRIEF))
    assert found == {}
    assert len(faults) == 2
