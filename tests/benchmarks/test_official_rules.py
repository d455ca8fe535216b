"""The shared official rules, by the worked examples of their scripts."""

import shutil
from importlib.util import find_spec

import pytest

from sefe_plugin.benchmarks.captions import caption_faults, caption_metrics, caption_score
from sefe_plugin.benchmarks.official import OFFICIAL_RULES, RULES, official_accuracy


STATES, OTHER = "Which states have the lowest value?\nBe succinct.", "What is the value?"

EQUALITY = [("goldfish", "Goldfish", 1), ("b", "B", 1), ("B.", "B", 0), ("three", "3", 0), ("B) 2", "B", 0)]
AI2D = [
    ("No, there is", "no", 1),
    ("notable", "no", 1),
    ("unknown areas", "no", 0),
    ("piano bar", "no", 1),
    ("10", "1", 1),
    ("110 m2", "10", 1),
    ("Going ahead", "Going ahead.", 0),
    ("It is going ahead.", "Going ahead.", 1),
    # a gold answer of one word loses its periods; of a prediction with blanks one neighbour must be a sign of an end
    ("stop", "Stop.", 1),
    ("it stops", "stop", 1),
    ("nonstop, now", "stop", 1),
    ("unstoppable thing", "stop", 0),
    ("Unanswerable, no", "no", 0),
    ("unanswerable, no", "no", 1),
]
PVQA = [
    ("not seen", "no", 1),
    ("Yes.", "yes", 1),
    ("the liver", "liver", 1),
    ("hepatic", "liver", 0),
    ("whatever", "", 1),
    ("Unanswerable", "", 0),
]
FINVIS = [
    ("A.", "A", 1),
    ("Yes. ", "Yes", 1),
    ("N o.", "No", 1),
    ("A. The price rose", "A", 0),
    ("no", "No", 1),
    ("Unanswerable", "unanswerable", 0),
]
SCI = [
    ("AI2D_3.png", OTHER, "A", "a", 1),
    ("AI2D_3.png", OTHER, "a.", "a", 0),
    *((f"{kind}_1_2.png", STATES, "Ohio, iowa", "ohio", 0) for kind in ("AI2D", "TQA", "VQA", "SciVerse")),
    ("MapQA_1.png", STATES, "iowa,ohio", "Iowa, Ohio", 0.5),
    ("MapQA_1.png", STATES, "ohio, iowa", "iowa, ohio", 0),
    ("MapQA_1.png", STATES, "iowa, ohio", "iowa, ohio", 1),
    ("MapQA_1.png", STATES, "iowa, ohio, utah, texas", "iowa, ohio", 1),
    ("MapQA_1.png", OTHER, "in $1,200", "$1,200", 1),
    ("MapQA_1.png", OTHER, "Unanswerable $1,200", "$1,200", 0),
]
ANLS = [
    ("car", "cat", 0.667),
    ("Cat", ["dog", "cat"], 1),
    ("", "cat", 0),
    ("2019", "2018", 0.75),
    ("no", "yes", 0),
    (" Cat ", "cat", 1),
]


@pytest.mark.parametrize(
    ("rule", "prediction", "gold", "score"),
    [
        (rule, *row)
        for rule, rows in (("viz_wiz", EQUALITY), ("ai2d", AI2D), ("pvqa", PVQA), ("finvis", FINVIS), ("anls", ANLS))
        for row in rows
    ],
)
def test_each_row_of_the_published_rules(rule, prediction, gold, score):
    row = {"prediction": prediction, "answer": gold}
    assert official_accuracy(rule, [row]) == pytest.approx(100 * score, abs=0.05)


@pytest.mark.parametrize(("image", "question", "prediction", "gold", "score"), SCI)
def test_sci_reads_the_name_of_the_image_and_the_question(image, question, prediction, gold, score):
    row = {"prediction": prediction, "answer": gold}
    for layout in (
        {"image": f"Sci/images/{image}", "text": question},
        {"images": [f"Sci/images/{image}"], "messages": [{"role": "user", "content": question}]},
        {"image": image, "text": "Which states?" if question == OTHER else "What?", "prompt": question},
    ):
        assert official_accuracy("sci", [{**row, **layout}]) == 100 * score


def test_the_last_record_of_an_id_has_the_gold_answer_and_every_prediction_counts():
    rows = [{"prediction": text, "answer": gold, "question_id": 7} for text, gold in (("a", "b"), ("b", "a"))]
    assert official_accuracy("viz_wiz", rows) == 50
    for row in rows:
        del row["question_id"]
    assert official_accuracy("viz_wiz", rows) == 0


