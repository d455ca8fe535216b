"""docs/scorers.md: every example holds, and every scorer has one."""

import re
import runpy

import pytest

from sefe_plugin.evaluation.scorers import SCORERS, Scorer, read_spec, score_predictions, scorer_of
from sefe_plugin.files import shipped_folder


PAGE = (shipped_folder("docs") / "scorers.md").read_text(encoding="utf-8")
ROWS = [
    tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
    for line in PAGE.partition("In a recipe it is a name")[0].splitlines()
    if line.startswith("| `") and "gold answer" not in line
]


def number(cell):
    return None if cell == "-" else pytest.approx(100 * float(cell), abs=0.05)


@pytest.mark.parametrize(("scorer", "answer", "gold", "score", "formatted", "lenient"), ROWS)
def test_every_example_of_the_page_holds(scorer, answer, gold, score, formatted, lenient):
    spec, answer, gold = read_spec(scorer.strip("`")), answer.strip("`"), gold.strip("`")
    own = scorer_of(spec)
    found = score_predictions(spec, [answer], [{own.gold: gold}])
    assert (found.accuracy, found.format, found.lenient) == (number(score), number(formatted), number(lenient))


def test_every_scorer_has_an_example_or_a_section():
    shown = {re.match(r"`(?:\{name: )?(\w+)", row[0]).group(1) for row in ROWS}
    assert {*SCORERS} - shown == {"text_vqa", "explanation", "caption", "judge", "none"}
    for name in SCORERS:
        assert f"`{name}`" in PAGE.partition("## Which one")[2]


def test_a_scorer_of_ones_own_works_as_shown(tmp_path):
    source = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    (tmp_path / "my_package.py").write_text(source)
    scorer = runpy.run_path(str(tmp_path / "my_package.py"))["scorer"]
    assert isinstance(scorer, Scorer)
    scorer.check({"answer": "red"})
    assert scorer.score(["der", "red"], [{"answer": "red"}] * 2).accuracy == 50
