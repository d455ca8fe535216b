"""Captions without Java: equal to pycocoevalcap 1.2 on its fixture, METEOR left out."""

import pytest

from sefe_plugin.evaluation.captions import caption_parts, references_of, words_of


REFERENCES = [
    ["A dog runs on the grass.", "A brown dog running through grass.", "The dog is running."],
    ["Two people sit on a bench.", "A man and a woman on a park bench.", "People sitting outside."],
    ["A can of soda on a table.", "A red soda can.", "Quality issues are too severe to recognize visual content."],
]
FIRST = [texts[0] for texts in REFERENCES]
NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [
        (FIRST, (100, 100, 100, 100, 100, 386.2199)),
        (
            ["a dog running on grass", "two people sitting on a bench", "a cat"],
            (85.4733, 68.9108, 39.7518, 0.0058, 62.1103, 135.9999),
        ),
        ([*FIRST[1:], FIRST[0]], (36.8421, 15.1744, 0.0001, 0, 27.8961, 1.4008)),
        (["", *FIRST[1:]], (73.5141, 73.5141, 73.5141, 73.5141, 66.6667, 249.5479)),
        (["", "", ""], (0, 0, 0, 0, 0, 0)),
    ],
)
def test_the_six_metrics(predictions, expected):
    parts = caption_parts(predictions, REFERENCES)
    assert [*parts] == [*NAMES]
    assert [*parts.values()] == pytest.approx(expected, abs=1e-4)


def test_case_punctuation_and_order_do_not_matter():
    odd = ["a DOG runs, on the grass!", *FIRST[1:]]
    assert caption_parts(odd, REFERENCES) == caption_parts(FIRST, REFERENCES)
    assert caption_parts(FIRST[::-1], REFERENCES[::-1]) == pytest.approx(caption_parts(FIRST, REFERENCES))


def test_words_of_any_script():
    assert words_of("Ein Hündchen, l'été!") == ["ein", "hündchen", "l'été"]


@pytest.mark.parametrize("record", [{}, {"answer": ""}, {"captions": [" . "]}, {"captions": ["a", 3]}])
def test_a_record_without_captions_is_refused(record):
    with pytest.raises(ValueError, match="needs a caption with words"):
        references_of(record)
