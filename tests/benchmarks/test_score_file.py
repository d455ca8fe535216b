"""Predictions of any benchmark's task, scored from their file."""

import json

import pytest

from sefe_plugin.benchmarks.score_file import score_file
from sefe_plugin.cli import main


def write(folder, *rows):
    file = folder / "p.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("benchmark", "task", "rows", "official", "clean"),
    [
        # "notable" holds "no" for the script of MLLM-DCL; the clean rule wants the word
        ("dcl", "RS", [("notable", "no"), ("no", "no")], 100, 50),
        ("dcl", "Fin", [("N o.", "No"), ("No", "No")], 100, 50),
        ("trigap", "DocVQA", [("not", "no"), ("no", "no")], 100 * (2 / 3 + 1) / 2, 100 * (2 / 3 + 1) / 2),
        ("ucit", "IconQA", [("B", "B"), ("C", "B")], 50, 50),
    ],
)
def test_each_benchmark_has_its_rules(tmp_path, benchmark, task, rows, official, clean):
    file = write(tmp_path, *({"prediction": prediction, "answer": answer} for prediction, answer in rows))
    for mode, accuracy in (("official", official), ("clean", clean)):
        score = score_file(task, file, mode, benchmark)
        assert score.accuracy == pytest.approx(accuracy), mode
        assert score.count == 2


def test_captions_have_no_format(tmp_path, capsys):
    rows = [{"prediction": text, "captions": [text, "another"]} for text in ("a red bus", "two dogs on a lawn")]
    file = write(tmp_path, *rows)
    assert score_file("Flickr30k", file, "clean", "ucit").formatted is None
    assert main(["score", "Flickr30k", str(file), "--benchmark", "ucit"]) == 0
    assert "format" not in capsys.readouterr().err
    bad = write(tmp_path, rows[0], {"prediction": "a cat"})
    for mode in ("clean", "official"):
        with pytest.raises(ValueError, match=r"p\.jsonl, line 2: a row of Flickr30k: needs a caption"):
            score_file("Flickr30k", bad, mode, "ucit")


def test_unknown_names_are_told(tmp_path, capsys):
    file = write(tmp_path, {"prediction": "3", "answer": "3"})
    with pytest.raises(ValueError, match=r"must be one of coin, .*got 'dlc'\. Did you mean `dcl`\?"):
        score_file("RS", file, "clean", "dlc")
    with pytest.raises(ValueError, match=r"must be one of RS, .*got 'Rs'\."):
        score_file("Rs", file, "clean", "dcl")
    with pytest.raises(ValueError, match="styles has no official rule for Counting"):
        score_file("Counting", file, "official", "styles")
    assert score_file("Counting", file, "clean", "styles").accuracy == 100
    assert main(["score", "runs/mine", "--benchmark", "dcl"]) != 0
    assert "`--benchmark` is for a file" in capsys.readouterr().err