@pytest.mark.parametrize(
    ("rule", "row", "message"),
    [
        *((rule, {"answer": 3}, "needs a text as 'answer', got 3") for rule in RULES if rule != "anls"),
        ("anls", {"answer": 3}, "needs a text or several as 'answer'"),
        ("anls", {"answers": []}, "needs a text or several as 'answer'"),
        ("sci", {"answer": "a"}, "needs the path of its image as 'image'"),
        ("sci", {"answer": "a", "image": "MapQA_1.png"}, "needs its question as 'text'"),
        ("caption", {"captions": []}, "needs a caption with words, or a list of them, as 'captions'"),
        ("caption", {"answer": 3}, "needs a caption with words, or a list of them, as 'answer'"),
    ],
)
def test_a_row_that_lacks_what_its_rule_needs_is_named(rule, row, message):
    with pytest.raises(ValueError, match=message):
        official_accuracy(rule, [{"prediction": "a", **row}])


def test_the_rules_are_listed():
    assert set(OFFICIAL_RULES) == {*RULES, "caption"}


REFERENCES = [
    ["A dog runs on the grass.", "A brown dog running through grass.", "The dog is running."],
    ["Two people sit on a bench.", "A man and a woman on a park bench.", "People sitting outside."],
    ["A can of soda on a table.", "A red soda can.", "Quality issues are too severe to recognize visual content."],
]
FIRST = [texts[0] for texts in REFERENCES]
NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
#: Predictions, the seven metrics and their mean, as pycocoevalcap 1.2 computes them with Java 17.
CAPTIONS = [
    (FIRST, (100, 100, 100, 100, 100, 100, 386.2199), 140.8886),
    (
        ["a dog running on grass", "two people sitting on a bench", "a cat"],
        (85.4733, 68.9108, 39.7518, 0.0058, 36.5388, 62.1103, 135.9999),
        61.2558,
    ),
    ([*FIRST[1:], FIRST[0]], (36.8421, 15.1744, 0.0001, 0, 9.6227, 27.8961, 1.4008), 12.9909),
    (["", *FIRST[1:]], (73.5141, 73.5141, 73.5141, 73.5141, 67.3077, 66.6667, 249.5479), 96.7970),
]

needs_java = pytest.mark.skipif(
    shutil.which("java") is None or find_spec("pycocoevalcap") is None,
    reason="the official score of captions needs Java and pip install 'sefe-plugin[captions]'",
)


@needs_java  # METEOR takes ten seconds to start, each time
@pytest.mark.parametrize(
    ("predictions", "metrics", "mean"),
    [pytest.param(*row, marks=[pytest.mark.slow] * (number != 1)) for number, row in enumerate(CAPTIONS)],
)
def test_captions_by_the_official_package(predictions, metrics, mean):
    found = caption_metrics(predictions, REFERENCES)
    assert [*found] == [*NAMES]
    assert [*found.values()] == pytest.approx(metrics, abs=1e-4)
    rows = [{"prediction": p, "captions": c} for p, c in zip(predictions, REFERENCES, strict=True)]
    assert caption_score(rows) == pytest.approx(mean, abs=1e-4)
    # the order of the rows says nothing, because each holds its own captions
    assert official_accuracy("caption", rows[::-1]) == pytest.approx(mean, abs=1e-4)


@needs_java
@pytest.mark.slow
def test_captions_of_any_characters_stay_in_their_lines():
    odd = "a\ndog\r\x85\u2028\u2029\x0b\x0c\x1c ||| \ud800 runs on the grass"
    assert caption_metrics([odd, *FIRST[1:]], REFERENCES)["BLEU-1"] > 70


@pytest.mark.parametrize("there", [(), ("java",), ("pycocoevalcap",)])
def test_what_the_official_captions_lack_is_named(monkeypatch, there):
    module = "sefe_plugin.benchmarks.captions"
    monkeypatch.setattr(f"{module}.find_spec", lambda name: name if name in there else None)
    monkeypatch.setattr(f"{module}.shutil.which", lambda name: name if name in there else None)
    faults = caption_faults()
    assert ["Java" in fault for fault in faults if "PATH" in fault] == [True] * ("java" not in there)
    assert any("sefe-plugin[captions]" in fault for fault in faults) == ("pycocoevalcap" not in there)
    with pytest.raises(ValueError, match="The official score of captions needs"):
        official_accuracy("caption", [{"prediction": "a dog", "captions": ["a dog"]}])
