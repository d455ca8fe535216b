import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from sefe_plugin.answers.styles import EXPLANATIONS, MULTIPLE_CHOICE, SHORT_ANSWER, STYLES, YES_NO
from sefe_plugin.asd.rules import other_styles
from sefe_plugin.asd.writer.templates import Prompts, Task, load_task
from sefe_plugin.files import shipped_folder


SHIPPED = shipped_folder("data_templates") / "asd"
COIN = {"ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCRVQA"}
GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden.json").read_text(encoding="utf-8"))
VALUES = {"items": "[ITEMS]", "question": "QUESTION", "answer": "ANSWER"}


def test_the_eight_tasks_are_described_as_they_are():
    assert set(yaml.safe_load((SHIPPED / "tasks.yaml").read_text())) == COIN == set(GOLDEN)
    for name in COIN:
        assert load_task(name, SHIPPED).native_style == GOLDEN[name]["native"]
    per_image = {name for name in COIN if load_task(name, SHIPPED).per_image}
    assert per_image == {"GQA", "VQAv2", "OCRVQA", "Grounding"}


@pytest.mark.parametrize(
    ("task", "styles"),
    [
        ("ScienceQA", set(EXPLANATIONS)),
        ("ImageNet", set(EXPLANATIONS)),
        ("Grounding", set(EXPLANATIONS)),
        *(
            (task, {YES_NO, MULTIPLE_CHOICE, *EXPLANATIONS})
            for task in ("TextVQA", "GQA", "VizWiz", "VQAv2", "OCRVQA")
        ),
    ],
)
def test_a_model_writes_what_the_paper_had_a_model_write(task, styles):
    prompts = Prompts(SHIPPED, load_task(task, SHIPPED))
    assert prompts.styles == styles
    forms = {YES_NO: '"distractor": "..."', MULTIPLE_CHOICE: '"distractors": ["...", "...", "..."]'}
    for style in styles:
        prompt = prompts.ask(style, VALUES)
        assert "[ITEMS]" in prompt and "$" not in prompt
        assert forms.get(style, '"text": "..."') in prompt.splitlines()[-1]


@pytest.mark.parametrize("native", [*STYLES, "box"])
def test_every_style_has_a_kind_with_prompts(native):
    prompts = Prompts(SHIPPED, Task().resolved(native))
    expected = set(other_styles(native)) if native in EXPLANATIONS else set(EXPLANATIONS)
    assert expected <= prompts.styles


def test_every_shipped_prompt_is_a_style_and_has_words_to_aim_at():
    for file in SHIPPED.glob("*/*.txt"):
        assert file.stem in STYLES
        aims = {"brief_explanation": "about 20 words", "detailed_explanation": "about 50 words"}
        if file.stem in aims and file.parent.name != "plain":
            assert aims[file.stem] in re.sub(r"\s+", " ", file.read_text())


def test_values_are_never_read_as_fields():
    prompts = Prompts(SHIPPED, Task().resolved(SHORT_ANSWER))
    assert "$answer ${items} $$" in prompts.ask(YES_NO, VALUES | {"items": "$answer ${items} $$"})
    assert "- $faults" in prompts.correct(["- $faults"])


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(SHIPPED, tmp_path / "asd")
    return tmp_path / "asd"


def test_users_add_tasks_and_kinds(folder):
    (folder / "charts").mkdir()
    (folder / "charts" / "yes_no.txt").write_text("Mine: $question costs $$5, $answer")
    (folder / "tasks.yaml").write_text("chart: {native_style: short_answer, kind: charts, columns: {axis: title}}")
    task = load_task("chart", folder)
    assert (task.kind, task.columns) == ("charts", {"axis": "title"})
    assert Prompts(folder, task).ask(YES_NO, VALUES) == "Mine: QUESTION costs $5, ANSWER"
    assert Prompts(folder, task).styles == {YES_NO}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("other: {}", "describes no task 'chart', only other"),
        ("chart: {styles: box}", r"unknown keys \['styles'\]; known are \['native_style'"),
        ("chart: {native_style: boxes}", "task chart: native style must be one of"),
        ("chart:", r"task chart needs its keys in braces, .*`chart: \{\}` to have all recognised; got None"),
        ("chart: box", "needs its keys in braces.*got 'box'"),
        ("- chart", "must hold one line"),
        ("chart: {boxes: circle}", "`boxes` must be one of"),
        ("chart: {replies: xml}", "`replies` must be one of"),
        ("chart: {replies: plain, per_image: true}", "holds one entry"),
    ],
)
def test_faulty_descriptions_are_named(folder, line, message):
    (folder / "tasks.yaml").write_text(line)
    with pytest.raises(ValueError, match=message):
        load_task("chart", folder)


def test_faulty_prompts_are_named(folder):
    (folder / "question" / "yes_no.txt").write_text("$itmes")
    with pytest.raises(ValueError, match=r"yes_no.txt: the fields of this prompt are .*found \['itmes'\]"):
        Prompts(folder, Task().resolved(SHORT_ANSWER))
    (folder / "description" / "yes_no.txt").unlink()
    with pytest.raises(ValueError, match=r"needs a prompt, STYLE.txt, for each of \['yes_no'\]"):
        Prompts(folder, Task().resolved(EXPLANATIONS[0]))
    with pytest.raises(ValueError, match="no prompts for tasks of kind 'none'"):
        Prompts(folder, Task(native_style=SHORT_ANSWER, kind="none"))
